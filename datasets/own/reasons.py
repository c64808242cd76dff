"""Explains why a list cannot be read, and suggests a remedy: used when an error is certain."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote

from datasets.own.pictures import EXTENSIONS

FOLDERS = 100  # of root that are searched for a missing image
ENTRIES = 200_000  # of a folder that are searched for a similar name

# ---- first rows ----

_NUMBER = re.compile(r"[-+]?\d[\d.,' ]*%?")
_TOTALS = (
    *("totals?", "totale", "sums?", "counts?", "mean", "average", "summe", "gesamt\\w*", "insgesamt", "anzahl"),
    *("somme", "suma", "итого", "всего", "合计", "总计", "合計", "計"),
)
_TOTAL = re.compile(rf"(?:(?:grand|sub|sum)[ -]?)?(?:{'|'.join(_TOTALS)})(?:\W+\d[\d.,']*)?(?:\W+\w*)?", re.I)
_ROWS = re.compile(r"\(?\d[\d.,']* (?:rows?|lines?|images?|files?|records?|entries)\b.*", re.I)  # of a database
_MARKUP = re.compile(r"<!doctype|<html|<\?xml|<[a-z]+>", re.I)


def is_total(row: Sequence[str]) -> bool:
    """Whether a row is the total below a table, such as Total,1234, or a count of rows."""
    filled = [cell.strip()[:100] for cell in row if cell.strip()]
    if not filled or not all(map(_NUMBER.fullmatch, filled[1:])):
        return False
    return any(pattern.fullmatch(filled[0]) for pattern in (_TOTAL, _ROWS))


def reason_of(row: Sequence[str], has_path: bool) -> str | None:
    """The reason why the first row of a list is neither path,label nor a known header, and a remedy; None if unknown.

    has_path: whether it is a header with a column of paths.
    """
    cells = [cell.strip() for cell in row]
    images = [_is_image(cell) for cell in cells]
    words = [cell for cell in cells if cell]
    cases = (
        (_MARKUP.match(cells[0]), "this is a web page or XML, not a list; download the file itself"),
        (cells[0][:1] in ("{", "["), "this is JSON, not a list; write lines of path,label"),
        (any("://" in cell for cell in cells), "images are addresses; download them and list their paths"),
        (
            len(cells) == 1 and any(map(_is_image, re.split(r"[,;\t]", cells[0]))) and not images[0],
            "the whole line is in quotes; remove these, so that path and label are two fields",
        ),
        (
            len(cells) == 1 and images[0],
            "the lines have a path and no label; write path,label (for class folders, set root alone)",
        ),
        (
            len(cells) == 2 and images == [False, True],
            "the label is before the path; write path,label or a header such as label,path",
        ),
        (
            len(cells) > 2 and any(images) and cells[0].isdecimal(),
            "the first column numbers the lines; remove it, or write a header with path and label",
        ),
        (
            sum(images) > 1,
            "the line has several images; write one image a line, as path,label",
        ),
        (
            len(cells) > 2 and any(images),
            "there are more than two columns and no header; write one with path and label (or classname)",
        ),
        (
            len(words) > 1 and all(cell.isdecimal() for cell in words),
            "the columns are named by numbers; write a header with path and label (or classname)",
        ),
        (
            has_path and len(cells) > 3,
            "there is a column of paths and none of labels; if the other columns are classes with 0 and 1 (one-hot), "
            "write one column named label with the name of the class",
        ),
    )
    return next((reason for condition, reason in cases if condition), None)


def _is_image(cell: str) -> bool:
    return os.path.splitext(cell)[1].lower() in EXTENSIONS


# ---- missing images ----


def state_of(path: str) -> str:
    """The state of the path of a missing image: a folder, a broken link, or nothing."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "does not exist"
    except OSError as error:
        return f"cannot be accessed: {error.strerror}"
    return "is a folder, not an image"


def advice(path: str, root: str) -> str:
    """Advice to find the missing image `path`."""
    if other := another_name(path, root):
        return f"{other}; correct the list"
    relative = os.path.relpath(path, root)
    for folder in _near(root):
        if os.path.isfile(os.path.join(folder, relative)):
            return f"the image is in another folder: set root {folder}"
    for folder in _near(root):
        if other := another_name(os.path.join(folder, relative), folder):
            return f"the image is in another folder and has another name: with root {folder}, {other}"
    return f"paths are relative to root {root}; check that and the list"


def another_name(path: str, root: str) -> str:
    """A phrase about a file of a similar name: with another suffix, or in other letters; "" if there is none."""
    wanted = os.path.relpath(path, root)
    for form in ("NFC", "NFD"):
        if os.path.isfile(os.path.join(root, unicodedata.normalize(form, wanted))):
            return f"there is one with the same name in Unicode's form {form}"
    for name in dict.fromkeys((wanted, unquote(wanted))):
        found = _similar(root, name.split("/"))
        if found:
            return f"there is {found}, and the list has {wanted}"
    return ""


def _near(root: str) -> list[str]:
    """The folder above root, and the first folders in it."""
    try:
        below = sorted(entry.path for entry in os.scandir(root) if entry.is_dir())[:FOLDERS]
    except OSError:
        below = []
    return [os.path.dirname(os.path.abspath(root)), *below]


def _similar(root: str, parts: Sequence[str]) -> str:
    """The path below root that differs from these parts by case, spaces around them, or the suffix; or ""."""
    found: list[str] = []
    for number, part in enumerate(parts):
        folder, last = os.path.join(root, *found), number == len(parts) - 1
        fits: Callable[[str], bool] = os.path.isfile if last else os.path.isdir
        if part in ("", ".", ".."):
            return ""
        names = (name for name in _alternatives(folder, part, last) if fits(os.path.join(folder, name)))
        name = next(names, None)
        if name is None:
            return ""
        found.append(name)
    return "/".join(found)


def _alternatives(folder: str, name: str, is_file: bool) -> Iterator[str]:
    """Names in a folder that differ from this one by case or, for a file, by suffix; the closest first."""
    if os.path.exists(os.path.join(folder, name)):
        yield name
    try:
        there = [entry.name for _, entry in zip(range(ENTRIES), os.scandir(folder), strict=False)]
    except OSError:
        return
    folded = _folded(name)
    yield from sorted(other for other in there if _folded(other) == folded)
    if is_file:
        stems = {folded, _folded(os.path.splitext(name.strip())[0])}
        pictures = sorted(other for other in there if _is_image(other))
        yield from (other for other in pictures if _folded(os.path.splitext(other)[0]) in stems)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()
