"""The name of a run directory, from the options that change training."""

import hashlib
import re
from pathlib import Path
from typing import Any

from utils.config.parsing import NORMALISATIONS
from utils.config.schema import KEYS

OUTPUT = Path("output")
LONGEST_NAME = 200  # bytes of a run directory's name; file systems allow 255, and another run's name may follow


def run_directory(name: str, before: dict[str, Any], values: dict[str, Any]) -> Path:
    """output/DATA_BACKBONE_METHOD_KEY_VALUE..., with the options that change training, in the schema's order."""
    if values["output_dir"]:
        return OUTPUT / values["output_dir"].removeprefix(f"{OUTPUT}/")
    if values["model_dir"] and (values["test_only"] or values["test_train"]):
        return Path(values["model_dir"])
    for key, value in values.items():
        from_weights = key in ("mean", "std") and value is None
        if KEYS[key].names_run and value != before[key] and not from_weights:
            value = _in_name(key, value)
            name += f"_{key}_{value}"
    for key in ("train_list", "classnames", "prompt_file"):
        if values[key] != before[key]:
            name += f"_{key}_{Path(values[key] or 'None').stem}"
    if _is_address(values["weights"]) and values["weights"] != before["weights"]:
        name += f"_weights_{values['weights']}"
    if values["model_dir"]:
        name += f"_from_{Path(values['model_dir']).name}"
    return OUTPUT / _short(re.sub(r"[^\w.+@=-]+", "-", name))


def _in_name(key: str, value: Any) -> Any:
    """The value of a key as a run directory's name shows it: of a known normalisation its name.

    [1], the block 1, ends in a dash; 1 is the last block. Prompts in block 0, VPT's usual form, are plain 0.
    """
    if key.endswith(".pt_layers") and value in (0, (0,)):
        return "none" if value == 0 else 0
    known = next((name for name, constants in NORMALISATIONS.items() if value in constants), None)
    if known or not isinstance(value, tuple):
        return known or value
    return f"{value[0]}-" if len(value) == 1 else "-".join(map(str, value))


def _short(name: str) -> str:
    """The name itself, or its beginning and a hash of it where it is longer than file systems allow."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}_{digest}"


def _is_address(weights: str | None) -> bool:
    """Published weights change the run and enter its name; the place of a file on disk does not."""
    return bool(weights) and weights.startswith(("timm:", "open_clip:"))
