"""The name of a run directory, from the options that change training."""

import hashlib
import re
from pathlib import Path
from typing import Any

from utils.config.parsing import NORMALISATIONS
from utils.config.schema import KEYS

OUTPUT = Path("output")
MAX_BYTES = 200  # of a run directory's name; file systems allow 255, and another run's name may follow it
NAMED_BY_FILE = ("train_list", "classnames", "prompt_file")  # these enter by their file's name, wherever it is


def run_directory(name: str, before: dict[str, Any], values: dict[str, Any]) -> Path:
    """output/NAME_KEY_VALUE..., with the options that change training, in the schema's order.

    name: DATA_BACKBONE_METHOD; before: the values without the command line.
    """
    if values["output_dir"]:
        return OUTPUT / values["output_dir"].removeprefix(f"{OUTPUT}/")
    if values["model_dir"] and (values["test_only"] or values["test_train"]):
        return Path(values["model_dir"])
    for key, value in values.items():
        from_weights = key in ("mean", "std") and value is None
        if KEYS[key].affects_training and value != before[key] and not from_weights:
            name += f"_{key}_{_in_name(key, value)}"
    for key in NAMED_BY_FILE:
        if values[key] != before[key]:
            name += f"_{key}_{Path(values[key] or 'None').stem}"
    weights = values["weights"]
    if weights and weights.startswith(("timm:", "open_clip:")) and weights != before["weights"]:
        name += f"_weights_{weights}"  # published weights; the position of a file on disk changes nothing
    if values["model_dir"]:
        name += f"_from_{Path(values['model_dir']).name}"
    return OUTPUT / _shortened(re.sub(r"[^\w.+@=-]+", "-", name))


def _in_name(key: str, value: Any) -> Any:
    """The value of a key as a run directory's name shows it; a known normalisation by its name.

    [1], the block 1, ends in a dash; 1 is the last block. Prompts in block 0, VPT's usual form, are plain 0.
    """
    if key.endswith(".pt_layers") and value in (0, (0,)):
        return "none" if value == 0 else 0
    known = next((name for name, constants in NORMALISATIONS.items() if value in constants), None)
    if known or not isinstance(value, tuple):
        return known or value
    return f"{value[0]}-" if len(value) == 1 else "-".join(map(str, value))


def _shortened(name: str) -> str:
    """The name, or its beginning and its hash if it is longer than MAX_BYTES."""
    if len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_BYTES - 9].decode(errors='ignore')}_{digest}"
