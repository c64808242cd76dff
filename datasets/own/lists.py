"""The user's own lists of images: path,label or path,classname.

Fields are separated by tab, semicolon or comma; lines without any of these are split at the last space. Quotes, a
header, a byte order mark and Windows line ends are accepted, as spreadsheets write them. Every error has file and line.
"""

import array
import dataclasses
import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from datasets.base import SPLITS
from datasets.own.pictures import EXTENSIONS, leftover, leftover_in
from datasets.own.reasons import advice, another_name, is_total, reason_of, state_of
from datasets.own.tables import LIST_BYTES, Position, Row, class_name, read_rows, read_text
from utils.errors import DataError

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img_path")
NAMES = ("classname", "class_name")  # a column of class names, even where all of them are numbers
LABELS = (*NAMES, "class", "label", "category", "target")
SUFFIXES = tuple(EXTENSIONS)
SEVERAL = re.compile(r"\s*[|;,/+&]\s*|\s+")  # between labels
PROBES = 1000  # images of a list whose existence is checked


@dataclasses.dataclass(frozen=True)
class LabeledPaths:
    """The images of one split, and the class of each as written in a list or a folder's name."""

    paths: list[str]
    classes: list[str]
    position: Callable[[int], Position]  # of an image
    are_names: bool = True  # False: classes that are all whole numbers are labels
    notes: tuple[str, ...] = ()

    def position_of_class(self, name: str) -> Position:
        """The position of the first image of a class."""
        return self.position(self.classes.index(name))


# ---- lists ----


def read_list(file: str, root: str, outside_root: bool = False) -> LabeledPaths:
    """The images of a list, with paths relative to `root`; a repeated line counts once. Raises DataError."""
    rows = read_rows(file, read_text(file, LIST_BYTES), suits=lambda rows: _suitability(rows, root))
    first = next(rows)
    path_column, class_column, are_names, width, is_header = _columns(file, first, root)
    index_of: dict[str, int] = {}  # by path
    checked: dict[str, str] = {}  # each class name, once in memory
    paths: list[str] = []
    classes: list[str] = []
    lines = array.array("q")  # of each image, its first one
    repeats = 0
    for line, row in rows if is_header else itertools.chain((first,), rows):
        _require_image(Position(file, line), row, path_column, class_column, width, root)
        written = row[class_column].strip()
        if written not in checked:
            checked[written] = class_name(written, file, line)
        name = checked[written]
        path = _path_below(row[path_column], root, outside_root, file, line)
        index = index_of.setdefault(path, len(paths))
        if index == len(paths):
            paths.append(path)
            classes.append(name)
            lines.append(line)
            continue
        repeats += 1
        if classes[index] != name:
            message = (
                f"{path} is of class '{name}', but of '{classes[index]}' in line "
                f"{lines[index]}; an image has one class, so remove one of the lines"
            )
            raise Position(file, line).error("two_classes", message)
    if not paths:
        message = f"{file} has a header and no images; add a line for each image"
        raise DataError(message, kind="header_only", path=file)
    listed = LabeledPaths(paths, classes, lambda i: Position(file, lines[i]), are_names)
    listed, notes = _without_leftovers(listed, file, root)
    if repeats:
        notes.append(f"{file}: {repeats:,} lines repeat an image; it counts once")
    notes += [*_several_labels(checked.values(), file), *_missing_images(listed, file, root)]
    return dataclasses.replace(listed, notes=tuple(notes))


def require_disjoint(splits: Mapping[str, LabeledPaths], one: str, other: str) -> None:
    """Raises a DataError if an image is in the lists of both splits."""
    tested = splits[other]
    both = set(splits[one].paths) & set(tested.paths)
    if both:
        index = next(i for i, path in enumerate(tested.paths) if path in both)
        advice = " (test_train True tests the training images)" if (one, other) == ("train", "test") else ""
        message = (
            f"{tested.paths[index]} is a {SPLITS[one]} image, too; {len(both):,} of {len(tested.paths):,} "
            f"{SPLITS[other]} images are; remove them from one of the lists{advice}"
        )
        raise tested.position(index).error("image_in_both_lists", message)


def _suitability(rows: Sequence[list[str]], root: str) -> tuple[bool, int, int]:
    """A score of rows as a list: whether they have a known header, and how many paths exist or have a suffix."""
    titles = [cell.strip().lower() for cell in rows[0]]
    path, label = _title(PATHS, titles), _title(LABELS, titles)
    known = bool(path and label)
    column = titles.index(path) if path and label else 0
    cells = [row[column].strip() for row in rows[known:] if len(row) > column and (known or len(row) == 2)]
    existing = [os.path.isfile(os.path.join(root, cell.replace("\\", "/"))) for cell in cells[:20]]
    return known, sum(existing), sum(os.path.splitext(cell)[1].lower() in EXTENSIONS for cell in cells)


def _title(known: Sequence[str], titles: Sequence[str]) -> str | None:
    return next((title for title in known if title in titles), None)


def _columns(file: str, first: Row, root: str) -> tuple[int, int, bool, int, bool]:
    """From the first row: columns of path and class, whether classes must be names, width, whether it is a header."""
    line, row = first
    titles = [cell.strip().lower() for cell in row]
    path, label = _title(PATHS, titles), _title(LABELS, titles)
    if path and label:
        return titles.index(path), titles.index(label), label in NAMES, len(titles), True
    is_image = os.path.splitext(row[0])[1] or os.path.isfile(os.path.join(root, row[0]))
    if path or label or len(titles) != 2 or not is_image:
        found = ",".join(row)[:100]
        if reason := reason_of(row, bool(path)):
            raise Position(file, line).error("unknown_columns", f"found '{found}': {reason}")
        message = (
            f"expected path,label or a header with these columns, found '{found}'; name the columns path and label "
            "(or classname)"
        )
        raise Position(file, line).error("unknown_columns", message)
    return 0, 1, False, 2, False


def _require_image(
    position: Position, row: list[str], path_column: int, class_column: int, width: int, root: str
) -> None:
    """Raises a DataError for a row that has no path or class, or that is the total below a spreadsheet."""
    good = len(row) == width and row[path_column] and row[class_column].strip()
    if good and row[path_column].lower().endswith(SUFFIXES):
        return
    found = ",".join(row)[:100]
    if is_total(row) and not (good and os.path.isfile(os.path.join(root, row[path_column]))):
        message = f"'{found}' is a total of a spreadsheet, not an image; remove the line"
        raise position.error("total_line", message)
    if len(row) != width:
        message = (
            f"{len(row)} columns where {width} are expected, found '{found}'; "
            "write path,label and put a path with a comma into quotes"
        )
        raise position.error("wrong_columns", message)
    if not good:
        empty = "label" if row[path_column] else "path"
        raise position.error(f"empty_{empty}", f"the {empty} is empty; fill it in or remove the line")


def _without_leftovers(listed: LabeledPaths, file: str, root: str) -> tuple[LabeledPaths, list[str]]:
    """The list without thumbnails, trash and other leftovers of systems, and a note with their number.

    A list with nothing else is returned unchanged.
    """
    in_folder = functools.cache(leftover_in)

    def find(path: str) -> str | None:
        folder, _, name = path.removeprefix(f"{root}/").rpartition("/")
        return in_folder(folder) or leftover(name)

    found = [find(path) for path in listed.paths]
    count = Counter(name for name in found if name)
    if not count:
        return listed, []
    index = next(index for index, name in enumerate(found) if name)
    names = ", ".join(f"{number:,} in {name}" for name, number in count.most_common(4))
    first = f"the first in line {listed.position(index).line}"
    if count.total() == len(found):
        note = f"{file}: all its images are in leftovers of systems ({names}); they are read, as there are no others"
        return listed, [note]
    remaining = [index for index, name in enumerate(found) if not name]
    lines = array.array("q", (listed.position(index).line or 0 for index in remaining))
    note = f"{file}: left out {count.total():,} images in leftovers of systems ({names}; {first}); remove these lines"
    paths, classes = [listed.paths[index] for index in remaining], [listed.classes[index] for index in remaining]
    return dataclasses.replace(
        listed, paths=paths, classes=classes, position=lambda index: Position(file, lines[index])
    ), [note]


def _several_labels(names: Iterable[str], file: str) -> list[str]:
    """A note if some class names are combinations of others, such as cat|dog."""
    known = set(names)
    joined = sorted(name for name in known if len(parts := SEVERAL.split(name)) > 1 and known.issuperset(parts))
    if not joined:
        return []
    more = f" and {len(joined) - 3:,} more" if len(joined) > 3 else ""
    called = ", ".join(f"'{name}'" for name in joined[:3])
    return [f"{file}: {called}{more}: combinations of other class names; each is one class, not several labels"]


def _path_below(path: str, root: str, outside_root: bool, file: str, line: int) -> str:
    """The path of an image in a list, below root. Raises a DataError if it is outside."""
    if "\\" in path and not os.path.exists(os.path.join(root, path)):
        path = path.replace("\\", "/")  # written on Windows
    if "://" in path and not os.path.exists(os.path.join(root, path)):
        message = f"'{path[:100]}' is an address, not a file; download the images and list their paths below root"
        raise Position(file, line).error("address", message)
    drive = path[1:3] == ":/" or (path.startswith("//") and not os.path.exists(path))  # C:/, //server/share
    if path[0] not in "./" and "/." not in path and "//" not in path and not drive:
        return f"{root}/{path}"  # the usual case; half a million paths take a second
    absolute, top = os.path.abspath(os.path.join(root, path)), os.path.join(os.path.abspath(root), "")
    if absolute.startswith(top) and not drive:
        return f"{root}/{absolute[len(top) :]}"
    if outside_root and not drive:
        return absolute
    advice = "write it relative to root" if drive else "set a root that contains all images, or outside_root True"
    raise Position(file, line).error("outside_root", f"{path} is outside root {root}; {advice}", key="root")


def _missing_images(listed: LabeledPaths, file: str, root: str) -> list[str]:
    """A note if some of PROBES images are missing. Raises a DataError if half of them are."""
    indices = np.linspace(0, len(listed.paths) - 1, min(len(listed.paths), PROBES)).astype(int).tolist()
    missing = [i for i in indices if _is_missing(listed.paths[i])]
    if not missing:
        return []
    shown = next((i for i in missing[:5] if another_name(listed.paths[i], root)), missing[0])
    path, position = listed.paths[shown], listed.position(shown)
    count = f"{len(missing):,} of {len(indices):,} checked images are missing"
    if 2 * len(missing) < len(indices):
        other = another_name(path, root)
        return [
            f"{file}: {count}, one in line {position.line} ({path}{other and f'; {other}'}); "
            "scripts/check_data.py lists all"
        ]
    raise position.error("missing_images", f"{path} {state_of(path)} ({count}); {advice(path, root)}", key="root")


def _is_missing(path: str) -> bool:
    """Whether there is nothing, or a folder. Pipes and devices are not missing: reading them raises the error."""
    return not os.path.isfile(path) and (os.path.isdir(path) or not os.path.exists(path))
