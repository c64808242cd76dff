"""The user's own pictures, in class folders or by lists. docs/data.md shows each layout with its command.

ROOT/train/CLASS/* and ROOT/test/CLASS/* (or val)   the folders' names are the class names
ROOT/val/CLASS/* beside both                        the validation set, if a key needs one
ROOT/CLASS/* with test_fraction                     the same; some pictures of each class are held out for testing
train_list with test_list or test_fraction          lists of path,label or path,classname; paths are relative to ROOT
val_list beside them                                the validation set

The EXIF orientation of pictures is applied, as viewers do.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.long_tail import long_tail_counts
from datasets.own.classnames import label_classes
from datasets.own.lists import LabeledPaths, read_list, require_disjoint
from datasets.own.pictures import EXTENSIONS, SMALL_COPIES, leftover
from datasets.own.splits import hold_out_test, thin
from datasets.own.tables import Position, class_name
from utils.errors import DataError

TEST_FOLDERS = {"test", "tests", "testing", "val", "valid", "validation", "dev"}
_NEEDED = "root must have train/CLASS/ and test/CLASS/ (or val/CLASS/), or class folders alone with test_fraction 0.2"


def build(
    name: str,
    root: str | None,
    train_list: str | None = None,
    test_list: str | None = None,
    val_list: str | None = None,
    test_fraction: float | None = None,
    classnames: str | None = None,
    imbalance: float | None = None,
    outside_root: bool = False,
    validation: bool = False,
) -> DataSet:
    """The data set below `root`, by folders or by lists; main.py --help explains each key. Raises DataError.

    validation: read a folder val/ beside train/ and test/; val_list is read in any case.
    """
    # ---- pictures with class names as the user wrote them, by split, training first ----
    if train_list or test_list or val_list:
        root, splits = _by_lists(root, train_list, test_list, val_list, test_fraction, outside_root)
    elif root is None:
        message = (
            "-d folder needs your pictures: add root FOLDER, with FOLDER/train/CLASS/ and FOLDER/test/CLASS/, "
            "or train_list FILE"
        )
        raise DataError(message, kind="no_root", key="root")
    else:
        root, splits = str(Path(root)), _by_folders(Path(root), test_fraction, validation)

    # ---- labels ----
    found = list(splits.values())
    names, labels, notes = label_classes(found, classnames)
    lists = {
        split: ImageList.of_paths(splits[split].paths, y, exif_orientation=True)
        for split, y in zip(splits, labels, strict=True)
    }
    if test_fraction:
        lists["train"], lists["test"] = hold_out_test(lists["train"], test_fraction, root)
    train, test = lists["train"], lists["test"]

    # ---- a long tail ----
    counts = np.bincount(train.labels, minlength=len(names))
    lacking = [
        ("no training images", counts == 0),
        ("no test images", np.bincount(test.labels, minlength=len(names)) == 0),
        ("the same name but for upper and lower case", _alike(names)),
    ]
    if imbalance:
        wanted = np.array(long_tail_counts(int(counts.max()), len(names), 1 / imbalance)).clip(1)
        train = thin(train, wanted)
        lacking += [(f"fewer training images than imbalance {imbalance:g} needs, so all are used", counts < wanted)]
    counted = [
        f"{mask.sum():,} of {len(names):,} classes: {problem} ({_some(names, mask)})"
        for problem, mask in lacking
        if mask.any()
    ]
    notes = (*(note for split in found for note in split.notes), *notes, *counted)
    return DataSet(name, names, train, test, root, lists.get("val"), notes=notes)


def _some(names: Sequence[str], mask: Iterable[bool]) -> str:
    """The first of the names that `mask` selects."""
    picked = [f"'{name}'" for name, pick in zip(names, mask, strict=True) if pick]
    return ", ".join(picked[:3]) + (f" and {len(picked) - 3:,} more" if len(picked) > 3 else "")


def _alike(names: list[str]) -> np.ndarray:
    """Mask of the names that differ from another one in upper and lower case only."""
    folded = [name.casefold() for name in names]
    times = Counter(folded)
    return np.array([times[name] > 1 for name in folded])


# ---- lists ----


def _by_lists(
    root: str | None,
    train_list: str | None,
    test_list: str | None,
    val_list: str | None,
    test_fraction: float | None,
    outside_root: bool,
) -> tuple[str | None, dict[str, LabeledPaths]]:
    """The folder of all images (None: they may be anywhere), and the lists that are set, by split."""
    files = {"train": train_list, "test": test_list, "val": val_list}
    given = {split: file for split, file in files.items() if file}
    if train_list is None:
        key = f"{next(iter(given))}_list"
        message = f"{key} needs a train_list, for the classes and their training images; add one"
        raise DataError(message, kind="no_train_list", path=next(iter(given.values())), key=key)
    if test_list is None and test_fraction is None:
        message = "train_list needs test_list FILE, or test_fraction 0.2 to hold some images out; add one of them"
        raise DataError(message, kind="no_test_list", path=train_list, key="train_list")
    if test_list is not None and test_fraction is not None:
        message = "test_list contains the tested images, so test_fraction has no effect; leave one of them out"
        raise DataError(message, kind="needless_test_fraction", path=test_list, key="test_fraction")
    folders = {os.path.dirname(file) or "." for file in given.values()}
    if root is None and len({os.path.abspath(folder) for folder in folders}) > 1:
        names = " and ".join(f"{split}_list" for split in given)
        number = {2: "two", 3: "three"}[len(folders)]
        message = f"{names} are in {number} folders, {' and '.join(sorted(folders))}; add root FOLDER"
        raise DataError(message, kind="two_folders", key="root")
    root = str(Path(root or min(folders)))
    if not os.path.isdir(root):
        state = "is a file" if os.path.exists(root) else "does not exist"
        message = f"root {root} {state}; set it to the folder that the lists' paths are relative to"
        raise DataError(message, kind="not_a_folder", path=root, key="root")
    if outside_root:
        root = os.path.abspath(root)
    splits = {split: read_list(file, root, outside_root) for split, file in given.items()}
    for one, other in itertools.combinations(splits, 2):
        require_disjoint(splits, one, other)
    return (None if outside_root else root), splits


# ---- folders ----


def _by_folders(top: Path, test_fraction: float | None, validation: bool) -> dict[str, LabeledPaths]:
    """The pictures by split: train, test unless it is to be held out, and with `validation` those of val/, if any."""
    train, test, val = (top / split for split in ("train", "test", "val"))
    if test_fraction is None:
        if val.is_dir() and not test.is_dir():
            test, validation = val, False
        folders = {"train": train, "test": test} | ({"val": val} if validation and val.is_dir() else {})
        return {split: _classes(folder, top) for split, folder in folders.items()}
    if not train.is_dir() or not any(map(_is_folder, _entries(train, _Seen()))):  # 'train' may be a class
        return {"train": _classes(top, top)}
    for entry in _entries(top, _Seen()):
        if entry.name.lower() in TEST_FOLDERS and _is_folder(entry):
            message = (
                f"{top} has test pictures in {entry.name}/, so test_fraction has no effect; leave it out (that folder "
                f"must be named test or val), or split only the training pictures with root {train}"
            )
            raise DataError(message, kind="needless_test_fraction", path=entry.path, key="test_fraction")
    return {"train": _classes(train, top)}


def _classes(split: Path, top: Path) -> LabeledPaths:
    """The pictures of each class folder in `split`, sorted, with those in its subfolders."""
    if not split.is_dir():
        raise DataError(_no_folder(split, top), kind="no_split_folder", path=split, key="root")
    pictures: dict[str, list[str]] = {}
    folders: Counter[str] = Counter()  # of each class; more than one if their names are equal in NFC
    seen = _Seen()
    for entry in sorted(_entries(split, seen), key=lambda entry: entry.name):
        if _is_folder(entry):
            name = class_name(entry.name, entry.path)
            folders[name] += 1
            pictures.setdefault(name, []).extend(sorted(_find(entry, seen)))
        else:
            seen.others[f"{_suffix(entry)} outside the class folders"] += 1
    empty = [not paths for paths in pictures.values()]
    if all(empty):
        ignored = f", ignored {_counted(seen.leftovers)}" if seen.leftovers else ""
        message = (
            f"{split} has no pictures in class folders (found {_counted(seen.others) or 'no files'}{ignored}); "
            f"expected {split}/CLASS/*.jpg (or png, webp, ...)"
        )
        raise DataError(message, kind="no_pictures", path=split, key="root")
    twice = [number > 1 for number in folders.values()]
    conditional = [
        (seen.others, f"skipped {_counted(seen.others)}"),
        (seen.leftovers, f"ignored hidden names and leftovers of systems ({_counted(seen.leftovers)})"),
        (
            seen.copies,
            f"{_counted(seen.copies)} are read as pictures of their classes; move such folders away if they contain "
            "small copies",
        ),
        (any(empty), f"no pictures in {sum(empty):,} folders ({_some([*pictures], empty)})"),
        (any(twice), f"folders with names in two Unicode forms are one class ({_some([*folders], twice)})"),
    ]
    paths = [path for found in pictures.values() for path in found]
    classes = [name for name, found in pictures.items() for _ in found]
    notes = tuple(f"{split}: {note}" for condition, note in conditional if condition)
    return LabeledPaths(paths, classes, lambda i: Position(f"{split}/{classes[i]}"), notes=notes)


def pictures_below(folder: str) -> tuple[list[str], tuple[str, ...]]:
    """All pictures in a folder and its subfolders, and notes about other files in it. Raises DataError.

    They are in the order of `_classes`: by the names in the folder, then by path. Pictures outside the subfolders are
    included.
    """
    paths: list[str] = []
    seen = _Seen()
    for entry in sorted(_entries(folder, seen), key=lambda entry: entry.name):
        paths += sorted(_find(entry, seen)) if _is_folder(entry) else _if_picture(entry, seen)
    conditional = (
        (seen.others, f"skipped {_counted(seen.others)}"),
        (seen.leftovers, f"ignored hidden names and leftovers of systems ({_counted(seen.leftovers)})"),
    )
    return paths, tuple(f"{folder}: {note}" for condition, note in conditional if condition)


class _Seen:
    """Counts of the files and folders that are not simply pictures in class folders."""

    def __init__(self) -> None:
        self.others: Counter[str] = Counter()  # files that are skipped, by suffix
        self.leftovers: Counter[str] = Counter()  # files and folders that are ignored, by name
        self.copies: Counter[str] = Counter()  # folders that may contain small copies of pictures, by name

    def ignores(self, name: str) -> bool:
        """Whether a file or folder is hidden or a leftover of a system; if so, it is counted."""
        found = leftover(name) or (name if name.startswith(".") else None)
        if found:
            self.leftovers[found] += 1
        return found is not None


def _find(folder: os.DirEntry, seen: _Seen, links: tuple[str, ...] = ()) -> Iterator[str]:
    """The pictures in a folder and its subfolders; other files are counted. links: folders whose links led here."""
    if folder.is_symlink():
        links = (*links, os.path.realpath(os.path.dirname(folder.path)))
        target = os.path.join(os.path.realpath(folder.path), "")
        if any(os.path.join(link, "").startswith(target) for link in links):
            message = f"{folder.path} is a circular link, to {target}; remove it"
            raise DataError(message, kind="circular_link", path=folder.path)
    for entry in _entries(folder.path, seen):
        if _is_folder(entry):
            if entry.name.lower() in SMALL_COPIES:
                seen.copies[f"folders named {entry.name}"] += 1
            yield from _find(entry, seen, links)
        else:
            yield from _if_picture(entry, seen)


def _if_picture(entry: os.DirEntry, seen: _Seen) -> list[str]:
    """The path of a file if it is a picture; else nothing, and the file is counted."""
    suffix = _suffix(entry)
    if suffix in EXTENSIONS and (entry.is_file() or entry.is_symlink()):  # no pipe; broken links are reported later
        return [entry.path]
    seen.others[suffix] += 1
    return []


def _entries(folder: str | Path, seen: _Seen) -> list[os.DirEntry]:
    """The entries of a folder, without hidden names and leftovers of systems. Raises DataError."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not seen.ignores(entry.name)]
    except OSError as error:
        message = f"{folder} cannot be read ({error.strerror}); make it readable (chmod u+rx) or remove it"
        raise DataError(message, kind="unreadable_folder", path=folder) from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        message = f"{entry.path} cannot be followed ({error.strerror}); remove it"
        raise DataError(message, kind="circular_link", path=entry.path) from error


def _suffix(entry: os.DirEntry) -> str:
    return os.path.splitext(entry.name)[1].lower() or "without suffix"


def _counted(files: Counter[str]) -> str:
    """The number of files of each of the most frequent kinds."""
    named = files.most_common(4)
    others = files.total() - sum(number for _, number in named)
    return ", ".join(f"{number:,} {kind}" for kind, number in named) + (f" and {others:,} others" if others else "")


def _no_folder(split: Path, top: Path) -> str:
    """The message for a missing folder of a split, with a suggestion."""
    if not top.is_dir():
        return f"{split} is not a folder (root itself {'is a file' if top.exists() else 'does not exist'}); {_NEEDED}"
    found = sorted(entry.name for entry in _entries(top, _Seen()))
    more = f" and {len(found) - 5:,} more" if len(found) > 5 else ""
    message = f"{split} is not a folder (beside it: {', '.join(found[:5]) or 'nothing'}{more}); "
    for other in (top.absolute().parent, *(top / name for name in found[:100])):
        if (other / "train").is_dir() and ((other / "test").is_dir() or (other / "val").is_dir()):
            return f"{message}set root {other}, which has train/ and a folder of test pictures"
    return message + _NEEDED
