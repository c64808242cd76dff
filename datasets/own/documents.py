"""JSON and YAML documents in the user's files, read without losing a key or changing a name."""

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from datasets.own.class_numbers import numbers_of
from datasets.own.tables import plain
from utils.errors import DataError

DOCUMENTS = ("json", "yaml", "yml")  # suffixes
KEYS = (  # of a larger mapping, in this order
    *("id2label", "idx_to_class", "names", "classnames", "class_names", "label_names", "classes", "categories"),
    *("labels", "label2id", "class_to_idx"),
)
# YAML in a text file: `---`, or a block below a key, a list beside a key, a list of mappings
YAML = re.compile(r"\A---\s|^\w+:[ \t]*\n(?:[ \t]*- |[ \t]+\S)|^\w+:[ \t]*\[|^- \w+:.*\n[ \t]+\w+:", re.MULTILINE)
PARTS = 5_000_000  # lists and mappings of a document, 70 bytes of memory or more for each
YAML_LETTERS = 2_000_000  # the parser takes half a minute for these
COMMENTS = re.compile(r"\A(?:[ \t]*(?:#.*)?\n)+")


def is_document(text: str) -> bool:
    """Whether a text file contains JSON or YAML, below any lines of comments.

    JSON is one line, or its first line does not close the bracket that it opens.
    """
    text = COMMENTS.sub("", text.strip())
    first = text.split("\n")[0].rstrip()
    if first[:1] == "[":
        return first.count("[") > first.count("]") or (first == text and first[-1] == "]")
    return first[:1] == "{" or YAML.search(text) is not None


def read_document(file: str, text: str, suffix: str, forms: str) -> Any:
    """The content of a document; scalars of YAML are text, as written. Raises a DataError that recommends `forms`."""
    text = COMMENTS.sub(lambda match: "\n" * match[0].count("\n"), text.replace("\r\n", "\n"))
    is_yaml = suffix in ("yaml", "yml") or (suffix not in DOCUMENTS and text.strip()[:1] not in ("[", "{"))
    kind = "YAML" if is_yaml else "JSON"

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _distinct(pairs, file)

    try:
        if kind == "JSON":
            if text.count("[") + text.count("{") > PARTS:
                raise ValueError(f"it has more than {PARTS:,} lists and mappings")
            return json.loads(text, object_pairs_hook=distinct, parse_int=_whole)
        return _read_yaml(text, file)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        if suffix not in DOCUMENTS:  # a list in Python's syntax
            try:
                content = _read_yaml(text, file)
            except (yaml.YAMLError, RecursionError):
                content = None
            if isinstance(content, (list, dict)):
                return content
        line = getattr(error, "lineno", None) or getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        reasons = [getattr(error, name, None) for name in ("msg", "problem", "reason")]
        reasons += ["it is nested too deeply" if isinstance(error, RecursionError) else str(error)]
        reason = next(filter(None, reasons))
        message = f"{file}{f', line {line}' if line else ''}: this is not {kind} ({reason}); expected {forms}"
        raise DataError(message, kind="bad_document", path=file, line=line or None) from error


def _distinct(pairs: list[tuple[str, Any]], file: str, lines: Sequence[int] = ()) -> dict[str, Any]:
    """A mapping of these pairs. Raises a DataError for a repeated key, whose first value would be lost."""
    seen = dict(pairs)
    if len(seen) < len(pairs):
        keys = [key for key, _ in pairs]
        first = {key: i for i, key in reversed([*enumerate(keys)])}
        second = next(i for i, key in enumerate(keys) if first[key] != i)
        line = lines[second] if lines else None
        position = f"{file}, line {line}" if line else file
        message = f"{position}: the key '{keys[second]}' is repeated; write one entry for each class"
        raise DataError(message, kind="repeated_key", path=file, line=line)
    return seen


def _whole(digits: str) -> int | str:
    """A whole number of JSON; as text if it is too long for a number."""
    return int(digits) if len(digits) < 20 else digits


def _read_yaml(text: str, file: str) -> Any:
    """A YAML document, its scalars as they are written: `no` and `007` are names, too. Raises a YAMLError."""
    if len(text) > YAML_LETTERS:
        raise yaml.YAMLError(f"YAML of more than {YAML_LETTERS:,} letters is not read; JSON may be larger")

    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node, deep=False):
            pairs = [
                (self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value
            ]
            return _distinct(pairs, file, [key.start_mark.line + 1 for key, _ in node.value])

    try:
        return yaml.load(text, Loader)
    except TypeError as error:  # a key that is a list
        raise yaml.YAMLError("a key is not a name") from error


# ---- the classes in a document ----


def document_rows(content: Any) -> list[list[Any]] | None:
    """[name] or [key, value] of each item of a list or mapping; None if it is neither.

    A mapping may contain the list or mapping under a known key, and a list under its only key.
    """
    if isinstance(content, dict):
        inner = [content[key] for key in KEYS if isinstance(content.get(key), (list, dict))]
        if len(content) == 1:
            inner += [value for value in content.values() if isinstance(value, list)]
        return document_rows(inner[0]) if inner else [[key, _named(value)] for key, value in content.items()]
    return [_row(item) for item in content] if isinstance(content, list) else None


def _named(value: Any) -> Any:
    """The name in a description such as {"name": "cat"}; other values unchanged."""
    return value.get("name", value) if isinstance(value, dict) else value


def _row(item: Any) -> list[Any]:
    """The cells of an item: [name], [name, prompt name], {"name": "cat"}, {"id": 0, "name": "cat"}."""
    if not isinstance(item, dict):
        return item if isinstance(item, list) else [item]
    title = next((key for key in ("name", "label") if isinstance(item.get(key), str)), None)
    if title is None:
        return [item]
    number = next((item[key] for key in ("id", "index", "label") if key in item and key != title), None)
    return [number, item[title]] if numbers_of([str(number)]) else [item[title]]


def scalar(cell: Any) -> str | None:
    """A name as text; null is an empty one; None for anything but text or a whole number."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return plain(str(cell)).strip() if isinstance(cell, (str, int)) and not isinstance(cell, bool) else None
