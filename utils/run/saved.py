"""The records from which the model of a run is rebuilt without its data set."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from utils.config import Config, restored_config
from utils.config.files import flatten
from utils.errors import CheckpointError, ConfigError
from utils.run import averaging, checkpoint, results
from utils.run.directory import RunDir
from utils.text import listed

HASHES = ("weights", "prompt_file")  # settings with these names are hashes
# settings with these names are properties of the image tower's weights, from the command or their description
PROPERTIES = ("activation", "heads", "text_heads", "mean", "std")


def build_model_record(cfg: Config, resolution: int, exif_orientation: bool, bit_depth: int | None) -> dict[str, Any]:
    """The record that predictions for new images need in addition to the model's identity, settings and classes.

    exif_orientation, bit_depth: of the tested images.
    """
    read = {"resolution": resolution, "exif_orientation": exif_orientation, "bit_depth": bit_depth}
    return read | {"expand": cfg.expand, "prec_test": cfg.prec_test}


def build_model_files(cfg: Config) -> dict[str, Any]:
    """The files that a model is built from. Paths are absolute, so they are stored in results, not in a checkpoint."""
    files = {key: cfg[key] for key in HASHES}
    return {key: os.path.abspath(value) if os.path.exists(value or "") else value for key, value in files.items()}


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run as recorded in its checkpoint, or for earlier versions in config.yaml and results.json.

    checkpoint: None for zero-shot CLIP. checksum: of its content. cfg: PROPERTIES are those of its config.yaml, None
    without one. settings: those of the training, with the identity of its model. shot_groups, counts [C]: of each
    class; [] if they are not recorded. results: the content of results.json, or of the newest test; {} if there is
    none.
    """

    directory: Path
    checkpoint: Path | None
    checksum: str | None
    cfg: Config
    settings: dict[str, Any]
    classnames: list[str]
    shot_groups: list[str]
    counts: list[int]
    results: dict[str, Any]


def read_run(directory: Path) -> SavedRun:
    """Reads the run in a directory. Raises CheckpointError if it has none or its records are incomplete."""
    run_dir = RunDir(directory)
    if not directory.is_dir():
        message = f"{directory} is not a folder; name the run directory of a training, as output/NAME"
        raise CheckpointError(message, kind="no_run", path=directory)
    content = results.read(run_dir.results()) or run_dir.newest_test()
    config = run_dir.saved_config()
    is_zero_shot = _settings_of(content).get("zero_shot", config.get("zero_shot")) is True
    path = None if is_zero_shot else _find_checkpoint(run_dir)
    about = checkpoint.describe(path) if path else {}
    try:
        settings = averaging.training_of(about).get("settings") or content.get("settings") or {}
        model = content.get("model", {}) | about.get("model", {})  # only the first has paths
        options = {key: value for key, value in settings.items() if key not in HASHES + PROPERTIES}
        recorded = dict(flatten(config)) | options | model
        rows = content.get("per_class", [])
        classnames = about.get("classnames") or [row["name"] for row in rows]
        counts = about.get("data", {}).get("counts") or [int(row["train"]) for row in rows]
        if not (classnames and all(isinstance(name, str) for name in classnames)):
            raise KeyError("classnames")
        if missing := {"backbone", "dataset"} - recorded.keys():
            raise KeyError(min(missing))
        return SavedRun(
            directory,
            path,
            about.get("sha256"),
            restored_config(recorded),
            settings,
            classnames,
            about.get("shot_groups", []),
            counts if len(counts) == len(classnames) else [],
            content,
        )
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as error:
        message = (
            f"{directory} does not record how its model is built ({error}); test it once with the -d, -b, -m and "
            f"options that it was trained with, and test_only True model_dir {directory}"
        )
        raise CheckpointError(message, kind="unrecorded_run", path=directory) from error


def _settings_of(content: dict[str, Any]) -> dict[str, Any]:
    settings = content.get("settings")
    return settings if isinstance(settings, dict) else {}


def _find_checkpoint(run_dir: RunDir) -> Path:
    """The checkpoint of a run. Raises CheckpointError; it names the unfinished run, or the runs in the folder."""
    if run_dir.checkpoint.exists() or run_dir.upstream_checkpoint.exists():
        return run_dir.find_checkpoint()
    if run_dir.progress.exists():
        message = f"the run in {run_dir.path} is not finished; run its training command again to resume it"
        raise CheckpointError(message, kind="unfinished_run", path=run_dir.path)
    inner = [path.parent.name for path in sorted(run_dir.path.glob(f"*/{run_dir.checkpoint.name}"))]
    advice = f"it has these runs: {listed(inner)}" if inner else "name the run directory of a training, as output/NAME"
    raise CheckpointError(f"{run_dir.path} has no checkpoint; {advice}", kind="no_run", path=run_dir.path)
