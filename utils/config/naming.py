"""The name of a run directory: output_dir, or one from the options that change training."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.config.addresses import has_known_scheme
from utils.config.parsing import NORMALISATIONS
from utils.config.schema import FORMER_VALUES, KEEPING, KEYS
from utils.errors import ConfigError
from utils.text import visible

OUTPUT = Path("output")
MAX_BYTES = 200  # of a run directory's name; file systems allow 255, and another run's name may be added
NAMED_BY_FILE = (
    "train_list",
    "classnames",
    "prompt_file",
)  # their file's name is part of the run's name, its folder is not
# backbones of the versions in which FORMER_VALUES were defaults: these values are not part of their runs' names
FORMER_BACKBONES = {
    "clip_rn", "clip_rn101", "clip_rn50", "clip_tiny", "clip_vit", "clip_vit_b16", "clip_vit_b32", "clip_vit_l14",
    "clip_vit_l14@336px", "in1k_rn101", "in1k_rn152", "in1k_rn50", "in21k_vit_b16", "in21k_vit_b16@384px",
    "in21k_vit_l16", "in21k_vit_l16@384px", "rn", "vit",
}  # fmt: skip


def run_directory(
    name: str, before: dict[str, Any], values: dict[str, Any], warn: Callable[[str], None] = lambda line: None
) -> Path:
    """output/NAME_KEY_VALUE..., with the options that change training, in the schema's order; or output_dir.

    With keep best, the options that choose the epoch are included.

    name: DATA_BACKBONE_METHOD; before: the values without the command line. `warn` gets a line for a directory
    elsewhere. Raises ConfigError.
    """
    if values["output_dir"]:
        return _given_directory(values["output_dir"], warn)
    if values["model_dir"] and (values["test_only"] or values["test_train"]):
        return Path(values["model_dir"])
    former = FORMER_VALUES if values["backbone"] in FORMER_BACKBONES else {}
    chooses = values["keep"] == "best"  # the epoch, on validation images
    for key, value in values.items():
        from_weights = key in ("mean", "std") and value is None
        was_default = before[key] is None and value == former.get(key)
        enters = KEYS[key].affects_training or (chooses and key in KEEPING)
        if enters and value != before[key] and not (from_weights or was_default):
            name += f"_{key}_{_in_name(key, value)}"
    directory = OUTPUT / _shortened(as_directory(name + _sources(before, values, chooses)))
    if _leads_elsewhere(directory):
        warn(f"{directory} is a link, so the run is written to {os.path.realpath(directory)}")
    return directory


def _sources(before: dict[str, Any], values: dict[str, Any], chooses: bool) -> str:
    """The end of a run directory's name: files, published weights and earlier runs that its training reads.

    chooses: whether validation images choose the epoch.
    """
    keys = (*NAMED_BY_FILE, *(("val_list",) if chooses else ()))
    files = {key: Path(values[key] or "None").stem for key in keys if values[key] != before[key]}
    name = "".join(f"_{key}_{stem}" for key, stem in files.items())
    weights = values["weights"]
    if weights and has_known_scheme(weights) and weights != before["weights"]:
        name += f"_weights_{weights}"  # published weights; the path of a file is not part of the name
    for key, word in (("model_dir", "from"), ("init_from", "init_from")):
        if values[key]:
            name += f"_{word}_{Path(values[key]).name}"
    return name


def as_directory(name: str) -> str:
    """A name as a directory's name: a dash replaces each run of other characters, such as those of addresses."""
    return re.sub(r"[^\w.+@=-]+", "-", name)


def _given_directory(given: str, warn: Callable[[str], None]) -> Path:
    """The directory of output_dir. Raises a ConfigError for a relative path outside output/."""
    if visible(given) != given:
        message = f"output_dir {given} contains control characters or bidirectional marks; choose another name"
        raise ConfigError(message, kind="unsafe_name", key="output_dir")
    path = os.path.normpath(given)
    if path in (".", str(OUTPUT), os.path.abspath(OUTPUT)):
        message = f"output_dir must name a folder below {OUTPUT}/, found '{given}'; choose a name"
        raise ConfigError(message, kind="no_name", key="output_dir")
    if os.path.isabs(path):
        if not Path(path).is_relative_to(os.path.abspath(OUTPUT)):
            warn(f"output_dir {path} is an absolute path, so the run is written there and not to {OUTPUT}/")
        return Path(path)
    directory = OUTPUT / path.removeprefix(f"{OUTPUT}/")
    if path.split("/")[0] == ".." or _leads_elsewhere(directory):
        target = os.path.realpath(directory)
        message = f"output_dir {given} is outside {OUTPUT}/; if you mean that, use the absolute path {target}"
        raise ConfigError(message, kind="outside_output", key="output_dir")
    return directory


def _leads_elsewhere(directory: Path) -> bool:
    """Whether a link leads a directory out of output/, which may be a link itself."""
    target, output = (os.path.realpath(path) for path in (directory, OUTPUT))
    return not Path(target).is_relative_to(output)


def _in_name(key: str, value: Any) -> Any:
    """The value of a key in a run directory's name; known normalisations have names.

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
