"""Pictures without labels: files, folders, lists, and paths from the standard input, in the given order.

A folder is searched with its subfolders. A .txt has a path in each line. A .csv or .tsv has the paths in the column
named path, or else in its first one. Relative paths in a list are relative to the list's folder, or else to the
working directory. A repeated path counts twice.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from datasets.own.folder import pictures_below
from datasets.own.lists import PATHS
from datasets.own.tables import LIST_BYTES, read_rows, read_text
from utils.errors import DataError
from utils.text import listed

TABLES = (".csv", ".tsv")
LISTS = (".txt", *TABLES)
STANDARD_INPUT = "-"


def find_pictures(arguments: Iterable[str], read_input: Callable[[], bytes], note: Callable[[str], None]) -> list[str]:
    """The paths of all pictures in the arguments. Raises DataError if there are none.

    read_input: called for the argument "-"; returns paths, each with a line end or a zero byte after it. note: called
    with a line about the files that are skipped in a folder.
    """
    arguments = list(arguments)
    paths = [path for argument in arguments for path in _pictures_of(argument, read_input, note)]
    if not paths:
        searched = ["the standard input" if argument == STANDARD_INPUT else argument for argument in arguments]
        message = f"no pictures are in {listed(searched)}; pass files, folders or lists of pictures"
        raise DataError(message, kind="no_pictures")
    return paths


def _pictures_of(argument: str, read_input: Callable[[], bytes], note: Callable[[str], None]) -> list[str]:
    if argument == STANDARD_INPUT:
        return split_paths(read_input())
    if os.path.isdir(argument):
        paths, notes = pictures_below(argument)
        for line in (*notes, *([] if paths else [f"{argument}: no pictures"])):
            note(line)
        return paths
    if argument.lower().endswith(LISTS):
        return list(read_paths(argument))
    return [argument]


def read_standard_input() -> bytes:
    """The standard input, up to the limit of `split_paths`."""
    return sys.stdin.buffer.read(LIST_BYTES + 1)


def split_paths(content: bytes) -> list[str]:
    """The paths in the output of another program: one per line, or separated by zero bytes (`find -print0`).

    Raises DataError if there is too much of it.
    """
    if len(content) > LIST_BYTES:
        message = f"the standard input has more than {LIST_BYTES / 2**20:,.0f} MB of paths; use several commands"
        raise DataError(message, kind="long_input")
    lines = content.split(b"\0") if b"\0" in content else (line.removesuffix(b"\r") for line in content.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line]


def read_paths(file: str) -> Iterator[str]:
    """The paths in a list, relative to the working directory. Raises DataError."""
    folder = os.path.dirname(file)
    text = read_text(file, LIST_BYTES, errors="surrogateescape")  # names of files may be any bytes
    is_table = file.lower().endswith(TABLES)
    written = _first_cells(file, text) if is_table else (line for line in re.split(r"\r?\n", text) if line.strip())
    for path in written:
        beside = os.path.join(folder, path)
        yield beside if os.path.lexists(beside) or not os.path.lexists(path) else path


def _first_cells(file: str, text: str) -> Iterator[str]:
    """The cells of a table in the column that its header names path, or in the first column."""
    column = 0
    for number, (_, row) in enumerate(read_rows(file, text, usual=",", suits=_has_paths)):
        titles = [cell.strip().lower() for cell in row]
        title = next((title for title in PATHS if title in titles), None)
        if number == 0 and title is not None:
            column = titles.index(title)
        elif len(row) > column and row[column]:
            yield row[column]


def _has_paths(rows: Sequence[list[str]]) -> tuple[bool]:
    """Whether rows have a header with a column of paths."""
    return (not {cell.strip().lower() for cell in rows[0]}.isdisjoint(PATHS),)
