"""Tables of objects by name. The rows are in utils/config/schema.py; an object is imported when it is used."""

import pkgutil
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Table(Mapping[str, T], Generic[T]):
    """Objects by name. rows: {name: MODULE:OBJECT}.

    The schema has the names without importing the objects, so that --help is fast and a new choice takes one row.
    """

    def __init__(self, rows: Mapping[str, str]):
        self.rows = rows

    def __getitem__(self, name: str) -> T:
        return pkgutil.resolve_name(self.rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
