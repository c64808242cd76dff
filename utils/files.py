"""Files: written whole or not at all, and their checksums."""

import contextlib
import functools
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"  # suffix of files that are being written; a killed process may leave one


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which replaces `path` once all of it is on the disk. After an error nothing changes.

    Several processes may write the same path at once: the last one to finish counts. A device or a pipe at `path` is
    written to directly.
    """
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes UTF-8 with atomic_write. errors: as of str.encode."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors))


def _sync_directory(directory: Path) -> None:
    """Writes the entries of a directory to the disk, so that a new name outlasts a power failure."""
    with contextlib.suppress(OSError):  # some file systems refuse it
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@functools.cache
def sha256_of_code(*directories: Path) -> str:
    """The SHA-256 of all Python files below these directories, in hex; it is computed once in a process."""
    files = [file for directory in directories for file in sorted(directory.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
