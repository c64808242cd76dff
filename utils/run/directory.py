"""The directory of a run: every path and name in it, its lock, and whether another run may replace it.

    config.yaml               the configuration
    log.txt                   the printed lines; log_SUFFIX.txt of a test
    metrics.jsonl, events.*   curves
    progress.safetensors      during training: the last saved step
    checkpoint.safetensors    the trainable parameters
    predictions_SUFFIX.csv    the predictions of a test, one line per image
    logits_SUFFIX.npz         with save_logits
    report.html               a page about the run; report_SUFFIX.html about a test
    adjustment.json           the adjustment of its logits, by scripts/adjust.py
    results.json              written last: a run that has it is complete; results_SUFFIX.json of a test
    unfinished/               while a complete run is trained again: the new files, published once they are complete

utils/run/mode.py has the suffixes.
"""

import contextlib
import dataclasses
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import yaml

from utils.errors import CheckpointError, ConfigError, amended
from utils.files import PARTIAL, open_to_append, read_limited, write_errors
from utils.run import averaging, checkpoint, results
from utils.run.lock import lock
from utils.run.mode import Mode

TRAINING = Mode()
CONFIG_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """The training run that a directory records; fields without a record are empty.

    name, fingerprints {train, test} and maybe val, counts [C]: its data set; settings, seed, epochs, started_from: its
    training; images: the records of its training images (datasets/overlap.py), None if the file is older than these.
    is_foreign: whether the checkpoint in the directory is not the one that its results were computed from; the record
    is the one of the checkpoint then.
    """

    name: str | None = None
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    counts: list[int] = dataclasses.field(default_factory=list)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    images: list[dict[str, Any]] | None = None
    is_foreign: bool = False
    checksum: str | None = None  # of the checkpoint

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the run was trained with; {} if they are not recorded."""
        return self.training.get("settings", {})

    def compared_with(self, settings: dict[str, Any]) -> str:
        """Describes how the training differs from one with these settings."""
        if not self.settings:
            return "an unknown training"
        recorded = self.settings
        differing = [f"{key} {recorded[key]}" for key, value in settings.items() if recorded.get(key, value) != value]
        return f"a training with {', '.join(differing[:5])}" if differing else "another training with these settings"


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
        """Loss, accuracy and learning rate of the logged steps, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """The state after the last saved step; removed once the run is complete."""
        return self.path / "progress.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The trainable parameters."""
        return self.path / "checkpoint.safetensors"

    @property
    def upstream_checkpoint(self) -> Path:
        """The trainable parameters as LIFT+ and LIFT themselves save them."""
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

    def predictions(self, mode: Mode = TRAINING) -> Path:
        """The predictions for the tested images: utils/predictions.py."""
        return self.path / f"predictions_{mode.suffix}.csv"

    def report(self, mode: Mode = TRAINING) -> Path:
        """The page about the run, or about a test."""
        return self.path / f"report{mode.file_suffix}.html"

    @property
    def adjustment(self) -> Path:
        """The adjustment of the run's logits: utils/adjustment.py."""
        return self.path / "adjustment.json"

    def curves(self) -> list[Path]:
        """TensorBoard's files."""
        return sorted(self.path.glob("events.out.*"))

    @property
    def unfinished(self) -> "RunDir":
        """The files of a training that repeats a complete run, until it is complete itself."""
        return RunDir(self.path / "unfinished")

    @staticmethod
    def all_results(folder: Path) -> Iterator[Path]:
        """The results files of all runs below a folder."""
        return folder.rglob("results*.json")

    # ---- state ----

    def find_results(self, mode: Mode, command: str, fingerprints: Callable[[], dict[str, str]]) -> Path | None:
        """The results of a complete run or test; None if it is not complete, or was of other images.

        A test of other images than its run's has a longer suffix and is found by its command. fingerprints: () ->
        those of the images, {train, test} and maybe val, {} for published sets, which are identified by name; called
        only if needed.
        """
        path = self.results(mode)
        if path.exists():
            data = results.read(path).get("data", {})
            if data.get("split", mode.split) != mode.split:
                return None
            recorded = data.get("fingerprint", {})
            same = all(results.same_images(recorded.get(split), images) for split, images in fingerprints().items())
            return path if same else None
        longer = () if mode.trains else self.path.glob(f"{path.stem}_*.json")
        return next((other for other in longer if results.read(other).get("command") == command), None)

    def saved_config(self) -> dict[str, Any]:
        """The configuration that the run was started with; {} if there is none."""
        try:
            return dict(yaml.safe_load(read_limited(self.config, CONFIG_BYTES)))
        except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
            return {}

    def open_log(self, mode: Mode) -> TextIO:
        """The log of a mode, open for appending, which locks the directory for it.

        Raises OSError, and a ConfigError if another process holds the lock.
        """
        while True:
            log = open_to_append(self.log(mode))
            if not lock(log):
                log.close()
                message = f"another process is at work in {self.path}; wait for it, or choose another output_dir"
                raise ConfigError(message, kind="run_is_locked", path=self.path)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(log.fileno()), os.stat(self.log(mode))):
                    return log
            log.close()  # a process that failed to start has removed it meanwhile

    def find_checkpoint(self) -> Path:
        """The checkpoint: this program's, else one of LIFT+ or LIFT. Raises CheckpointError if there is none."""
        if self.upstream_checkpoint.is_file() and not self.checkpoint.is_file():
            return self.upstream_checkpoint
        checkpoint.require(self.checkpoint)
        return self.checkpoint

    def training_record(self, trained: Path | None) -> TrainingRecord:
        """The training run, from its results and from `trained`, its checkpoint. Raises CheckpointError."""
        content = results.read(self.results())
        about = checkpoint.describe(trained) if trained else {}
        recorded, own = results.training_of(content), averaging.training_of(about)
        is_foreign = self._is_foreign(content, about) if trained else False
        data = about.get("data", {}) if is_foreign else results.data_of(content) or about.get("data", {})
        return TrainingRecord(
            name=data.get("name"),
            fingerprints=data.get("fingerprint", {}),
            counts=data.get("counts", []),
            training=own if is_foreign else recorded or own,
            images=about.get("trained_on"),
            is_foreign=is_foreign,
            checksum=about.get("sha256"),
        )

    @staticmethod
    def _is_foreign(content: dict[str, Any], about: dict[str, Any]) -> bool:
        """Whether results are not of the checkpoint `about`: by checksum, or in older files by seed and settings."""
        if checksum := content.get("checkpoint"):
            return checksum != about.get("sha256")
        recorded, own = results.training_of(content), averaging.training_of(about)
        return bool(recorded and own) and recorded != own

    def first_test(self, split: str) -> TrainingRecord:
        """The data set of the first test in a directory without a training run; empty if there is none."""
        usual = re.compile(r"results_(test|train|val|((train|val)_)?tte\d*(_draws\d+)?)\.json")
        files = [path for path in self.path.glob("results_*.json") if usual.fullmatch(path.name)]
        tests = [results.read(path).get("data", {}) for path in sorted(files, key=os.path.getmtime)]
        data: dict[str, Any] = next(
            (data for data in tests if data.get("split") == split and "fingerprint" in data), {}
        )
        return TrainingRecord(data.get("name"), data.get("fingerprint", {}))

    def newest_test(self) -> dict[str, Any]:
        """The content of the newest results file of a test on the test images; {} if there is none."""
        files = sorted(self.path.glob("results_*.json"), key=os.path.getmtime, reverse=True)
        contents = (results.read(path) for path in files)
        return next((content for content in contents if content.get("data", {}).get("split") == "test"), {})

    # ---- what may be replaced ----

    def require_same_run(self, settings: dict[str, Any], test_images: str, absent: dict[str, Any]) -> None:
        """Raises CheckpointError if the directory has an unfinished run, one of other settings or test images, or files
        that cannot be assigned to a run.

        test_images: fingerprint of their list; absent: see `checkpoint.check_identity`.
        """
        content = results.read(self.results())
        with amended(after=". Delete that run to replace it, or choose another output_dir"):
            if self.progress.exists():
                message = f"{self.progress} is of an unfinished run"
                raise CheckpointError(message, kind="unfinished_run", path=self.progress)
            if "settings" in content:
                checkpoint.check_identity(content["settings"], settings, self.results(), absent)
            elif os.path.lexists(self.results()):
                message = f"{self.results()} is damaged, or not of this program, so its run cannot be compared"
                raise CheckpointError(message, kind="damaged_results", path=self.results())
            elif self.checkpoint.exists():
                about = checkpoint.describe(self.checkpoint)
                if averaging.AVERAGED in about:
                    message = f"{self.checkpoint} is an average of runs, which a training would replace"
                    raise CheckpointError(message, kind="averaged_run", path=self.checkpoint)
                recorded = about["training"]["settings"] if "training" in about else about
                known = settings if "training" in about else {key: settings[key] for key in settings.keys() & about}
                checkpoint.check_identity(recorded, known, self.checkpoint, absent)
            tested = content.get("data", {}).get("fingerprint", {}).get("test")
            if tested is not None and not results.same_images(tested, test_images):
                message = f"{self.results()} is of other test images; to test that run on these, add test_only True"
                raise CheckpointError(message, kind="other_images", path=self.results())

    def begin(self) -> None:
        """Creates `unfinished` if the directory has a complete run, and removes leftovers of an earlier start."""
        self.clear_unfinished()
        if self.results().exists():
            with write_errors(self.unfinished.path):
                self.unfinished.path.mkdir()

    def working(self) -> "RunDir":
        """The directory that the current training writes to: `unfinished` if it exists, else this one."""
        return self.unfinished if self.unfinished.path.is_dir() else self

    def clear_unfinished(self) -> None:
        """Removes `unfinished`, and partially written files of killed processes."""
        with write_errors(self.unfinished.path):
            if self.unfinished.path.is_symlink():
                self.unfinished.path.unlink()
            elif self.unfinished.path.is_dir():
                shutil.rmtree(self.unfinished.path)
        self.remove_partials(self.config, self.metrics, self.progress, self.checkpoint)

    def remove_partials(self, *paths: Path) -> None:
        """Removes the partial files of processes that were killed while writing these files."""
        for path in paths:
            for partial in self.path.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
                partial.unlink(missing_ok=True)

    def forget_earlier(self, *new: Path | None) -> None:
        """Removes the tests of an earlier run with these settings and their products, except the `new` files."""
        names = {path.name for path in new if path}
        of_tests = ("results_*.json", "logits_*.npz", "predictions_*.csv", "report*.html", self.adjustment.name)
        for old in [path for pattern in of_tests for path in self.path.glob(pattern)]:
            if old.name not in names:
                old.unlink()

    def publish(self) -> None:
        """Replaces the files of the earlier run by those of `unfinished`, and removes its curves.

        `unfinished` stays, so that after an interruption all of it can be repeated.
        """
        new = [path for path in self.unfinished.path.glob("*") if path.suffix != PARTIAL]
        for path in new:
            copy = path.with_name(path.name + PARTIAL)
            with write_errors(self.path / path.name):
                copy.unlink(missing_ok=True)
                try:
                    os.link(path, copy)
                except OSError:  # a file system without links
                    shutil.copyfile(path, copy)
                os.replace(copy, self.path / path.name)
        for old in self.curves() if new else ():
            if not (self.unfinished.path / old.name).exists():
                old.unlink()

    def require_free(self, mode: Mode, fingerprint: str) -> None:
        """Raises ConfigError if a file of this mode has a test of other images. fingerprint: of the list."""
        data = {} if mode.trains else results.read(self.results(mode)).get("data", {})  # else: require_same_run
        logits = results.logits_about(self.logits(mode)) or {}
        found = (
            (self.results(mode), data.get("fingerprint", {}).get(data.get("split"))),
            (self.logits(mode), logits.get("fingerprint")),
        )
        for path, other in found:
            if other is not None and not results.same_images(other, fingerprint):
                message = (
                    f"{path} has the test of other images; name this test with test_name NAME to keep both, or delete "
                    "that file"
                )
                raise ConfigError(message, kind="other_images", path=path)

    def mode_for_predictions(self, mode: Mode, tested: dict[str, Any]) -> Mode:
        """The mode; with a longer suffix if its file has the run's own test of these images in another way.

        tested: the crops, expand and precision of the test, as results have them under "test".
        """
        own = results.read(self.results())
        there = own.get("test")
        if mode.trains or own.get("predictions") != self.predictions(mode).name or not isinstance(there, dict):
            return mode
        differences = results.differences({key: there.get(key) for key in tested}, tested)
        return dataclasses.replace(mode, otherwise=(*mode.otherwise, *differences))

    def mode_for_logits(self, mode: Mode, tested: dict[str, Any], labels: np.ndarray) -> Mode:
        """The mode; with a longer suffix if its file has logits of the same images tested in another way.

        tested: as `results.save_logits` stores it; labels: of the images. Raises ConfigError if both names are taken.
        """
        self.require_free(mode, tested["fingerprint"])
        there = results.logits_about(self.logits(mode))
        if there is None:
            return mode
        if "fingerprint" not in there:  # written by an older version
            if np.array_equal(there["labels"], labels):
                return mode
            message = f"{self.logits(mode)} has logits of other images; delete it, or set test_name NAME"
            raise ConfigError(message, kind="other_images", path=self.logits(mode))
        if results.same_test(there, tested):
            return mode
        longer = dataclasses.replace(mode, otherwise=(*mode.otherwise, *results.differences(there, tested)))
        self.require_free(longer, tested["fingerprint"])
        other = results.logits_about(self.logits(longer))
        if other is not None and not results.same_test(other, tested):
            message = f"{self.logits(longer)} has logits of another test; delete it, or set test_name NAME"
            raise ConfigError(message, kind="other_test", path=self.logits(longer))
        return longer
