"""The run that a command tests, or that its training starts from."""

import dataclasses
from pathlib import Path
from typing import Any

from utils.config.schema import UNRECORDED
from utils.errors import ConfigError
from utils.run.directory import RunDir, TrainingRecord
from utils.run.mode import TESTED_OTHERWISE, Mode, build_mode
from utils.run.results import same_images
from utils.run.saved import SavedRun, read_run


@dataclasses.dataclass(frozen=True)
class Source:
    """checkpoint: to test or to start from; None for zero-shot CLIP, and for a training from the beginning.

    record: of the training of that run; empty if nothing is tested or started from. earlier: the run of init_from; a
    training starts from its matching tensors.
    """

    checkpoint: Path | None
    record: TrainingRecord
    earlier: SavedRun | None = None


def build_source(cfg) -> Source:
    """The source that a command names. Raises CheckpointError if its checkpoint is missing or damaged."""
    tests = cfg.test_only or cfg.test_train
    directory = RunDir(Path(cfg.model_dir or cfg.output_dir))
    checkpoint = directory.find_checkpoint() if (tests or cfg.model_dir) and not cfg.zero_shot else None
    record = directory.training_record(checkpoint) if tests or checkpoint else TrainingRecord()
    if tests or not cfg.init_from:
        return Source(checkpoint, record)
    earlier = read_run(Path(cfg.init_from))
    return Source(checkpoint, RunDir(earlier.directory).training_record(earlier.checkpoint), earlier)


def build_val_fraction(cfg, record: TrainingRecord) -> float | None:
    """The val_fraction of a command; a test without one uses that of its run, if it is on the same data set.

    Raises ConfigError if a test would validate on training images of its run.
    """
    trained = record.settings
    if not (cfg.test_only or cfg.test_train) or trained.get("dataset") != cfg.dataset or cfg.val_list:
        return cfg.val_fraction
    fraction = trained.get("val_fraction")
    if cfg.val_fraction not in (None, fraction):
        message = (
            f"val_fraction {cfg.val_fraction} would validate on images that the run was trained on, as it has "
            f"val_fraction {fraction}; leave it out to use the run's own"
        )
        raise ConfigError(message, kind="other_val_fraction", key="val_fraction")
    return fraction


def build_named_mode(cfg, record: TrainingRecord, data: str, fingerprints: dict[str, str]) -> Mode:
    """The mode of a command; its names show a test of other images than its run's, or in another way.

    data, fingerprints: of the tested data set. Raises ConfigError if another test has these names.
    """
    mode = build_mode(cfg)
    if mode.trains:
        return mode
    otherwise = tuple(f"{key}_{now}" for key, (_, now) in build_differences(cfg, record).items())
    run_dir = RunDir(Path(cfg.output_dir))
    run = record if record.fingerprints else run_dir.first_test(mode.split)
    images = build_images_name(cfg, run, data, fingerprints[mode.split])
    mode = dataclasses.replace(mode, images=images, otherwise=otherwise)
    run_dir.require_free(mode, fingerprints[mode.split])
    return mode


def build_images_name(cfg, run: TrainingRecord, data: str, fingerprint: str) -> str | None:
    """The name of the tested images in file names; None for those of the run itself."""
    split = build_mode(cfg).split
    list_file = cfg[f"{split}_list"]
    if cfg.zero_shot and run.name not in (None, data):
        return cfg.test_name or data  # its shot groups are those of another data set
    if cfg.test_name or same_images(run.fingerprints.get(split, fingerprint), fingerprint):
        return cfg.test_name
    if list_file:
        return Path(list_file).stem
    return data if data != run.name else fingerprint[-8:]


def build_differences(cfg, record: TrainingRecord) -> dict[str, tuple[Any, Any]]:
    """{key: (its value in training, its value now)} for the keys in which a test differs from its training."""
    settings, seed = record.settings, record.training.get("seed")
    then = {key: settings.get(key, UNRECORDED[key]) for key in TESTED_OTHERWISE if settings}
    if cfg.tte and cfg.tte_draws and seed is not None:
        then["seed"] = seed  # of the random crops
    return {key: (value, cfg[key]) for key, value in then.items() if value != cfg[key]}
