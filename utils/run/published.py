"""The published accuracy of a run that was trained and tested as in its paper, from scripts/published.yaml."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from utils.config import Config, completed, load_config, training_options
from utils.config.schema import FORMER_VALUES
from utils.run.record import Result, expand_given

PUBLISHED = Path(__file__).resolve().parents[2] / "scripts" / "published.yaml"
HOW_ONLY = {"seed", "deterministic", "prec_train", "accum_step"}  # change rounding or random draws, not the method
OF_WEIGHTS = {"mean", "std", "activation", "heads", "text_heads"}  # describe the weights, which are compared
TTE_EXPAND = 24  # pixels; the default with several crops
RESOLUTION = 224  # pixels; of the backbones without another one in their names


def read_published(path: Path = PUBLISHED) -> dict[str, Any]:
    """The content of published.yaml."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def find_published(result: Result, published: dict[str, Any]) -> tuple[float | None, str]:
    """The published accuracy of a run that was trained and tested in the same way, and its source; or None and "".

    published: the content of published.yaml.
    """
    whole = published["images"].get(result.data)
    if not (result.usual and whole and list(whole) == result.sizes):
        return None, ""
    for entry in published["results"]:
        value = entry["overall"].get(result.data, {}).get(result.crops)
        if value is not None and _is_as_published(result, _published_config(result.data, entry, result.crops)):
            return value, entry["source"]
    return None, ""


def _published_config(data: str, entry: dict[str, Any], crops: int) -> Config:
    """The configuration of a published run: of `model` in LIFT's form, or of `backbone` and `method`."""
    options = tuple(str(text) for pair in (entry.get("options") or {}).items() for text in pair)
    options += ("tte", "True", "tte_crops", str(crops)) if crops > 1 else ()
    return _config(data, entry.get("backbone"), entry.get("model") or entry["method"], options)


@functools.cache
def _config(data: str, backbone: str | None, method: str, options: tuple[str, ...]) -> Config:
    # published values are of backbones whose descriptions have these
    return completed(load_config(data, backbone, method, list(options)), FORMER_VALUES)


def _is_as_published(result: Result, paper: Config) -> bool:
    """Whether a run has the settings of a published one, up to rounding and random draws."""
    wanted = {"backbone": paper.backbone} | training_options(paper)
    same = all(result.settings.get(key) == wanted[key] for key in wanted.keys() - HOW_ONLY - OF_WEIGHTS)
    described = any(f" {key} " in f" {result.command} " for key in OF_WEIGHTS)  # by hand, so possibly otherwise
    # a configuration may name other weights than the published ones of its backbone, as LIFT's in21k_vit_b16 does
    weights = result.weights == paper.weights if paper.weights else result.published_weights
    return same and weights and not described and _has_usual_expand(result, paper.expand)


def _has_usual_expand(result: Result, expand: int | None) -> bool:
    """Whether a run was tested with the default expand. expand: of its configuration; None: the general default."""
    pixels = re.search(r"@(\d+)px$", result.backbone)
    one_crop = int(pixels[1] if pixels else RESOLUTION) // 7
    usual = expand if expand is not None else TTE_EXPAND if result.crops > 1 else one_crop
    given = expand_given(result.command)
    return result.tested.get("expand", usual if given is None else given) == usual
