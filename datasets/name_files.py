"""A file of class names, in whatever form it comes: lines, a table, JSON or YAML.

    cat                     lines: a name each, commas and all
    0: cat                  numbered lines
    n02123045 tabby, cat    lines that begin with the names that the data use
    cat,tabby cat           .csv and .tsv: name,prompt name; or a number and a name, either way round
    ["cat", "dog"]          .json, .yaml, or such content under another suffix: a list of names,
    {"cat": "tabby cat"}    name -> prompt name, index -> name, name -> index, index -> [name, prompt name];
                            or one of these under a key such as id2label, names, classes

The content is read by what it is, held against the class names that the data use; a header is left out. What could be
read in two ways that give a class another label is refused. Every error names the file and the line.
"""

import json
import re
import unicodedata
from collections.abc import Collection
from typing import Any, NamedTuple

from datasets.base import DataError
from datasets.documents import DOCUMENTS, is_document, read_document
from datasets.lists import LABELS, class_name, read_rows, read_text

PROMPT_TITLES = ("prompt name", "prompt_name", "prompt", "text", "description", "words")
NUMBER_TITLES = (
    "#",
    "id",
    "index",
    "idx",
    "number",
    "no",
    "no.",
    "nr",
    "label_id",
    "class_id",
    "class_index",
    "class index",
)
NAME_TITLES = ("name", "names", "folder", "class name", "classnames", "classes", "labels", "wnid", "synset", *LABELS)
TITLES = {*NAME_TITLES, *PROMPT_TITLES, *NUMBER_TITLES, ""}
KEYS = ("id2label", "idx_to_class", "names", "classnames", "class_names", "classes", "categories", "labels", "label2id")
KEYS += ("class_to_idx",)
NUMBER = re.compile(r"0|[1-9]\d*")
NUMBERED = re.compile(r"(0|[1-9]\d*)(?:\s*([.):,;])(?=\D)|(?=\s))\s*(\S.*)")  # "0: cat", "0 cat"; not "0.5 litres"
QUOTED = re.compile(r"""(["'])((?:(?!\1).)+)\1,?""")
BULLET = re.compile(r"[-*\u2022]\s+(\S.*)")
FORMS = "a name a line, name,prompt name in a .csv, or a JSON or YAML list or mapping of names"


class Entry(NamedTuple):
    """One class of a file: its name in the data, what CLIP reads, and where it stands."""

    name: str
    prompt: str
    place: str  # "line 3"


def read_classnames(file: str, used: Collection[str] = ()) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(name, prompt name) of each class, in the order of the labels, and notes on how the file was read.

    used: what folders and lists call the classes: names, or all of them whole numbers. Raises DataError.
    """
    text = unicodedata.normalize("NFC", read_text(file))
    reader = _Reader(file, frozenset(used))
    suffix = file.lower().rpartition(".")[2]
    if suffix in ("csv", "tsv"):
        entries = reader.table()
    elif suffix in DOCUMENTS or is_document(text):
        entries = reader.content(read_document(file, text, suffix, FORMS))
    else:
        entries = reader.lines(text)
    return reader.checked(entries), tuple(reader.notes)


class _Reader:
    """Reads one file; collects what a user should know of it."""

    def __init__(self, file: str, used: frozenset[str]):
        self.file, self.used = file, used
        self.by_number = bool(used) and all(name.isdecimal() for name in used)
        self.notes: list[str] = []

    def refuse(self, place: str, problem: str) -> DataError:
        return DataError(f"{self.file}{place and ', '}{place}: {problem}")

    def note(self, text: str) -> None:
        self.notes.append(f"{self.file}: {text}")

    # ---- tables ----

    def table(self) -> list[Entry]:
        """The rows of a .csv or .tsv, or of such a table in a text file."""
        rows, lines = read_rows(self.file, usual=",")
        row_of = {
            line: [unicodedata.normalize("NFC", c).strip() for c in row] for line, row in zip(lines, rows, strict=True)
        }
        titled = lines[0] if _are_titles(row_of[lines[0]]) else None
        kept = self.without_comments([(n, ",".join(row)) for n, row in row_of.items() if n != titled])
        rows = [(line, row_of[line]) for line in ([titled] if titled else []) + [line for line, _ in kept]]
        if self.is_header(rows[0][1], [row for _, row in rows[1:]]):
            if len(rows) == 1:
                raise DataError(f"{self.file} has a header and no class names; it needs a line for each class")
            titles = [cell.lower() for cell in rows[0][1]]
            rows = rows[1:]
            if len(titles) == 2 and titles[0] in PROMPT_TITLES and titles[1] in NAME_TITLES:
                rows = [(line, row[::-1]) for line, row in rows]
        for line, row in rows:
            if len(row) > 2 or not row[0]:
                raise self.refuse(
                    f"line {line}",
                    f"expected a class name, or name,prompt name in a .csv, found {','.join(row)[:100]!r}; "
                    "put a name with a comma into quotes, and leave no line empty",
                )
        entries = [Entry(row[0], row[-1] or row[0], f"line {line}") for line, row in rows]
        if any(len(row) == 2 for _, row in rows):
            return self.pairs(entries, in_file_order=True)
        if self.used and self.used <= {entry.name for entry in entries}:
            return entries
        return self.numbered([(line, row[0]) for line, row in rows]) or entries

    def is_header(self, row: list[str], others: list[list[str]]) -> bool:
        """Whether the first row of a table gives titles, not a class."""
        below = {other[0] for other in others}
        if row[0] in self.used and row[0] not in below:  # a class that is really called "label"
            return False
        if others and self.by_number and not self.used <= below and self.labels_needed() > len(others):
            return False  # too few names would be left
        if _are_titles(row):
            return True
        columns = [[other[column] for other in others if len(other) == len(row)] for column in range(len(row))]
        return len(row) == 2 < len(others) and any(
            bool(cell) and not _is_number(cell) and bool(column) and all(map(_is_number, column))
            for cell, column in zip(row, columns, strict=True)
        )

    def labels_needed(self) -> int:
        """Classes that there must be at least where the data label them by number."""
        return max(map(int, self.used)) + 1

    def pairs(self, entries: list[Entry], in_file_order: bool = False) -> list[Entry]:
        """(name, prompt name), or a number and a name in either order: classes in the order of their numbers.

        in_file_order: but in the order of the file where the data call the classes by these numbers.
        """
        if not all(_is_number(entry.name) for entry in entries):
            if not all(_is_number(entry.prompt) for entry in entries) or not _counts([e.prompt for e in entries]):
                return entries
            entries = [Entry(entry.prompt, entry.name, entry.place) for entry in entries]
            in_file_order = False
        numbers = sorted(int(entry.name) for entry in entries)
        known = bool(self.used) and self.used <= {entry.name for entry in entries}
        if known and in_file_order:
            return entries
        entries = sorted(entries, key=lambda entry: int(entry.name))
        if not known and self.used and self.used <= {entry.prompt for entry in entries}:
            return [Entry(entry.prompt, entry.prompt, entry.place) for entry in entries]
        if not known and numbers != list(range(len(numbers))):
            raise self.refuse(
                "",
                f"its classes are numbered {numbers[0]} to {numbers[-1]}, and the data do not use these numbers; "
                f"number them 0 to {len(numbers) - 1}, once each, as the labels are, or write the names as a JSON list",
            )
        return entries

    # ---- lines ----

    def lines(self, text: str) -> list[Entry]:
        """A text file: one name a line, unless all of its lines are plainly something else."""
        lines = re.split(r"\r\n|\r|\n", text.rstrip())
        numbered = list(enumerate(lines, 1))
        numbered = self.without_comments(numbered)
        if not numbered:
            raise DataError(f"{self.file} has comments and no class names; it needs a line for each class")
        names = {line.strip() for _, line in numbered}
        if not (self.used and self.used <= names):
            numbered = self.unwrapped(numbered)
            for read in (self.saved_table, self.numbered, self.fields):
                if (entries := read(numbered)) is not None:
                    return entries
        if self.first_is_header(numbered):
            self.note(f"line {numbered[0][0]}, '{numbered[0][1].strip()}', is read as a header")
            del numbered[0]
        return [Entry(line.strip(), line.strip(), f"line {number}") for number, line in numbered]

    def without_comments(self, numbered: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """The lines that do not begin with #, unless all do. Raises DataError where that may be a class."""
        hashed = [
            (number, line)
            for number, line in numbered
            if line.startswith("#") and not {line.strip(), line.partition(",")[0].strip()} & self.used
        ]
        if not hashed or len(hashed) == len(numbered):
            return numbered
        for number, line in hashed:
            if not re.match(r"#+(\s|$)", line) and (self.by_number or not self.used):
                raise self.refuse(
                    f"line {number}",
                    f"{line[:100]!r} may be a comment or a class name; remove it if it is a comment, "
                    "or write the names as a JSON list",
                )
        self.note(f"lines that begin with # are left out as comments ({len(hashed):,})")
        return [pair for pair in numbered if pair not in hashed]

    def first_is_header(self, numbered: list[tuple[int, str]]) -> bool:
        """Whether the first line is a title such as `name`. Raises DataError where it may be a class, too."""
        (number, line), others = numbered[0], {line.strip() for _, line in numbered[1:]}
        first = line.strip()
        if first.lower() not in TITLES or not first or (first in self.used and first not in others):
            return False
        if not self.by_number or self.used <= others:
            return True
        if self.labels_needed() >= len(numbered) - 1:  # only one reading has a name for each label, and no other
            return self.labels_needed() == len(numbered) - 1
        raise self.refuse(
            f"line {number}",
            f"{first!r} may be a header or the class of label 0; remove it if it is a header, "
            "or write the names as a JSON list",
        )

    def unwrapped(self, numbered: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """Names without the quotes that are around all of them, or the bullets before all (as in a YAML list)."""
        for pattern, group in ((QUOTED, 2), (BULLET, 1)):
            found = [(number, pattern.fullmatch(line.strip())) for number, line in numbered]
            if all(match for _, match in found):
                return [(number, match[group].strip()) for number, match in found]
        return numbered

    def saved_table(self, numbered: list[tuple[int, str]]) -> list[Entry] | None:
        """A table that was saved as text: its first line holds two titles, or all of its fields are in quotes."""
        cells = re.split(r"[,;\t]", numbered[0][1])
        titled = len(cells) == 2 and _are_titles([cell.strip().strip('"') for cell in cells])
        quoted = all(re.match(r"""\s*"[^"]*"[,;\t]""", line) for _, line in numbered)
        return self.table() if titled or quoted else None

    def numbered(self, numbered: list[tuple[int, str]]) -> list[Entry] | None:
        """Lines that all begin with a number of their own, and go on with a name of their own."""
        found = [(number, NUMBERED.fullmatch(line.strip())) for number, line in numbered]
        if not found[0][1] and numbered[0][1].strip() not in self.used:
            found = found[1:]  # a header such as `id name`
        if len(found) < 2 or not all(match for _, match in found):
            return None
        entries = [Entry(match[1], match[3].strip('"'), f"line {number}") for number, match in found]
        if any(len({entry[column] for entry in entries}) < len(entries) for column in (0, 1)):
            return None  # "5 euros", "10 euros"
        signs, numbers = {match[2] for _, match in found}, [entry.name for entry in entries]
        if None in signs and not _counts(numbers) and not self.used <= set(numbers):
            return None  # "50 euros", "9 pins"
        in_order = numbers == [str(i) for i in range(1, len(numbers) + 1)]
        if signs <= {".", ")"} and in_order and "0" in self.used:  # as a person numbers a list
            entries = [Entry(str(i), entry.prompt, entry.place) for i, entry in enumerate(entries)]
        self.note("its lines are numbered; the numbers are left out of the names")
        return self.pairs(entries)

    def fields(self, numbered: list[tuple[int, str]]) -> list[Entry] | None:
        """Lines of a name that the data use and what CLIP shall read; or of two fields with a tab between them."""
        codes = all(re.search(r"\d", name) for name in self.used)
        for sign in ("\t", ",", ";", *((" ",) if codes else ())):
            parts = [line.strip().partition(sign) for _, line in numbered]
            firsts = {first.strip() for first, _, _ in parts}
            known = bool(self.used) and self.used <= firsts and len(firsts) == len(parts)
            columns = sign == "\t" and all(sign not in second for _, _, second in parts)
            if all(second.strip() for _, _, second in parts) and (known or columns):
                rows = zip(parts, numbered, strict=True)
                entries = [
                    Entry(first.strip(), second.strip() or first.strip(), f"line {number}")
                    for (first, _, second), (number, _) in rows
                ]
                title = known and {entries[0].name.lower(), entries[0].prompt.lower()} <= TITLES
                return self.pairs(entries[1:] if title and entries[0].name not in self.used else entries)
        return None

    # ---- JSON and YAML ----

    def content(self, content: Any) -> list[Entry]:
        """A list of names or pairs, or a mapping; or a larger mapping that holds one of these under a known key."""
        if isinstance(content, dict):
            key = next((key for key in KEYS if isinstance(content.get(key), (list, dict))), None)
            if key:
                return self.content(content[key])
            rows = [[name, *(value if isinstance(value, list) else [value])] for name, value in content.items()]
        elif isinstance(content, list):
            rows = [item if isinstance(item, list) else [item] for item in content]
        else:
            raise self.refuse("", f"it holds neither a list nor a mapping; expected {FORMS}")
        if not rows:
            raise DataError(f"{self.file} holds no class names; expected {FORMS}")
        numbered = [_numbered_name(*row) for row in rows]
        if isinstance(content, list) and all(numbered):
            return self.pairs([Entry(*pair, f"entry {i}") for i, pair in enumerate(numbered, 1)])
        if isinstance(content, dict) and any(len(row) > 2 for row in rows):
            return self.named(self.entries(self.in_order(rows)))
        return (self.pairs if isinstance(content, dict) else self.named)(self.entries(rows))

    def entries(self, rows: list[list[Any]]) -> list[Entry]:
        """The rows [name] or [name, prompt name]. Raises DataError for others."""
        entries = []
        for number, row in enumerate(rows, 1):
            cells = [_scalar(cell) for cell in row]
            if not 1 <= len(cells) <= 2 or None in cells or not cells[0]:
                shown = json.dumps(row[0] if len(row) == 1 else row, ensure_ascii=False)[:100]
                problem = f"expected a name, or a name and what CLIP shall read, found {shown}"
                raise self.refuse(f"entry {number}", f"{problem}; write one of these forms: {FORMS}")
            entries.append(Entry(cells[0], cells[-1] or cells[0], f"entry {number}"))
        return entries

    def named(self, entries: list[Entry]) -> list[Entry]:
        """Their names are those that the data use, be it the first or the second ones."""
        names, prompts = ({entry[column] for entry in entries} for column in (0, 1))
        if not self.used <= names and self.used <= prompts:
            return [Entry(entry.prompt, entry.prompt, entry.place) for entry in entries]
        return entries

    def in_order(self, rows: list[list]) -> list[list]:
        """[index, name, prompt name] -> [name, prompt name], by index."""
        keys = [str(row[0]) for row in rows]
        if not all(map(_is_number, keys)) or sorted(map(int, keys)) != list(range(len(keys))):
            problem = f"lists of two names need the keys 0 to {len(keys) - 1}, found {', '.join(keys[:3])}, ...; "
            raise self.refuse("", problem + "write name: prompt name")
        return [row[1:] for _, row in sorted(zip(map(int, keys), rows, strict=True), key=lambda pair: pair[0])]

    # ---- what every form must give ----

    def checked(self, entries: list[Entry]) -> list[tuple[str, str]]:
        """(name, prompt name) of each entry. Raises DataError for a name that cannot be one, or is there twice."""
        seen: dict[tuple[str, str], str] = {}
        for entry in entries:
            if not entry.name:
                raise self.refuse(
                    entry.place,
                    "expected a class name, or name,prompt name in a .csv, found ''; "
                    "put a name with a comma into quotes, and leave no line empty",
                )
            for column, text in (("name", entry.name), ("prompt name", entry.prompt)):
                class_name(text, f"{self.file}, {entry.place}")
                if seen.setdefault((column, text), entry.place) != entry.place:
                    raise self.refuse(
                        entry.place,
                        f"the {column} '{text}' stands in {seen[column, text]}, too; give every class its own, for "
                        "CLIP tells classes apart by what they are called",
                    )
        return [(entry.name, entry.prompt) for entry in entries]


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


def _are_titles(cells: list[str]) -> bool:
    """Whether a row holds titles of columns, at least one of them in words."""
    return any(cells) and all(cell.lower() in TITLES for cell in cells)


def _numbered_name(item: Any, *more: Any) -> tuple[str, str] | None:
    """Number and name of such an item as COCO's categories: {"id": 0, "name": "cat"}."""
    if more or not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    number = next((item[key] for key in ("id", "index", "label") if key in item), None)
    number = _scalar(number)
    return (number, item["name"].strip()) if number and _is_number(number) else None


def _counts(texts: list[str]) -> bool:
    """Whether these numbers are 0..n-1 or 1..n, in any order."""
    numbers = sorted(map(int, texts))
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _scalar(cell: Any) -> str | None:
    """A name as text; null is an empty one; None for what is neither text nor a whole number."""
    if cell is None:
        return ""
    if isinstance(cell, str) or (isinstance(cell, int) and not isinstance(cell, bool)):
        return str(cell).strip()
    return None
