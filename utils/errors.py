"""Errors that a user can correct: one base class, so that the command line catches one type."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from utils.text import visible


class UserError(Exception):
    """Wrong input. The message is one sentence, on one line: what was wrong, what was found and what to do.

    Control characters in it, for example from file names, are escaped: see utils/text.py.

    Programs and tests read the fields: `kind` names the violated rule, `path` and `line` (from 1) the position in a
    file, `key` the key of the configuration. A field that does not apply is None.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str | None = None,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        key: str | None = None,
    ):
        super().__init__(visible(message))
        self.kind, self.line, self.key = kind, line, key
        self.path = None if path is None else os.fspath(path)


class ConfigError(UserError):
    """A wrong command line or configuration."""


class DataError(UserError):
    """Bad images, lists or class names."""


class ModelError(UserError):
    """Unsuitable weights, backbone or method."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another run."""


@contextlib.contextmanager
def amended(before: str = "", after: str = "", path: Path | None = None) -> Iterator[None]:
    """Adds text to the message of a UserError in the block, and the path of a file if it has none."""
    try:
        yield
    except UserError as error:
        error.args = (visible(f"{before}{error}{after}"),)
        error.path = error.path or (str(path) if path else None)
        raise
