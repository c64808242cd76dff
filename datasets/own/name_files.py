"""Files of class names: lines, a table, JSON or YAML.

    cat                     lines: one name each, which may contain commas
    cat,tabby cat           .csv and .tsv: name,prompt name
    ["cat", "dog"]          .json, .yaml, or such content under another suffix: a list of names or of pairs,
    {"cat": "tabby cat"}    name -> prompt name, index -> name, name -> index, index -> names;
                            or one of these under a key such as id2label, names, classes
    0: cat                  numbers of the classes, in any of these: a column, a prefix or a suffix
    n02123045 tabby, cat    lines that begin with the names that the data use, or with ImageNet's ids

Every form becomes entries of one or two texts. Three rules interpret them, given the class names that the data use.
(1) Texts that the data use are names, unchanged. (2) Distinct whole numbers from 0 or 1 without gaps, beside distinct
names, number the classes. (3) All others are names in the order of the labels. A file with two readings that differ in
a class's label is an error. Every error has the file, and the line if there is one.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from datasets.own.class_numbers import are_quantities, cover, is_label, is_numbered, numbers_of, split_numbers
from datasets.own.documents import DOCUMENTS, document_rows, is_document, read_document, scalar
from datasets.own.lists import LABELS
from datasets.own.tables import NAMES_BYTES, class_name, plain, read_rows, read_text, split_sep
from utils.errors import DataError
from utils.text import brief

PROMPT_TITLES = ("prompt name", "prompt_name", "prompt", "text", "description", "words")
NUMBER_TITLES = ("#", "id", "index", "idx", "number", "no", "no.", "nr", "label_id", "class_id", "class_index")
NAME_TITLES = ("name", "names", "folder", "class name", "classnames", "classes", "labels", "wnid", "synset", *LABELS)
TITLES = {*NAME_TITLES, *PROMPT_TITLES, *NUMBER_TITLES, "class index", ""}
IMAGENET_ID = re.compile(r"n\d+")
CODE = re.compile(r".*\d.*")
QUOTED = re.compile(r"""(["'])((?:(?!\1).)+)\1,?""")
BULLET = re.compile(r"[-*\u2022]\s+(\S.*)")
FORMS = "a name a line, name,prompt name in a .csv, or a JSON or YAML list or mapping of names"

MOST = 1_000_000  # class names
LONGEST = 20_000  # letters of a line, or of a name in a document

EXPECTED = "expected a class name, or name,prompt name in a .csv, found"
QUOTE = "put a name with a comma into quotes, and leave no line empty"


class Entry(NamedTuple):
    """One class of a file: its name in the data, its name in prompts, and its position."""

    name: str
    prompt: str
    position: str  # "line 3" or "entry 3"


Line = tuple[int, str]  # its number and its text
Row = tuple[int, list[str]]


def read_classnames(file: str, used: Collection[str] = ()) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(name, prompt name) of each class, in the order of the labels, and notes on how the file was read.

    used: the classes in folders and lists: names, or all of them whole numbers. Raises DataError.
    """
    text = plain(read_text(file, NAMES_BYTES))
    reader = _Reader(file, frozenset(used))
    suffix = file.lower().rpartition(".")[2]
    if suffix in DOCUMENTS or is_document(text):
        entries = reader.content(read_document(file, text, suffix, FORMS))
    else:
        entries = reader.text(text, is_table=suffix in ("csv", "tsv"))
    return reader.checked(entries), tuple(reader.notes)


class _Reader:
    """Reads one file; collects notes for the log."""

    def __init__(self, file: str, used: frozenset[str]):
        self.file, self.used = file, used
        self.by_number = bool(used) and all(map(is_label, used))
        self.labels_needed = max(map(int, used)) + 1 if self.by_number else 0
        self.notes: list[str] = []

    def error(self, kind: str, position: str, problem: str) -> DataError:
        """The error `problem` at a position of the file, "" for all of it."""
        number = _line_number(position)
        return DataError(f"{self.file}{position and ', '}{position}: {problem}", kind=kind, path=self.file, line=number)

    def note(self, text: str) -> None:
        self.notes.append(f"{self.file}: {text}")

    def require_few(self, rows: Sequence[Any]) -> None:
        """Raises DataError for more names than any data set has."""
        if len(rows) > MOST:
            message = f"{self.file} has {len(rows):,} class names, and at most {MOST:,} are read; shorten it"
            raise DataError(message, kind="many_names", path=self.file)

    def require_short(self, text: str, position: str) -> None:
        """Raises DataError for a text that is too long for a name."""
        if len(text) > LONGEST:
            message = f"this has {len(text):,} letters, and a class at most {LONGEST:,}; write one class in each line"
            raise self.error("long_name", position, message)

    def are_used(self, names: Collection[str]) -> bool:
        """Whether these include all names that the data use."""
        return bool(self.used) and self.used <= set(names)

    # ---- lines and tables ----

    def text(self, text: str, is_table: bool) -> list[Entry]:
        """The entries of a text file: a table, or one name a line unless all lines have another form."""
        lines, has_separator = self.lines(text)
        rows = [(number, [line]) for number, line in lines]
        if is_table := is_table or has_separator or _is_saved_table(lines):
            rows = self.table(text, {number for number, _ in lines})
        if len(rows[0][1]) == 1:
            lines = [(number, cells[0].strip()) for number, cells in rows]
            if not self.are_used([line for _, line in lines]):
                lines = _unwrapped(lines)
                if entries := self.divided(lines):
                    return self.unshifted(entries, lines[0])
            rows = [(number, [line]) for number, line in lines]
        first = (rows[0][0], ",".join(rows[0][1]))
        self.require_words(rows)
        headed = self.is_header(rows, is_table)
        if headed and len(rows) == 1:
            message = f"{self.file} has a header and no class names; add a line for each class"
            raise DataError(message, kind="header_only", path=self.file)
        if headed:
            titles = [cell.lower() for cell in rows.pop(0)[1]]
            if len(titles) == 2 and titles[0] in PROMPT_TITLES and titles[1] in NAME_TITLES:
                rows = [(number, row[::-1]) for number, row in rows]
            elif len(titles) == 1 and not is_table:
                self.note(f"line {first[0]}, '{first[1]}', is read as a header")
        entries = [Entry(row[0], row[-1] or row[0], f"line {number}") for number, row in rows]
        if len(rows[0][1]) == 2:
            entries = self.pairs(entries, in_file_order=True)
        return entries if headed else self.unshifted(entries, first)

    def lines(self, text: str) -> tuple[list[Line], bool]:
        """The lines without comments and Excel's first line sep=; and whether there was one. Raises DataError."""
        text, separator = split_sep(text)
        numbered = [*enumerate(re.split(r"\r\n|\r|\n", text.rstrip()), 1)]
        self.require_few(numbered)
        for number, line in numbered:
            self.require_short(line, f"line {number}")
        return self.without_comments(numbered[separator is not None :] or numbered), separator is not None

    def divided(self, lines: list[Line]) -> list[Entry] | None:
        """The entries of lines that all have two parts: a number and a name, or two names."""
        entries = self.numbered(lines)
        if entries is None or (self.used and not self.by_number and not self.are_used([e.name for e in entries])):
            entries = self.fields(lines) or entries
        else:
            self.note("its lines are numbered; the numbers are left out of the names")
        return entries

    def without_comments(self, lines: list[Line]) -> list[Line]:
        """The lines that do not begin with #, unless all do. Raises DataError if such a line may be a class."""
        hashed = [
            (number, line)
            for number, line in lines
            if line.startswith("#")
            and not {line.strip(), line.partition(",")[0].strip()} & self.used
            and not ("," in line and _are_titles(line.split(",")))
        ]
        if not hashed or len(hashed) == len(lines):
            return lines
        for number, line in hashed:
            if not re.match(r"#+(\s|$)", line) and (self.by_number or not self.used):
                message = (
                    f"{line[:100]!r} may be a comment or a class name; remove it if it is a comment, "
                    "or write the names as a JSON list"
                )
                raise self.error("ambiguous_comment", f"line {number}", message)
        self.note(f"lines that begin with # are left out as comments ({len(hashed):,})")
        left_out = set(hashed)
        return [line for line in lines if line not in left_out]

    def suitability(self, rows: Sequence[list[str]]) -> tuple[bool, int, bool, int]:
        """A score of rows as class names: a header, names that the data use, numbers of classes, and two columns."""
        columns = [[row[column].strip() for row in rows[1:] if len(row) == 2] for column in (0, 1)]
        titled = len(rows[0]) == 2 and _are_titles([cell.strip() for cell in rows[0]])
        known = max(sum(cell in self.used for cell in column) for column in columns)
        numbered = any(column and numbers_of(column, with_words=True) is not None for column in columns)
        return titled, known, numbered, sum(len(row) == 2 for row in rows)

    def table(self, text: str, wanted: set[int]) -> list[Row]:
        """The wanted rows of a table, with their lines; all have one field, or all have two. Raises DataError."""
        rows = [
            (line, [cell.strip() for cell in row])
            for line, row in read_rows(self.file, text, ",", self.suitability)
            if line in wanted
        ]
        for line, row in rows:
            if len(row) > 2:
                raise self.error("too_many_fields", f"line {line}", f"{EXPECTED} {','.join(row)[:100]!r}; {QUOTE}")
        if not rows:
            message = f"{self.file} has comments and no class names; add a line for each class"
            raise DataError(message, kind="comments_only", path=self.file)
        one, two = (next((line for line, row in rows if len(row) == width), None) for width in (1, 2))
        if one and two:
            message = (
                f"there are two fields, but one field in line {one}; put a name with a comma into quotes, or write "
                "name,prompt name in every line"
            )
            raise self.error("uneven_fields", f"line {two}", message)
        return rows

    def is_header(self, rows: list[Row], is_table: bool = True) -> bool:
        """Whether the first row contains titles, not a class. Raises DataError if it may be a class, too."""
        (line, first), others = rows[0], [row for _, row in rows[1:]]
        below = [row[0] for row in others]
        if first[0] in self.used and first[0] not in below:  # a class that is named "label"
            return False
        if not _are_titles(first):
            columns = zip(first, zip(*others, strict=True), strict=False)
            return len(first) == 2 <= len(others) and any(
                title and numbers_of([title]) is None and numbers_of(column) is not None for title, column in columns
            )
        spare = len(others) - self.labels_needed
        if self.by_number and others and not self.are_used(below):
            if spare > 0 and not is_table:
                message = (
                    f"{first[0]!r} may be a header or the class of label 0; remove it if it is a header, "
                    "or write the names as a JSON list"
                )
                raise self.error("ambiguous_header", f"line {line}", message)
            return spare >= 0  # otherwise too few names would remain
        return True

    def unshifted(self, entries: list[Entry], first: Line) -> list[Entry]:
        """The entries. Raises DataError if they are in the order of the labels and there is one more than needed."""
        names = [entry.name for entry in entries]
        if self.by_number and not self.are_used(names) and len(entries) == self.labels_needed + 1:
            message = (
                f"there is one name more than labels 0 to {self.labels_needed - 1} need, and this line is "
                f"{first[1][:100]!r}; remove it if it is a header; if the last class has no pictures yet, number the "
                "lines (0: NAME) or write the names as a JSON list"
            )
            raise self.error("one_name_too_many", f"line {first[0]}", message)
        return entries

    def require_words(self, rows: list[Row]) -> None:
        """Raises DataError for an empty line, and for one such as [ or --- that is not a name in the data."""
        for line, row in rows:
            if not row[0] and not _are_titles(row):
                raise self.error("empty_name", f"line {line}", f"{EXPECTED} {','.join(row)[:100]!r}; {QUOTE}")
            if row[0] and row[0] not in self.used and not any(map(str.isalnum, row[0])):
                message = (
                    f"{row[0][:100]!r} has neither a letter nor a digit; remove the line, or write the names as a JSON "
                    "list if it is one"
                )
                raise self.error("not_a_name", f"line {line}", message)

    def numbered(self, lines: list[Line], unit: str = "line") -> list[Entry] | None:
        """Texts that all begin or end with a distinct number; a line such as `id name` may precede them."""
        found = split_numbers([text for _, text in lines], self.used)
        is_title = unit == "line" and lines[0][1] not in self.used and not is_numbered(lines[0][1])
        if not found and is_title and len(lines) > max(2, self.labels_needed):
            lines = lines[1:]
            found = split_numbers([text for _, text in lines], self.used)
        if not found:
            return None
        numbered = zip(found, lines, strict=True)
        return self.pairs([Entry(str(number), name, f"{unit} {at}") for (number, name), (at, _) in numbered])

    def fields(self, lines: list[Line]) -> list[Entry] | None:
        """Lines of a name that the data use, or ImageNet's id, then a prompt name; or of two fields with a tab."""
        codes = all(map(CODE.fullmatch, self.used))
        for sign in "\t,; ":
            parts = [[part.strip() for part in line.partition(sign)[::2]] for _, line in lines]
            firsts = [first for first, _ in parts]
            known = self.are_used(firsts) and (sign != " " or codes)
            known = len(set(firsts)) == len(firsts) and (known or all(map(IMAGENET_ID.fullmatch, firsts)))
            columns = sign == "\t" and all(sign not in second for _, second in parts)
            if not all(second for _, second in parts) or not (known or columns):
                continue
            rows = [(line, row) for (line, _), row in zip(lines, parts, strict=True)]
            rows = rows[self.is_header(rows) :]
            entries = [Entry(first, second, f"line {line}") for line, (first, second) in rows]
            inner = split_numbers([entry.prompt for entry in entries], self.used) if known else None
            if inner:  # n02119789 1 kit_fox
                is_used = self.are_used(firsts)
                entries = [
                    Entry(entry.name if is_used else str(number), name, entry.position)
                    for entry, (number, name) in zip(entries, inner, strict=True)
                ]
            return self.pairs(entries)
        return None

    # ---- JSON and YAML ----

    def content(self, content: Any) -> list[Entry]:
        """A list of names or pairs, or a mapping; or a larger mapping that contains one of these."""
        rows = document_rows(content)
        if rows is None:
            raise self.error("not_a_list_or_mapping", "", f"it contains neither a list nor a mapping; expected {FORMS}")
        self.require_few(rows)
        if not rows:
            message = f"{self.file} contains no class names; expected {FORMS}"
            raise DataError(message, kind="no_class_names", path=self.file)
        if all(len(row) == 2 for row in rows) and any(isinstance(row[1], list) for row in rows):
            return self.named_by_lists(rows)
        entries = self.entries(rows)
        if len({len(row) for row in rows}) > 1:
            message = f"some of its entries have one text, and others two; expected {FORMS}"
            raise self.error("uneven_entries", "", message)
        if len(rows[0]) == 2:
            return self.pairs(entries)
        names = [entry.name for entry in entries]
        numbered = None if self.are_used(names) else self.numbered([*enumerate(names, 1)], "entry")
        if numbered:
            self.note("its entries are numbered; the numbers are left out of the names")
        return numbered or entries

    def named_by_lists(self, rows: list[list[Any]]) -> list[Entry]:
        """key -> [name, ...]: the first name is used; or key -> [code, prompt name]: ImageNet's, or one in the data."""
        lists = [row[1] if isinstance(row[1], list) else [row[1]] for row in rows]
        for number, names in enumerate(lists, 1):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                message = f"expected a list of names, found {brief(names)}; write {FORMS}"
                raise self.error("bad_entry", f"entry {number}", message)
        firsts = {f"entry {number}": names[0].strip() for number, names in enumerate(lists, 1)}
        are_used = self.are_used(firsts.values())
        code = CODE if are_used else IMAGENET_ID
        are_ids = all(map(code.fullmatch, firsts.values()))
        chosen = [names[:2][-1] if are_ids else names[0] for names in lists]
        entries = self.pairs(self.entries([(row[0], name) for row, name in zip(rows, chosen, strict=True)]))
        return [entry._replace(name=firsts[entry.position]) for entry in entries] if are_used else entries

    def entries(self, rows: Sequence[Sequence[Any]]) -> list[Entry]:
        """The rows [name] or [name, prompt name]. Raises DataError for others."""
        entries = []
        for number, row in enumerate(rows, 1):
            cells = [scalar(cell) for cell in row]
            self.require_short(max(filter(None, cells), key=len, default=""), f"entry {number}")
            if not 1 <= len(cells) <= 2 or None in cells or not cells[0]:
                problem = "expected a name, or a name and a prompt name, found "
                problem += brief(row[0] if len(row) == 1 else row)
                raise self.error("bad_entry", f"entry {number}", f"{problem}; write one of these forms: {FORMS}")
            entries.append(Entry(cells[0], cells[-1] or cells[0], f"entry {number}"))
        return entries

    # ---- every form ----

    def pairs(self, entries: list[Entry], in_file_order: bool = False) -> list[Entry]:
        """(name, prompt name), or a number and a name in either order: classes in the order of their numbers.

        in_file_order: but in the order of the file if the classes of the data are these numbers.
        """
        names, prompts = [entry.name for entry in entries], [entry.prompt for entry in entries]
        labels = {int(name): name for name in self.used} if self.by_number else {}
        is_known = self.are_used(names)
        numbers, texts = self.number_column(entries, names, prompts)
        if numbers is None or (is_known and texts is prompts and (in_file_order or not labels)):
            if not is_known and self.are_used(prompts) and all(map(IMAGENET_ID.fullmatch, names)):
                return [entry._replace(name=entry.prompt) for entry in entries]
            return entries
        rows = sorted(zip(numbers, texts, [entry.position for entry in entries], strict=True), key=lambda row: row[0])
        if self.used and not labels:
            return [Entry(prompt, prompt, position) for _, prompt, position in rows]
        numbers = [number for number, _, _ in rows]
        if not (labels and labels.keys() <= set(numbers)) and numbers != [*range(len(numbers))]:
            last = len(numbers) - 1
            message = (
                f"its classes are numbered {numbers[0]} to {numbers[-1]}, and the data do not use these numbers; "
                f"number them 0 to {last}, once each, as the labels are (if these numbers are part of the names, "
                'write a JSON mapping {"0": NAME, ...})'
            )
            raise self.error("wrong_numbers", "", message)
        return [Entry(labels.get(number, str(number)), prompt, position) for number, prompt, position in rows]

    def number_column(
        self, entries: list[Entry], names: list[str], prompts: list[str]
    ) -> tuple[list[int] | None, list[str]]:
        """The column that numbers the classes, if one does, and the other one. Raises DataError for other numbers."""
        if (numbers := numbers_of(names)) is not None:
            return numbers, prompts
        if are_quantities(prompts):
            numbers = numbers_of(prompts)
            if numbers and (cover(numbers) or (self.by_number and set(map(int, self.used)) <= set(numbers))):
                return numbers, names
            message = (
                f"the second column contains numbers ({', '.join(prompts[:3])}), which neither number the classes 0 to "
                f"{len(entries) - 1} nor are words that CLIP can read; remove it, or write name,prompt name"
            )
            raise self.error("numbers_as_prompts", entries[0].position, message)
        for texts, others in ((names, prompts), (prompts, names))[self.are_used(names) :]:
            if (numbers := numbers_of(texts, with_words=True)) and cover(numbers):  # class_2
                return numbers, others
        return None, prompts

    def checked(self, entries: list[Entry]) -> list[tuple[str, str]]:
        """(name, prompt name) of each entry. Raises DataError for an impossible or a repeated name."""
        seen: dict[tuple[str, str], str] = {}
        names = []
        for entry in entries:
            line = _line_number(entry.position)
            name, prompt = (class_name(text, self.file, line, entry.position) for text in (entry.name, entry.prompt))
            names.append((name, prompt))
            for column, text in (("name", name), ("prompt name", prompt)):
                if seen.setdefault((column, text), entry.position) != entry.position:
                    message = (
                        f"the {column} '{text}' is in {seen[column, text]}, too; write a distinct one for each class, "
                        "as CLIP distinguishes classes by their names"
                    )
                    raise self.error("repeated_name", entry.position, message)
        return names


def _line_number(position: str) -> int | None:
    """3 for "line 3", None for an entry of a document."""
    return int(position.removeprefix("line ")) if position.startswith("line ") else None


def _is_saved_table(lines: list[Line]) -> bool:
    """Whether a table was saved as text: its first line has two titles, or all first fields are in quotes."""
    cells = re.split(r"[,;\t]", lines[0][1])
    titled = len(cells) == 2 and _are_titles([cell.strip().strip('"') for cell in cells])
    titled = titled and all(re.search(r"[,;\t]", line) for _, line in lines)
    return titled or all(re.match(r"""\s*"[^"]*"[,;\t]""", line) for _, line in lines)


def _unwrapped(lines: list[Line]) -> list[Line]:
    """Names without the quotes that are around all of them, or the bullets before all (as in a YAML list)."""
    for pattern, group in ((QUOTED, 2), (BULLET, 1)):
        found = [(number, match[group].strip()) for number, line in lines if (match := pattern.fullmatch(line))]
        if len(found) == len(lines):
            return found
    return lines


def _are_titles(cells: list[str]) -> bool:
    """Whether a row contains titles of columns, at least one of them in words."""
    return any(cells) and all(cell.lower() in TITLES for cell in cells)
