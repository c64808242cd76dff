"""bad_images skip: the images that the last check found to be bad are left out before training starts.

scripts/check_data.py writes a folder output/check_...; read here are its report.json, for the fingerprints of the lists
that it checked, and its bad_images.txt, one image a line (what follows a tab is the reason). Lines may be added or
removed by hand. No image is ever left out, or replaced by another, because reading it failed in a run.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import DataSet, ImageList
from utils.errors import DataError

OUTPUT = Path("output")  # as utils.config has it
REPORT, BAD_IMAGES = "report.json", "bad_images.txt"
SPLITS = {"train": "training", "test": "test"}


def leave_out_bad(data: DataSet, options: dict[str, Any]) -> DataSet:
    """`data` without the images that the bad_images.txt of its last check names.

    options: the keys that chose the lists (root, ...), for the command in the message. Raises a DataError if these very
    lists were never checked, or if a bad image has changed since.
    """
    words = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    command = shlex.join(["python", "scripts/check_data.py", "-d", data.name, *words])
    report = _last_report(data, options.get("root"), command)
    path = report.with_name(BAD_IMAGES)
    listed = _listed(path, command)
    _require_unchanged(data, _read(report)["bad"], listed, report.parent, command)
    unknown = listed.difference(*(image_names(data, split) for split in SPLITS))
    if unknown:
        raise DataError(f"{path} names '{min(unknown)}', which is in neither list; correct that line, or run {command}")
    kept = {
        split: np.flatnonzero([name not in listed for name in image_names(data, split)]).tolist() for split in SPLITS
    }
    for split, indices in kept.items():
        if not indices:
            raise DataError(f"bad_images skip leaves no image in the {split} list: all of them are in {path}")
    lists = {split: _subset(getattr(data, split), indices) for split, indices in kept.items()}
    return dataclasses.replace(data, **lists, notes=(*data.notes, _left_out(data, kept, path)))


def image_names(data: DataSet, split: str) -> Iterator[str]:
    """What the images of a list are called: their paths, below the root if there is one; in memory train[0], ..."""
    images = getattr(data, split).images
    if isinstance(images, np.ndarray):
        return (f"{split}[{index}]" for index in range(len(images)))
    top = os.path.join(data.root, "") if data.root else ""
    return (path.removeprefix(top) for path in images)


def size_of(path: str) -> int | None:
    """Bytes of the file at `path`, None where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def fingerprints(data: DataSet) -> dict[str, str]:
    """Which images and labels both lists held when they were checked."""
    return data.fingerprints(contents=False)


# ---- the last check ----


def _last_report(data: DataSet, root: str | None, command: str) -> Path:
    """The newest report of a check of these very lists."""
    current, stale = fingerprints(data), None
    for path in sorted(OUTPUT.glob(f"check_*/{REPORT}"), key=os.path.getmtime, reverse=True):
        report = _read(path)
        if report.get("fingerprint") == current:
            return path
        checked = report.get("checked", {})
        if checked.get("dataset") == data.name and checked.get("root") == (root and os.path.realpath(root)):
            stale = stale or path.parent
    if stale:
        raise DataError(f"the lists of {data.name} have changed since the check in {stale}; run it again: {command}")
    raise DataError(
        f"bad_images skip leaves out what a check has found, and {data.name} was not checked; run {command}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError):  # damaged: as if it were not there
        return {}


def _listed(path: Path, command: str) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it again: {command}") from error
    return {line.partition("\t")[0] for line in lines if line.strip()}


def _require_unchanged(data: DataSet, bad: list[dict], listed: set[str], folder: Path, command: str) -> None:
    """A file that was bad and is of another size now was replaced: leaving it out would be wrong."""
    for image in bad:
        name = image["image"]
        if name in listed and size_of(os.path.join(data.root or "", name)) != image["bytes"]:
            raise DataError(f"{name} has changed since the check in {folder}; run it again: {command}")


# ---- what is left ----


def _subset(images: ImageList, indices: list[int]) -> ImageList:
    some = images.images[indices] if isinstance(images.images, np.ndarray) else [images.images[i] for i in indices]
    return dataclasses.replace(images, images=some, labels=images.labels[indices])


def _left_out(data: DataSet, kept: dict[str, list[int]], path: Path) -> str:
    before, after = data.class_counts, np.bincount(data.train.labels[kept["train"]], minlength=len(data.classnames))
    parts = [f"{len(getattr(data, split)) - len(kept[split]):,} {word}" for split, word in SPLITS.items()]
    lost = [data.classnames[c] for c in np.flatnonzero((before > 0) & (after == 0))]
    more = f"; no training image is left of {', '.join(lost[:5])}{' and others' if lost[5:] else ''}" if lost else ""
    return f"left out, as listed in {path}: {' and '.join(parts)} images{more}"
