"""Tables of names: utils/config/schema.py has the rows, and an object is imported when it is used."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Table(Mapping[str, T], Generic[T]):
    """Objects by name. rows: {name: MODULE:OBJECT}, where each is found.

    The schema lists the choices without importing them, so that --help answers at once, and a new choice takes one row.
    """

    def __init__(self, rows: Mapping[str, str]):
        self.rows = rows

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self.rows[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
