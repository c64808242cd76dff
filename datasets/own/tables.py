"""Reads text files and tables of spreadsheets and editors, and the names in them."""

import contextlib
import csv
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from utils.errors import DataError
from utils.files import read_limited
from utils.text import BIDI

LIST_BYTES = 1 << 30  # of the largest list that is read: 10 to 30 million lines
NAMES_BYTES = 100 << 20  # of the largest file of class names
SEPARATORS = "\t;,"  # in order of preference
LINE_LETTERS = 1_000_000  # of a line of a table
SAMPLE = 100  # rows by which the separator is chosen
EXCEL = re.compile(r'\s*"?sep=([^\w\s"]|\t)"?[\t;, ]*(?=[\r\n]|\Z)', re.I)  # a first line of Excel's
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
QUOTED = re.compile(r'\A"((?:[^"]|"")*)"\Z')
QUOTED_END = re.compile(r'(.*\S) +("(?:[^"]|"")*")')
FORMATS = {  # first bytes of files that are mistaken for a list
    b"PK\x03\x04": ("a workbook (.xlsx, .ods) or a zip archive", "save the table as 'CSV UTF-8', or unpack it"),
    b"\xd0\xcf\x11\xe0": ("a workbook of an old Excel", "save the table as CSV"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it"),
    b"BZh": ("compressed by bzip2", "unpack it"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it"),
    b"(\xb5/\xfd": ("compressed by zstd", "unpack it"),
    b"PAR1": ("a Parquet file", "write it as CSV"),
    b"\xff\xd8\xff": ("a picture", "set a list of pictures instead"),
    b"\x89PNG": ("a picture", "set a list of pictures instead"),
    b"%PDF": ("a PDF", "save the table as CSV"),
}

NO_MARKS = dict.fromkeys(map(ord, BIDI))  # for str.translate; they are invisible, and would make two classes of one

Row = tuple[int, list[str]]  # its line and its cells


class Position(NamedTuple):
    """The source of an image or a class, for messages: a line of a list, or a class folder."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}, line {self.line}"

    def error(self, kind: str, problem: str, key: str | None = None) -> DataError:
        """The error `problem` at this position."""
        return DataError(f"{self}: {problem}", kind=kind, path=self.path, line=self.line, key=key)


# ---- text ----


def read_text(file: str, limit: int, errors: str = "strict") -> str:
    """The content of a text file of at most `limit` bytes that is not empty, UTF-8 or UTF-16 with its mark.

    errors: for bytes that are not UTF-8, as in str.decode. Raises DataError.
    """
    try:
        content = read_limited(file, limit, shell_pipe=True)
    except FileNotFoundError:
        message = f"{file} does not exist; set its path, absolute or relative to {os.getcwd()} (not to root)"
        raise DataError(message, kind="missing_file", path=file) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        message = f"{file} cannot be read ({reason}); set the path of a text file"
        raise DataError(message, kind="unreadable_file", path=file) from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding != "utf-16":
        _require_text(file, content)
    try:
        text = content.decode(encoding, "strict" if encoding == "utf-16" else errors)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            message = f"{file} is not valid UTF-16 (truncated, or two files in one); save it as 'CSV UTF-8'"
            raise DataError(message, kind="not_utf16", path=file) from error
        line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
        message = "this is not UTF-8; save it as 'CSV UTF-8' (or convert it with iconv)"
        raise Position(file, line).error("not_utf8", message) from error
    if "\0" in text:
        message = f"{file} is not a text file; set a list of path,label or of class names"
        raise DataError(message, kind="not_text", path=file)
    if not text.strip():
        raise DataError(f"{file} is empty; add a line for each image or class", kind="empty_file", path=file)
    return text


def _require_text(file: str, content: bytes) -> None:
    """Raises a DataError for a file of another known format."""
    for start, (kind, advice) in FORMATS.items():
        if content.startswith(start):
            message = f"{file} is {kind}, not a text file; {advice}"
            raise DataError(message, kind="not_text", path=file)
    head = content[:1000]
    if len(head) > 3 and 3 * max(head[::2].count(0), head[1::2].count(0)) > len(head):  # every second byte
        message = f"{file} is UTF-16 without its mark (zero bytes between the letters); save it as 'CSV UTF-8'"
        raise DataError(message, kind="not_utf8", path=file)


# ---- tables ----


def split_sep(text: str) -> tuple[str, str | None]:
    """The text without Excel's first line `sep=;`, whose line end stays, and that separator; None where it has none."""
    match = EXCEL.match(text)
    return (text[match.end() :], match[1]) if match else (text, None)


def read_rows(
    file: str, text: str, usual: str = " ", suits: Callable[[Sequence[list[str]]], tuple] = lambda rows: ()
) -> Iterator[Row]:
    """The rows of the table `text` that are not empty, with their lines. Raises DataError.

    The separator is the one by which the first rows have the best score and the same number of fields. usual: of a file
    without comma, semicolon or tab. suits: the score of rows, compared between separators.
    """
    text, separator = split_sep(text)
    if (line := next((match for match in LINE.finditer(text) if len(match[0]) > LINE_LETTERS), None)) is not None:
        number = text.count("\n", 0, line.start()) + 1
        message = f"the line has {len(line[0]):,} letters; a table has a line for each image or class"
        raise Position(file, number).error("long_line", message)
    empty = True
    for row in _parse(text, separator or _separator(file, text, usual, suits), file):
        empty = False
        yield row
    if empty:
        message = f"{file} has only separators; add a line for each image or class"
        raise DataError(message, kind="empty_file", path=file)


def _parse(text: str, separator: str, file: str) -> Iterator[Row]:
    """The rows by one separator that are not empty. Lines are split at their last space. Raises DataError."""
    lines = (match[0] for match in LINE.finditer(text))
    if separator == " ":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _by_last_space(line.strip())
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, row
    except csv.Error as error:
        message = f"{error}; look for an unpaired quotation mark"
        raise Position(file, reader.line_num).error("bad_quotes", message) from error


def _by_last_space(line: str) -> list[str]:
    """The fields of a line without separators; a last field in quotes may have spaces."""
    match = QUOTED_END.fullmatch(line)
    cells = match.groups() if match else line.rpartition(" ")[::2]
    return [QUOTED.sub(lambda cell: cell[1].replace('""', '"'), cell.strip()) for cell in cells if cell]


def _separator(file: str, text: str, usual: str, suits: Callable[[Sequence[list[str]]], tuple]) -> str:
    """The separator by which the first rows look most like a table."""
    ranks: dict[str, tuple] = {}
    for separator in (*SEPARATORS, *(" " if usual == " " else "")):
        rows = _sample(text, separator, file)
        widths = Counter(map(len, rows)).most_common()
        if widths and max(widths, key=lambda width: width[::-1])[0] > 1:
            ranks[separator] = (*suits(rows), widths[0][1] / len(rows))
    if "\t" in ranks and file.lower().endswith(".tsv"):
        return "\t"
    if ranks:
        return max(ranks, key=ranks.__getitem__)  # the first of equal ones
    first = next((line[0] for line in LINE.finditer(text) if line[0].strip() and not line[0].startswith("#")), "")
    first = re.sub(r'"[^"]*"', "", first)
    return max(SEPARATORS, key=first.rfind) if re.search(f"[{SEPARATORS}]", first) else usual


def _sample(text: str, separator: str, file: str) -> list[list[str]]:
    """The first rows by a separator, without comments, as far as they can be parsed."""
    rows: list[list[str]] = []
    with contextlib.suppress(DataError):
        rows.extend(row for _, row in itertools.islice(_parse(text, separator, file), SAMPLE))
    return [row for row in rows if not row[0].startswith("#")] or rows


# ---- names ----


def class_name(text: str, path: str, line: int | None = None, position: str = "") -> str:
    """A class name in plain form.

    Raises a DataError for a name that a table or a prompt cannot contain. path: of the file or folder that has the
    name; position: in that file, if it is not a line.
    """
    name = plain(text)
    is_bad = any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name)
    if is_bad or not name.strip():
        position = position or (f"line {line}" if line else "")
        source = f"{path}, {position}" if position else path
        message = (
            f"{source}: '{text[:100]}' cannot be a class name (it is blank, or has line breaks, control characters or "
            "bytes that are not UTF-8); rename it"
        )
        raise DataError(message, kind="bad_class_name", path=path, line=line)
    return name


def plain(text: str) -> str:
    """Text in Unicode's composed form (NFC), without marks of direction."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(NO_MARKS))
