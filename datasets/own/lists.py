"""The user's own lists of images: path,label or path,classname.

Fields are parted by comma, semicolon, tab, or in lines without any of these by their last space; quotes, a header, a
byte order mark and Windows line ends are as a spreadsheet makes them. Every error names file and line.
"""

import csv
import dataclasses
import io
import os
import re
import unicodedata
from collections.abc import Callable

import numpy as np

from utils.errors import DataError

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img_path")
NAMES = ("classname", "class_name")  # a column of class names, even where all of them are numbers
LABELS = (*NAMES, "class", "label", "category", "target")
PROBES = 1000  # images of a list that are looked for on disk


@dataclasses.dataclass(frozen=True)
class Listed:
    """The images of one split, and what a list or a folder calls the class of each."""

    paths: list[str]
    classes: list[str]
    where: Callable[[int], str]  # the place of an image, for messages: "LIST, line 7"
    named: bool = True  # False: classes that are all whole numbers are labels
    notes: tuple[str, ...] = ()

    def where_class(self, name: str) -> str:
        """The place of the first image of a class."""
        return self.where(self.classes.index(name))


# ---- lists ----


def read_list(file: str, root: str, outside_root: bool = False) -> Listed:
    """The images of a list, their paths taken from `root`; a repeated line counts once. Raises DataError."""
    rows, lines = read_rows(file)
    path_column, class_column, named, width = _columns(file, rows, lines, root)
    first: dict[str, int] = {}  # of each image its place
    paths, classes, kept = [], [], []
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise DataError(
                f"{file}, line {line}: {len(row)} columns where {width} are expected, found {','.join(row)[:100]!r}; "
                "write path,label and put a path with a comma into quotes"
            )
        name = row[class_column].strip()
        if not row[path_column] or not name:
            empty = "label" if row[path_column] else "path"
            raise DataError(f"{file}, line {line}: the {empty} is empty; fill it in or remove the line")
        path = _place(row[path_column], root, outside_root, file, line)
        seen = first.setdefault(path, len(paths))
        if seen == len(paths):
            paths.append(path)
            classes.append(name)
            kept.append(line)
        elif classes[seen] != name:
            raise DataError(
                f"{file}, line {line}: {shown(path)} is of class '{name}', but of '{classes[seen]}' in line "
                f"{kept[seen]}; an image has one class, so remove one of the lines"
            )
    checked = {name: class_name(name, file, kept[i]) for i, name in reversed([*enumerate(classes)])}
    listed = Listed(paths, [checked[name] for name in classes], lambda i: f"{file}, line {kept[i]}", named)
    notes = [f"{file}: {len(rows) - len(paths):,} lines repeat an image; it counts once"] * (len(rows) > len(paths))
    return dataclasses.replace(listed, notes=(*notes, *_missing_images(listed, file, root)))


def require_apart(train: Listed, test: Listed) -> None:
    """Raises a DataError if an image stands in both lists."""
    both = set(train.paths) & set(test.paths)
    if both:
        index = next(i for i, path in enumerate(test.paths) if path in both)
        raise DataError(
            f"{test.where(index)}: {shown(test.paths[index])} is a training image, too; {len(both):,} of "
            f"{len(test.paths):,} test images are; remove them from one of the lists (test_train True tests the "
            "training images)"
        )


def _columns(file: str, rows: list[list[str]], lines: list[int], root: str) -> tuple[int, int, bool, int]:
    """The columns of path and class, whether these are surely names, and the number of columns; drops the header."""
    titles = [cell.strip().lower() for cell in rows[0]]
    path, label = (next((title for title in known if title in titles), None) for known in (PATHS, LABELS))
    if path and label:
        del rows[0], lines[0]
        if not rows:
            raise DataError(f"{file} has a header and no images; it needs a line for each image")
        return titles.index(path), titles.index(label), label in NAMES, len(titles)
    is_image = os.path.splitext(rows[0][0])[1] or os.path.isfile(os.path.join(root, rows[0][0]))
    if path or label or len(titles) != 2 or not is_image:
        raise DataError(
            f"{file}, line {lines[0]}: expected path,label or a header with these columns, found "
            f"{','.join(rows[0])[:100]!r}; call the columns path and label (or classname)"
        )
    return 0, 1, False, 2


def _place(path: str, root: str, outside_root: bool, file: str, line: int) -> str:
    """The path of an image that a list names. Raises a DataError if it leads out of root."""
    if "\\" in path and not os.path.exists(os.path.join(root, path)):
        path = path.replace("\\", "/")  # written on Windows
    drive = path[1:3] == ":/"
    if path[0] not in "./" and "/." not in path and "//" not in path and not drive:
        return f"{root}/{path}"  # as nearly all are; half a million of them should take a second
    absolute, top = os.path.abspath(os.path.join(root, path)), os.path.join(os.path.abspath(root), "")
    if absolute.startswith(top) and not drive:
        return f"{root}/{absolute[len(top) :]}"
    if outside_root and not drive:
        return absolute
    advice = "write it as seen from root" if drive else "give a root that holds all images, or outside_root True"
    raise DataError(f"{file}, line {line}: {shown(path)} lies outside root {root}; {advice}")


def _missing_images(listed: Listed, file: str, root: str) -> list[str]:
    """Looks for a thousand of the images; tells how many are missing. Raises a DataError if it is half of them."""
    indices = np.linspace(0, len(listed.paths) - 1, min(len(listed.paths), PROBES)).astype(int).tolist()
    missing = [i for i in indices if not os.path.isfile(listed.paths[i])]
    if not missing:
        return []
    path, count = listed.paths[missing[0]], f"{len(missing):,} of {len(indices):,} images looked for are missing"
    if 2 * len(missing) < len(indices):
        check = "scripts/check_data.py names all"
        return [
            f"{file}: {count}, the first in {listed.where(missing[0]).rpartition(', ')[2]} ({shown(path)}); {check}"
        ]
    state = "is a folder, no image" if os.path.isdir(path) else "is not there"
    raise DataError(f"{listed.where(missing[0])}: {shown(path)} {state} ({count}); {_advice(path, root)}")


def _advice(path: str, root: str) -> str:
    """What would find the image `path`, which is not there."""
    relative = os.path.relpath(path, root)
    for form in ("NFC", "NFD"):
        if os.path.isfile(os.path.join(root, unicodedata.normalize(form, relative))):
            return f"there is one whose name is the same in Unicode's form {form}; write the list in that form"
    below = sorted(entry.path for entry in os.scandir(root) if entry.is_dir())[:100]
    for folder in (os.path.dirname(os.path.abspath(root)), *below):
        if os.path.isfile(os.path.join(folder, relative)):
            return f"the image lies in another folder: give root {folder}"
    return f"paths are taken from root {root}; check that and the list"


# ---- tables ----


def read_rows(file: str, usual: str = " ") -> tuple[list[list[str]], list[int]]:
    """The rows of a table that are not empty, and their lines; `usual` parts the fields of a file without , ; or tab.

    Raises DataError.
    """
    text = read_text(file)
    filled = [line for line in text.splitlines() if line.strip()]
    first = re.sub(r'"[^"]*"', "", next((line for line in filled if not line.startswith("#")), filled[0]))
    parting = max("\t;,", key=first.rfind) if re.search("[\t;,]", first) else usual
    if "\t" in first and file.lower().endswith(".tsv"):
        parting = "\t"
    if parting == " ":
        numbered = [(line.strip(), number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [[part for part in line.rpartition(" ")[::2] if part] for line, _ in numbered], [n for _, n in numbered]
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=parting, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            f"{file}, line {reader.line_num}: {error}; look for a quotation mark without its partner"
        ) from error
    if not rows:
        raise DataError(f"{file} has separators alone; it needs a line for each image or class")
    return rows, lines


def read_text(file: str) -> str:
    """The content of a text file that is not empty, UTF-8 or UTF-16 with its mark. Raises DataError."""
    try:
        with open(file, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise DataError(
            f"{file} is not there; give the file's own path, absolute or from {os.getcwd()} (not from root)"
        ) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); give the path of a text file") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: this is not UTF-8; save it as 'CSV UTF-8' (or convert it with iconv)"
        ) from error
    if "\0" in text:
        raise DataError(f"{file} is no text file; give a list of path,label or of class names")
    if not text.strip():
        raise DataError(f"{file} is empty; it needs a line for each image or class")
    return text


# ---- names ----


def class_name(text: str, place: str, line: int | None = None) -> str:
    """A class name in Unicode's composed form (NFC). Raises a DataError for what a table or a prompt cannot hold."""
    if not text.strip() or any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text):
        at = shown(place) if line is None else f"{place}, line {line}"
        raise DataError(
            f"{at}: {text!r} cannot be a class name (it is blank, or has line breaks, control characters or bytes "
            "that are not UTF-8); rename it"
        )
    return unicodedata.normalize("NFC", text)


def shown(path: str) -> str:
    """A path as a message can hold it: on one line."""
    return path if path.isprintable() else repr(path)
