"""Reads the files of a run directory for a report, within bounds. Raises a DataError for damaged files."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.files import read_json, read_limited
from utils.predictions import Predictions, read_csv
from utils.run import results
from utils.run.directory import RunDir
from utils.run.record import Result, groups_of, read

GROUPS = ("many", "medium", "few")
METRICS_BYTES = 200_000_000  # of metrics.jsonl; a logged step has 130
METRICS_LINES = 20_000  # parsed lines; evenly spread ones if there are more
TESTS = 100  # maximal number per run
MOST = 10**9  # images of a class


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a test. Arrays are int64 [C]."""

    names: list[str]
    train: np.ndarray  # training images
    images: np.ndarray  # tested images
    correct: np.ndarray  # correctly predicted images
    group: np.ndarray  # index in GROUPS

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Test:
    """A results file of a run. suffix: the end of its name, "" for the training run's own."""

    path: Path
    suffix: str
    content: dict[str, Any]
    result: Result
    classes: Classes
    finished: float  # seconds since 1970

    @property
    def name(self) -> str:
        """The test in words: its way, and its images."""
        return self.result.test

    @property
    def predictions_path(self) -> Path:
        """The file with its predictions; a run and a repetition of its test share one."""
        return self.path.with_name(results.predictions_name(self.content, self.suffix))

    @property
    def split(self) -> str:
        """The tested images: train, test or val."""
        return self.content["data"]["split"]

    @property
    def images(self) -> str:
        """The fingerprint of the tested images."""
        return self.result.images

    def predictions(self) -> Predictions:
        """The predictions of this test, image by image. Raises a DataError if they are missing or of another test."""
        if not self.predictions_path.exists():
            message = f"{self.predictions_path} is missing; test the run again: test_only True"
            raise DataError(message, kind="no_predictions", path=self.predictions_path)
        found, classes = read_csv(self.predictions_path, self.classes.names), self.classes
        hits = found.labels[found.labels == found.predicted]
        counts = (np.bincount(labels, minlength=len(classes)) for labels in (found.labels, hits))
        if any(not np.array_equal(*pair) for pair in zip(counts, (classes.images, classes.correct), strict=True)):
            message = f"{self.predictions_path} is of another test than {self.path.name}; test the run again"
            raise DataError(message, kind="other_predictions", path=self.predictions_path)
        return found


def read_test(path: Path) -> Test:
    """Reads a results file. Raises DataError if it is damaged."""
    try:
        content = read_json(path, results.BYTES)
        result = read(path, path.parent.parent)
        if not all(isinstance(text, str) for text in (result.data, result.backbone, result.command, result.images)):
            raise TypeError("a name that is not a text")
        for value in result.accuracy.values():
            if value is not None and not 0 <= float(value) <= 100:
                raise ValueError("an accuracy beyond 0 to 100")
        return Test(
            path=path,
            suffix=path.stem.removeprefix("results"),
            content=content,
            result=result,
            classes=_classes(content),
            finished=os.stat(path).st_mtime,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        is_json = not isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))
        content_reason = "entries are missing or have wrong types" if is_json else "it is not JSON"
        reason = getattr(error, "strerror", None) or content_reason
        message = f"{path} is damaged, or not of this program ({reason}); test the run again, or delete the file"
        raise DataError(message, kind="damaged_results", path=path) from error


def _classes(content: dict[str, Any]) -> Classes:
    rows = content["per_class"]
    train, images = (np.array([int(row[split]) for row in rows], np.int64) for split in ("train", "test"))
    shares = np.array([0.0 if row["accuracy"] is None else float(row["accuracy"]) for row in rows])
    names = [row["name"] for row in rows]
    counts = np.concatenate([train, images])
    in_range = len(rows) and 0 <= counts.min() <= counts.max() <= MOST and 0 <= shares.min() <= shares.max() <= 100
    if not (in_range and images.any() and all(isinstance(name, str) for name in names)):
        raise ValueError("classes that are not those of a test")
    if all("group" in row for row in rows):
        group = np.array([GROUPS.index(row["group"]) for row in rows])
    else:  # written by an older version
        many, few, _ = groups_of(content["data"])
        group = np.select([train > many, train >= few], [0, 1], 2)
    return Classes(names, train, images, np.rint(shares * images / 100).astype(np.int64), group)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory. tests: the readable ones, the training run's own first. notes: reasons why others are not."""

    directory: RunDir
    tests: list[Test]
    notes: list[str]

    @property
    def main(self) -> Test:
        """The test of the run itself, or if it has none the newest one."""
        return next((test for test in self.tests if not test.suffix), max(self.tests, key=lambda test: test.finished))

    def find(self, path: Path) -> Test:
        """The test with this results file. Raises a DataError if that is damaged or missing."""
        found = next((test for test in self.tests if test.path == path), None)
        return found if found else read_test(path)  # which raises the reason

    def training_predictions(self) -> tuple[Test, Predictions] | None:
        """The predictions for the training images, and their test; None if there are none."""
        on_training = [test for test in self.tests if test.suffix == "_train" and test.split == "train"]
        for test in on_training:
            try:
                return test, test.predictions()
            except DataError:
                continue
        return None


def read_run(directory: RunDir) -> Run:
    """Reads a run. Raises a DataError if no results can be read."""
    paths = sorted(directory.path.glob("results*.json"), key=lambda path: (len(path.name), path.name))[:TESTS]
    tests, notes = [], []
    for path in paths:
        try:
            tests.append(read_test(path))
        except DataError as error:
            notes.append(str(error))
    if not tests:
        found = notes[0] if notes else f"{directory.path} has no results; train or test the run first"
        raise DataError(found, kind="no_results", path=directory.path)
    return Run(directory, tests, notes)


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The numbers of metrics.jsonl: (step, value) by name; {} if it cannot be read."""
    try:
        lines = read_limited(path, METRICS_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    stride = math.ceil(len(lines) / METRICS_LINES) or 1
    chosen = [line for number, line in enumerate(lines, 1) if number % stride == 0 or number == len(lines)]
    chosen += [] if stride == 1 else [line for line in lines if '"val/' in line]
    curves: dict[str, dict[int, float]] = {}
    for line in chosen:
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
            for name, value in row.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    curves.setdefault(name.removeprefix("train/"), {})[step] = float(value)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue  # the incomplete line of a killed run
    return {name: sorted(points.items()) for name, points in curves.items()}
