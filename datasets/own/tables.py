"""Text files and tables as spreadsheets and editors write them, and the names in them."""

import csv
import io
import os
import re
import unicodedata
from typing import NamedTuple

from utils.errors import DataError


class Position(NamedTuple):
    """The source of an image or a class, for messages: a line of a list, or a class folder."""

    path: str
    line: int | None = None

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}, line {self.line}"

    def error(self, kind: str, problem: str, key: str | None = None) -> DataError:
        """The error `problem` at this position."""
        return DataError(f"{self}: {problem}", kind=kind, path=self.path, line=self.line, key=key)


def read_rows(file: str, usual: str = " ") -> tuple[list[list[str]], list[int]]:
    """The rows of a table that are not empty, and their lines. Raises DataError.

    usual: separates the fields of a file without comma, semicolon or tab.
    """
    text = read_text(file)
    filled = [line for line in text.splitlines() if line.strip()]
    first = re.sub(r'"[^"]*"', "", next((line for line in filled if not line.startswith("#")), filled[0]))
    separator = max("\t;,", key=first.rfind) if re.search("[\t;,]", first) else usual
    if "\t" in first and file.lower().endswith(".tsv"):
        separator = "\t"
    if separator == " ":
        numbered = [(line.strip(), number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [[cell for cell in line.rpartition(" ")[::2] if cell] for line, _ in numbered], [n for _, n in numbered]
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        message = f"{error}; look for an unpaired quotation mark"
        raise Position(file, reader.line_num).error("bad_quotes", message) from error
    if not rows:
        message = f"{file} has only separators; it needs a line for each image or class"
        raise DataError(message, kind="empty_file", path=file)
    return rows, lines


def read_text(file: str) -> str:
    """The content of a text file that is not empty, UTF-8 or UTF-16 with its mark. Raises DataError."""
    try:
        with open(file, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        message = f"{file} does not exist; give the file's own path, absolute or from {os.getcwd()} (not from root)"
        raise DataError(message, kind="missing_file", path=file) from None
    except OSError as error:
        message = f"{file} cannot be read ({error.strerror}); give the path of a text file"
        raise DataError(message, kind="unreadable_file", path=file) from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = "this is not UTF-8; save it as 'CSV UTF-8' (or convert it with iconv)"
        raise Position(file, line).error("not_utf8", message) from error
    if "\0" in text:
        message = f"{file} is not a text file; give a list of path,label or of class names"
        raise DataError(message, kind="not_text", path=file)
    if not text.strip():
        raise DataError(f"{file} is empty; it needs a line for each image or class", kind="empty_file", path=file)
    return text


# ---- names ----


def class_name(text: str, path: str, line: int | None = None, position: str = "") -> str:
    """A class name in Unicode's composed form (NFC). Raises a DataError for what a table or a prompt cannot hold.

    path: of the file or folder that has the name; position: in that file, where it is not a line.
    """
    if not text.strip() or any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text):
        position = position or (f"line {line}" if line else "")
        source = f"{path}, {position}" if position else shown(path)
        message = (
            f"{source}: {text!r} cannot be a class name (it is blank, or has line breaks, control characters or bytes "
            "that are not UTF-8); rename it"
        )
        raise DataError(message, kind="bad_class_name", path=path, line=line)
    return unicodedata.normalize("NFC", text)


def shown(path: str) -> str:
    """A path as a message can contain it: on one line."""
    return path if path.isprintable() else repr(path)
