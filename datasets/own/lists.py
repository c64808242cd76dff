"""The user's own lists of images: path,label or path,classname.

Fields are separated by comma, semicolon or tab; lines without any of these are split at the last space. Quotes, a
header, a byte order mark and Windows line ends are accepted as a spreadsheet writes them. Every error has file and
line.
"""

import dataclasses
import os
import unicodedata
from collections.abc import Callable

import numpy as np

from datasets.own.tables import Position, class_name, read_rows, shown
from utils.errors import DataError

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img_path")
NAMES = ("classname", "class_name")  # a column of class names, even where all of them are numbers
LABELS = (*NAMES, "class", "label", "category", "target")
PROBES = 1000  # images of a list that are looked for on disk


@dataclasses.dataclass(frozen=True)
class LabeledPaths:
    """The images of one split, and the class of each as a list or a folder names it."""

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
    """The images of a list, their paths taken from `root`; a repeated line counts once. Raises DataError."""
    rows, lines = read_rows(file)
    path_column, class_column, are_names, width = _columns(file, rows, lines, root)
    index_of: dict[str, int] = {}  # by path
    paths: list[str] = []
    classes: list[str] = []
    first_lines: list[int] = []
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            message = (
                f"{len(row)} columns where {width} are expected, found {','.join(row)[:100]!r}; "
                "write path,label and put a path with a comma into quotes"
            )
            raise Position(file, line).error("wrong_columns", message)
        name = row[class_column].strip()
        if not row[path_column] or not name:
            empty = "label" if row[path_column] else "path"
            raise Position(file, line).error(f"empty_{empty}", f"the {empty} is empty; fill it in or remove the line")
        path = _path_below(row[path_column], root, outside_root, file, line)
        index = index_of.setdefault(path, len(paths))
        if index == len(paths):
            paths.append(path)
            classes.append(name)
            first_lines.append(line)
        elif classes[index] != name:
            message = (
                f"{shown(path)} is of class '{name}', but of '{classes[index]}' in line "
                f"{first_lines[index]}; an image has one class, so remove one of the lines"
            )
            raise Position(file, line).error("two_classes", message)
    checked = {name: class_name(name, file, first_lines[i]) for i, name in reversed([*enumerate(classes)])}
    listed = LabeledPaths(
        paths, [checked[name] for name in classes], lambda i: Position(file, first_lines[i]), are_names
    )
    notes = [f"{file}: {len(rows) - len(paths):,} lines repeat an image; it counts once"] * (len(rows) > len(paths))
    return dataclasses.replace(listed, notes=(*notes, *_missing_images(listed, file, root)))


def require_disjoint(train: LabeledPaths, test: LabeledPaths) -> None:
    """Raises a DataError if an image is in both lists."""
    both = set(train.paths) & set(test.paths)
    if both:
        index = next(i for i, path in enumerate(test.paths) if path in both)
        position = test.position(index)
        message = (
            f"{shown(test.paths[index])} is a training image, too; {len(both):,} of "
            f"{len(test.paths):,} test images are; remove them from one of the lists (test_train True tests the "
            "training images)"
        )
        raise position.error("image_in_both_lists", message)


def _columns(file: str, rows: list[list[str]], lines: list[int], root: str) -> tuple[int, int, bool, int]:
    """The columns of path and class, whether these are surely names, and the number of columns; drops the header."""
    titles = [cell.strip().lower() for cell in rows[0]]
    path, label = (next((title for title in known if title in titles), None) for known in (PATHS, LABELS))
    if path and label:
        del rows[0], lines[0]
        if not rows:
            message = f"{file} has a header and no images; it needs a line for each image"
            raise DataError(message, kind="header_only", path=file)
        return titles.index(path), titles.index(label), label in NAMES, len(titles)
    is_image = os.path.splitext(rows[0][0])[1] or os.path.isfile(os.path.join(root, rows[0][0]))
    if path or label or len(titles) != 2 or not is_image:
        message = (
            "expected path,label or a header with these columns, found "
            f"{','.join(rows[0])[:100]!r}; call the columns path and label (or classname)"
        )
        raise Position(file, lines[0]).error("unknown_columns", message)
    return 0, 1, False, 2


def _path_below(path: str, root: str, outside_root: bool, file: str, line: int) -> str:
    """The path of an image in a list, below root. Raises a DataError if it is outside."""
    if "\\" in path and not os.path.exists(os.path.join(root, path)):
        path = path.replace("\\", "/")  # written on Windows
    drive = path[1:3] == ":/"
    if path[0] not in "./" and "/." not in path and "//" not in path and not drive:
        return f"{root}/{path}"  # the usual case; half a million paths should take a second
    absolute, top = os.path.abspath(os.path.join(root, path)), os.path.join(os.path.abspath(root), "")
    if absolute.startswith(top) and not drive:
        return f"{root}/{absolute[len(top) :]}"
    if outside_root and not drive:
        return absolute
    advice = "write it as seen from root" if drive else "give a root that holds all images, or outside_root True"
    raise Position(file, line).error("outside_root", f"{shown(path)} is outside root {root}; {advice}", key="root")


def _missing_images(listed: LabeledPaths, file: str, root: str) -> list[str]:
    """Looks for a thousand of the images; a note if some are missing. Raises a DataError if half of them are."""
    indices = np.linspace(0, len(listed.paths) - 1, min(len(listed.paths), PROBES)).astype(int).tolist()
    missing = [i for i in indices if _is_missing(listed.paths[i])]
    if not missing:
        return []
    path, position = listed.paths[missing[0]], listed.position(missing[0])
    count = f"{len(missing):,} of {len(indices):,} images looked for are missing"
    if 2 * len(missing) < len(indices):
        return [f"{file}: {count}, the first in line {position.line} ({shown(path)}); scripts/check_data.py names all"]
    state = "is a folder, not an image" if os.path.isdir(path) else "does not exist"
    raise position.error("missing_images", f"{shown(path)} {state} ({count}); {_advice(path, root)}", key="root")


def _is_missing(path: str) -> bool:
    """Whether there is nothing, or a folder. Pipes and devices are not missing: reading them says what they are."""
    return not os.path.isfile(path) and (os.path.isdir(path) or not os.path.exists(path))


def _advice(path: str, root: str) -> str:
    """How the missing image `path` could be found."""
    relative = os.path.relpath(path, root)
    for form in ("NFC", "NFD"):
        if os.path.isfile(os.path.join(root, unicodedata.normalize(form, relative))):
            return f"there is one with the same name in Unicode's form {form}; write the list in that form"
    below = sorted(entry.path for entry in os.scandir(root) if entry.is_dir())[:100]
    for folder in (os.path.dirname(os.path.abspath(root)), *below):
        if os.path.isfile(os.path.join(folder, relative)):
            return f"the image is in another folder: give root {folder}"
    return f"paths are taken from root {root}; check that and the list"
