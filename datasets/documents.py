"""JSON and YAML documents in the user's files, read without losing a key or changing a name."""

import json
from typing import Any

import yaml

from datasets.base import DataError

DOCUMENTS = ("json", "yaml", "yml")  # suffixes


def is_document(text: str) -> bool:
    """Whether a text file holds JSON or YAML: it opens a bracket that its first line does not close, or is one line."""
    text = text.strip()
    first = text.split("\n")[0].rstrip()
    closed = first.endswith({"[": "]", "{": "}"}.get(first[0], ""))
    return first[0] == "{" or (first[0] == "[" and (not closed or first == text))


def read_document(file: str, text: str, suffix: str, forms: str) -> Any:
    """The content of a document; scalars of YAML are text, as written. Raises a DataError that advises `forms`."""
    kind = "YAML" if suffix in ("yaml", "yml") else "JSON"

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _distinct(pairs, file)

    try:
        return json.loads(text, object_pairs_hook=distinct) if kind == "JSON" else _read_yaml(text, file)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        if suffix not in DOCUMENTS:  # a list as Python writes it
            try:
                content = _read_yaml(text, file)
            except (yaml.YAMLError, RecursionError):
                content = None
            if isinstance(content, (list, dict)):
                return content
        line = getattr(error, "lineno", None) or getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        reason = getattr(error, "msg", None) or getattr(error, "problem", None) or str(error)
        place = f", line {line}" if line else ""
        raise DataError(f"{file}{place}: this is not {kind} ({reason}); expected {forms}") from error


def _distinct(pairs: list[tuple[str, Any]], file: str) -> dict[str, Any]:
    """A mapping of these pairs. Raises a DataError for a key that is there twice, which would be lost."""
    seen = dict(pairs)
    if len(seen) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{file}: '{twice}' stands there twice; give every class its own entry")
    return seen


def _read_yaml(text: str, file: str) -> Any:
    """A YAML document, its scalars as they are written: `no` and `007` are names, too."""

    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node, deep=False):
            parts = [[self.construct_object(part, deep=True) for part in pair] for pair in node.value]
            return _distinct([tuple(pair) for pair in parts], file)

    try:
        return yaml.load(text, Loader)
    except TypeError as error:  # a key that is a list
        raise yaml.YAMLError("a key is not a name") from error
