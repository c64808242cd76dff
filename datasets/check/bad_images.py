r"""bad_images skip: the images that the last check found to be bad are left out before training starts.

scripts/check_data.py writes a folder output/check_... This module reads its report.json, for the fingerprints of the
checked lists, and its bad_images.txt, one image a line (a reason may follow a tab). Lines may be added or removed by
hand. No image is ever left out, or replaced by another, because reading it failed in a run.

    train/cat/1.jpg             a name as it is
    "train/cat/new\nline.jpg"   a JSON string: a name with control characters, line ends, marks of direction or bytes
                                that are not UTF-8 (\udc80 to \udcff, as in os.fsdecode), or that begins with a quote
"""

import contextlib
import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import SPLITS, DataSet
from utils.errors import DataError
from utils.files import read_json, read_limited
from utils.text import shortened, visible

OUTPUT = Path("output")  # as utils.config has it
REPORT, BAD_IMAGES = "report.json", "bad_images.txt"
BYTES = 1 << 30  # of the largest report that is read


def leave_out_bad(data: DataSet, options: dict[str, Any]) -> DataSet:
    """`data` without the images in the bad_images.txt of its last check.

    options: the keys that chose the lists (root, ...), for the command in the message. Raises a DataError if these
    lists were never checked, or if a bad image has changed since.
    """
    words = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    command = shlex.join(["python", "scripts/check_data.py", "-d", data.name, *words])
    report = _last_report(data, options.get("root"), command)
    path = report.with_name(BAD_IMAGES)
    bad = _read_names(path, command)
    names = {split: image_names(data, split) for split in data.lists}
    reported = _read(report)["bad"]
    _require_unchanged(data, names, reported, bad, report.parent, command)
    # a check reads a validation set that this run may not need
    unknown = bad.difference(*names.values(), [image["image"] for image in reported if image.get("list") not in names])
    if unknown:
        name = shortened(min(unknown))
        message = f"{path} contains '{name}', which is in neither list; correct that line, or run {command}"
        raise DataError(message, kind="unknown_bad_image", path=path, key="bad_images")
    good = {split: np.flatnonzero([name not in bad for name in names[split]]) for split in data.lists}
    for split, indices in good.items():
        if not len(indices):
            message = f"bad_images skip leaves no image in the {split} list: all of them are in {path}"
            raise DataError(message, kind="no_image_left", path=path, key="bad_images")
    lists = {split: data.lists[split].subset(indices) for split, indices in good.items()}
    return dataclasses.replace(data.with_lists(lists), notes=(*data.notes, _note(data, good, path)))


def image_names(data: DataSet, split: str) -> list[str]:
    """The names of a list's images in a report: paths, below the root if there is one; in memory train[0], ..."""
    return data.split(split).images.names(data.root, split)


# ---- names in lines ----


def quoted(name: str) -> str:
    """A name in the form of bad_images.txt and duplicates.txt: on one line, and harmless for a terminal."""
    return json.dumps(name) if visible(name) != name or name.startswith(('"', "\ufeff")) else name


def unquoted(line: str) -> str:
    """The name in a line, before any tab. A line that begins with a quote and is not JSON is a name."""
    field = line.partition("\t")[0]
    if field.startswith('"'):
        with contextlib.suppress(ValueError):
            return json.loads(field)
    return field


# ---- the last check ----


def _last_report(data: DataSet, root: str | None, command: str) -> Path:
    """The newest report of a check of the same lists; only one of both may have a validation set."""
    current, stale = data.fingerprints(contents=False), None
    for path in sorted(OUTPUT.glob(f"check_*/{REPORT}"), key=os.path.getmtime, reverse=True):
        report = _read(path)
        if _same_lists(report.get("fingerprint"), current):
            return path
        checked = report.get("checked", {})
        if checked.get("dataset") == data.name and checked.get("root") == (root and os.path.realpath(root)):
            stale = stale or path.parent
    if stale:
        message = f"the lists of {data.name} have changed since the check in {stale}; run it again: {command}"
        raise DataError(message, kind="lists_changed", path=stale, key="bad_images")
    message = (
        f"bad_images skip leaves out the images that a check has found, and {data.name} was not checked; run {command}"
    )
    raise DataError(message, kind="not_checked", key="bad_images")


def _same_lists(checked: Any, current: dict[str, str]) -> bool:
    """Whether fingerprints are those of the training and test list, and of the validation list if both have one."""
    if not isinstance(checked, dict) or not {"train", "test"} <= checked.keys():
        return False
    return all(checked[split] == fingerprint for split, fingerprint in current.items() if split in checked)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, BYTES))
    except (ValueError, TypeError, OSError):  # a damaged report counts as missing
        return {}


def _read_names(path: Path, command: str) -> set[str]:
    try:
        text = read_limited(path, BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); recreate it: {command}"
        raise DataError(message, kind="unreadable_file", path=path, key="bad_images") from error
    return {unquoted(line.rstrip("\r")) for line in text.split("\n") if line.strip()}


def _require_unchanged(
    data: DataSet, names: dict[str, list[str]], reported: list[dict], bad: set[str], folder: Path, command: str
) -> None:
    """Raises a DataError if a bad file has another size now: it was replaced, and leaving it out would be wrong."""
    checked = {image["image"]: image["bytes"] for image in reported if image["image"] in bad}
    for split in data.lists if checked else ():
        images = data.split(split).images
        for index, name in enumerate(names[split]):
            if name in checked and images.file_bytes(index) != checked[name]:
                message = f"{name} has changed since the check in {folder}; run it again: {command}"
                raise DataError(message, kind="image_changed", path=name, key="bad_images")


# ---- the good images ----


def _note(data: DataSet, good: dict[str, np.ndarray], path: Path) -> str:
    before, after = data.class_counts, np.bincount(data.train.labels[good["train"]], minlength=len(data.classnames))
    counts = [f"{len(data.lists[split]) - len(indices):,} {SPLITS[split]}" for split, indices in good.items()]
    lost = [data.classnames[c] for c in np.flatnonzero((before > 0) & (after == 0))]
    more = f"; no training image is left of {', '.join(lost[:5])}{' and others' if lost[5:] else ''}" if lost else ""
    return f"left out, as listed in {path}: {' and '.join(counts)} images{more}"
