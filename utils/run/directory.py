"""The directory of a run: every path and name in it, its lock, and whether another run may replace it.

    config.yaml               the configuration
    log.txt                   what was printed; log_SUFFIX.txt of a test
    metrics.jsonl, events.*   curves
    progress.safetensors      while it trains: the last completed epoch
    checkpoint.safetensors    the trained tensors
    logits_SUFFIX.npz         with save_logits
    results.json              written last: a run that has it is complete; results_SUFFIX.json of a test

utils/run/mode.py has the suffixes.
"""

import dataclasses
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import yaml

from utils.errors import CheckpointError, ConfigError, amended
from utils.run import checkpoint, results
from utils.run.mode import Mode

TRAINING = Mode()


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """The training run that a directory records; empty fields where it records nothing.

    name, fingerprints {train, test}, counts [C]: its data set; settings, seed, epochs, started_from: its training;
    images: the records of its training images (datasets/overlap.py), None where the file is older than these.
    """

    name: str | None = None
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    counts: list[int] = dataclasses.field(default_factory=list)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    images: list[dict[str, Any]] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the run was trained with; {} where they are not recorded."""
        return self.training.get("settings", {})


@dataclasses.dataclass(frozen=True)
class RunDir:
    """A run directory, which may not exist yet."""

    path: Path

    # ---- paths ----

    @property
    def config(self) -> Path:
        """The configuration that the run was started with."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Loss, accuracy and learning rate of the logged steps, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """The state after the last completed epoch; gone when the run is complete."""
        return self.path / "progress.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The trained tensors."""
        return self.path / "checkpoint.safetensors"

    @property
    def upstream_checkpoint(self) -> Path:
        """The trained tensors as LIFT+ and LIFT themselves save them."""
        return self.path / "checkpoint.pth.tar"

    def results(self, mode: Mode = TRAINING) -> Path:
        """The results, written last."""
        return self.path / f"results{mode.file_suffix}.json"

    def log(self, mode: Mode = TRAINING) -> Path:
        """The lines that were printed, with their times."""
        return self.path / f"log{mode.file_suffix}.txt"

    def terminal(self, mode: Mode = TRAINING) -> Path:
        """The output of a command that scripts/run_all.py started."""
        return self.path / f"terminal{mode.file_suffix}.txt"

    def logits(self, mode: Mode = TRAINING) -> Path:
        """The logits of the tested images."""
        return self.path / f"logits_{mode.suffix}.npz"

    def curves(self) -> Iterator[Path]:
        """TensorBoard's files."""
        return self.path.glob("events.out.*")

    @staticmethod
    def all_results(folder: Path) -> Iterator[Path]:
        """The results files of all runs below a folder."""
        return folder.rglob("results*.json")

    # ---- state ----

    def find_results(self, mode: Mode, command: str, fingerprints: Callable[[], dict[str, str]]) -> Path | None:
        """The results of a complete run or test; None if it is not complete, or was of other images.

        A test of other images than its run's has a longer suffix: the command in the file decides. fingerprints: () ->
        those of the images, {train, test}, {} for published sets, which are known by name; called if they are needed.
        """
        path = self.results(mode)
        if path.exists():
            recorded = results.read(path).get("data", {}).get("fingerprint", {})
            same = all(results.same_images(recorded.get(split), images) for split, images in fingerprints().items())
            return path if same else None
        longer = () if mode.trains else self.path.glob(f"{path.stem}_*.json")
        return next((other for other in longer if results.read(other).get("command") == command), None)

    def saved_config(self) -> dict[str, Any]:
        """The configuration that the run was started with; {} if there is none."""
        try:
            return dict(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            return {}

    def lock(self, log: TextIO) -> None:
        """Locks the directory for one mode, by its open log file. Raises ConfigError if another process holds it."""
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            log.close()
            message = f"another process is at work in {self.path}; wait for it, or choose another output_dir"
            raise ConfigError(message, kind="run_is_locked", path=self.path) from error
        except OSError:  # a file system without locks
            return

    def find_checkpoint(self) -> Path:
        """The trained tensors: our file, else one of LIFT+ or LIFT. Raises CheckpointError if there is none."""
        if self.upstream_checkpoint.is_file() and not self.checkpoint.is_file():
            return self.upstream_checkpoint
        checkpoint.require(self.checkpoint)
        return self.checkpoint

    def training_record(self, trained: Path | None) -> TrainingRecord:
        """The training run, from its results, else from `trained`, its checkpoint. Raises CheckpointError."""
        content = results.read(self.results())
        about = checkpoint.describe(trained) if trained else {}
        data = results.data_of(content) or about.get("data", {})
        return TrainingRecord(
            name=data.get("name"),
            fingerprints=data.get("fingerprint", {}),
            counts=data.get("counts", []),
            training=results.training_of(content),
            images=about.get("trained_on"),
        )

    def first_test(self, split: str) -> TrainingRecord:
        """The data set of the first test in a directory without a training run; empty if there is none."""
        usual = re.compile(r"results_(test|train|(train_)?tte\d*(_draws\d+)?)\.json")
        files = [path for path in self.path.glob("results_*.json") if usual.fullmatch(path.name)]
        tests = [results.read(path).get("data", {}) for path in sorted(files, key=os.path.getmtime)]
        data: dict[str, Any] = next(
            (data for data in tests if data.get("split") == split and "fingerprint" in data), {}
        )
        return TrainingRecord(data.get("name"), data.get("fingerprint", {}))

    # ---- what may be replaced ----

    def require_same_run(self, settings: dict[str, Any], test_images: str, absent: dict[str, Any]) -> None:
        """Raises CheckpointError if the directory holds an unfinished run, or one of other settings or test images.

        test_images: fingerprint of their list; absent: see `checkpoint.check_identity`.
        """
        content = results.read(self.results())
        with amended(after=". Delete that run to replace it, or choose another output_dir"):
            if self.progress.exists():
                message = f"{self.progress} belongs to a run that is not finished"
                raise CheckpointError(message, kind="unfinished_run", path=self.progress)
            if "settings" not in content:
                return  # not results of ours: nothing to protect
            checkpoint.check_identity(content["settings"], settings, self.results(), absent)
            tested = content.get("data", {}).get("fingerprint", {}).get("test")
            if tested is not None and not results.same_images(tested, test_images):
                message = f"{self.results()} is of other test images; test_only True tests that run on these"
                raise CheckpointError(message, kind="other_images", path=self.results())

    def forget_earlier(self, logits: Path | None) -> None:
        """Removes the tests of an earlier run with these settings, and its logits unless they are the new ones."""
        for old in (*self.path.glob("results_*.json"), *self.path.glob("logits_*.npz")):
            if old != logits:
                old.unlink()

    def require_free(self, mode: Mode, fingerprint: str) -> None:
        """Raises ConfigError if a file of this mode holds a test of other images. fingerprint: of the list."""
        data = {} if mode.trains else results.read(self.results(mode)).get("data", {})  # else: require_same_run
        logits = results.logits_about(self.logits(mode)) or {}
        found = (
            (self.results(mode), data.get("fingerprint", {}).get(data.get("split"))),
            (self.logits(mode), logits.get("fingerprint")),
        )
        for path, other in found:
            if other is not None and not results.same_images(other, fingerprint):
                message = (
                    f"{path} holds a test of other images; keep it by giving this test a name of its own, "
                    "test_name NAME, or delete it"
                )
                raise ConfigError(message, kind="other_images", path=path)

    def mode_for_logits(self, mode: Mode, tested: dict[str, Any], labels: np.ndarray) -> Mode:
        """The mode, or where its logits are of the same images tested in another way, one with a longer suffix.

        tested: as `results.save_logits` stores it; labels: of the images. Raises ConfigError where both are taken.
        """
        self.require_free(mode, tested["fingerprint"])
        there = results.logits_about(self.logits(mode))
        if there is None:
            return mode
        if "fingerprint" not in there:  # written by an older version
            if np.array_equal(there["labels"], labels):
                return mode
            message = f"{self.logits(mode)} holds logits of other images; delete it, or give test_name NAME"
            raise ConfigError(message, kind="other_images", path=self.logits(mode))
        if results.same_test(there, tested):
            return mode
        longer = dataclasses.replace(mode, otherwise=(*mode.otherwise, *results.differences(there, tested)))
        self.require_free(longer, tested["fingerprint"])
        other = results.logits_about(self.logits(longer))
        if other is not None and not results.same_test(other, tested):
            message = f"{self.logits(longer)} holds the logits of another test; delete it, or give test_name NAME"
            raise ConfigError(message, kind="other_test", path=self.logits(longer))
        return longer
