"""Prints the tables of docs/backbones.md: the named backbones, and which published weights of timm and open_clip run.

    python scripts/list_backbones.py

No weights are needed: all modules have shapes and no numbers. The walk through both registries takes two minutes.
"""

import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import nn

from models.backbones import BACKBONES
from models.backbones.backbone import Backbone, BackboneConfig
from models.backbones.families.timm_modules import TRANSFORMERS
from models.weights.descriptions import Description, describe, describe_name, licence_of
from utils import terminal
from utils.errors import ModelError
from utils.home import ensure_home

# Descriptions that are on the hub only: these backbones have the sizes of the models that they were trained from.
SIZED_LIKE = {"bioclip_vit_b16": "laion2b_vit_b16", "bioclip2_vit_l14": "laion2b_vit_l14"}
LIBRARIES = ("timm", "open_clip")
NO_WEIGHTS = "no weights on the hub"
# "FEATURE KIND": one row of the table for all kinds
KINDS = re.compile(r"(.+? (?:kind|text tower)) (.+)")
MOST_KINDS = 8  # in a row


# ---- named backbones ----


def describe_named(name: str) -> Description:
    """The description of a named backbone, or one of its sizes. Raises ModelError."""
    return describe_name(SIZED_LIKE.get(name, name))


def _millions(module: nn.Module) -> str:
    """Millions of parameters."""
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:,.1f}"


def named_row(name: str) -> str:
    """The line of a named backbone: source, licence, resolution, texts, millions of parameters."""
    known = describe_named(name)
    config = known.config
    if config is None:
        raise ModelError(f"{name} has no description", kind="no_description")
    with torch.device("meta"):
        backbone = Backbone(config)
    resolution = f"{config.image.resolution}" + (f" ({known.resolution})" if known.resolution else "")
    tower, whole = _millions(backbone.image), _millions(backbone)
    texts = "no" if config.text is None else f"{config.text.context} tokens"
    cells = (f"`{name}`", f"`{BACKBONES[name].address}`", licence_of(name), resolution, texts, tower, whole)
    return f"| {' | '.join(cells)} |"


def named_table() -> list[str]:
    """A line for each named backbone, in the order of BACKBONES."""
    head = "| `-b` | source | licence | pixels | texts | image tower | whole |"
    return [head, "|---|---|---|---:|---|---:|---:|", *map(named_row, BACKBONES)]


# ---- published weights ----


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights of a registry: their config, or the feature for which they are refused."""

    library: str
    address: str
    config: BackboneConfig | None
    refused: str
    vit: bool  # whether the image tower is open_clip's own transformer, or one of timm's files TRANSFORMERS


def survey() -> Iterator[Published]:
    """All published weights of both libraries, in their order."""
    import open_clip
    import timm

    for name in timm.list_pretrained():
        yield _try(f"timm:{name}", _is_vit_of_timm(name))
    for model, tag in open_clip.list_pretrained():
        vision = (open_clip.get_model_config(model) or {})["vision_cfg"]
        trunk = vision.get("timm_model_name")
        vit = _is_vit_of_timm(trunk) if trunk else isinstance(vision["layers"], int)
        yield _try(f"open_clip:{model}/{tag}", vit)


def _is_vit_of_timm(name: str) -> bool:
    import timm

    return timm.model_entrypoint(name).__module__.rpartition(".")[2] in TRANSFORMERS


def _try(address: str, vit: bool) -> Published:
    """The config of the weights at an address, or the feature for which they are refused."""
    config, refused = None, ""
    try:
        known = describe(address)
        config = known.config if known else None
    except ModelError as error:
        if error.kind not in ("unsupported_feature", "unknown_weights"):
            raise
        found = re.search(r": it has (.*), which is not supported here", str(error))
        refused = found[1].partition(" {")[0] if found else NO_WEIGHTS
    return Published(address.partition(":")[0], address, config, refused, vit)


def counts_table(published: list[Published]) -> list[str]:
    """A line for each library: its published weights, and those that run."""
    lines = ["| library | weights | that run | with a ViT | that run |", "|---|---:|---:|---:|---:|"]
    for library in LIBRARIES:
        found = [each for each in published if each.library == library]
        vits = [each for each in found if each.vit]
        cells = (len(found), sum(not each.refused for each in found), len(vits), sum(not each.refused for each in vits))
        lines.append(f"| {library} | {' | '.join(f'{count:,}' for count in cells)} |")
    return lines


def refused_table(published: list[Published]) -> list[str]:
    """A line for each feature for which weights are refused, the most frequent first."""
    rows: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    for each in published:
        if each.refused:
            split = KINDS.fullmatch(each.refused)
            feature = split[1] if split else each.refused
            rows.setdefault(feature, Counter())[each.library] += 1
            if split:
                kinds.setdefault(feature, Counter())[split[2]] += 1
    lines = ["| feature | timm | open_clip | kinds |", "|---|---:|---:|---|"]
    for feature, counts in sorted(rows.items(), key=lambda row: (-row[1].total(), row[0])):
        cells = (feature, *(str(counts[library] or "") for library in LIBRARIES), _kinds(kinds.get(feature, Counter())))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _kinds(counts: Counter[str]) -> str:
    """The most frequent kinds, with their numbers of weights."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [f"{kind} {count}" for kind, count in ordered[:MOST_KINDS]]
    others = len(ordered) - len(words)
    return ", ".join(words + ([f"{others} more kinds"] if others else []))


def main() -> int:
    """Prints the tables."""
    published = list(survey())
    for table in (named_table(), counts_table(published), refused_table(published)):
        terminal.say("\n".join(table) + "\n")
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main())
