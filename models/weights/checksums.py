"""Checksums of published weight files: each is verified whenever it is loaded, before its tensors are used.

Published checksums have precedence: OpenAI's addresses contain them, the hub's cache uses them as file names, and
SHA256SUMS has those of the repository's own files. Without one, the first successful load records the file's checksum
in the user's cache, and later loads compare it. Files that the user names are not published; they are in a run's
identity.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from utils.cache import cache_folder
from utils.errors import ModelError
from utils.files import read_json, sha256, write_text
from utils.text import visible

SUMS = "SHA256SUMS"  # in the format of sha256sum
RECORD_BYTES = 4096
HEX = frozenset("0123456789abcdef")


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 in hex."""
    return len(text) == 64 and set(text) <= HEX


def list_files(folder: Path, names: Sequence[str]) -> None:
    """Writes SHA256SUMS for files of a folder."""
    write_text(folder / SUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(names)))


def listed(path: Path) -> str:
    """The checksum of a file in the SHA256SUMS beside it; "" if there is none."""
    try:
        lines = path.with_name(SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    found = {name.strip(" *"): digest for digest, _, name in (line.partition(" ") for line in lines)}
    return found.get(path.name, "")


def verify(path: Path, digest: str, published: str, remedy: str = "") -> None:
    """Raises ModelError unless `digest`, the SHA-256 of the file, begins with the published one (or part of it)."""
    if not digest.startswith(published):
        message = (
            f"{path} is damaged or incomplete: its SHA-256 is {digest}, and the published one {published}; "
            f"{remedy or f'delete {path.resolve()}, so that it is downloaded again'}"
        )
        raise ModelError(message, kind="wrong_checksum", path=path, key="weights")


class Record:
    """The checksum of a file, recorded at its first load. The record may be deleted at any time."""

    def __init__(self, address: str, path: Path):
        self.address = address
        self.name = f"{path.parent.name}/{path.name}"  # a snapshot of the hub's, and a file in it
        key = _sha256(f"{address}\0{self.name}")
        self.file = cache_folder("weights") / f"{key[:32]}.json"

    def verify(self, path: Path, digest: str) -> str | None:
        """A note for the log if the record is damaged. Raises ModelError if the file differs from the recorded one."""
        if not self.file.exists():
            return None
        try:
            recorded = self._read()
        except (OSError, ValueError, TypeError, KeyError):
            return f"{self.file} is damaged, so {path} was not verified; it is recorded again"
        if recorded == digest:
            return None
        message = (
            f"{path} is not the file that was first loaded as {self.address}: its SHA-256 is {digest}, and the "
            f"recorded one {recorded}; delete it, so that it is downloaded again, or {self.file} if you replaced it"
        )
        raise ModelError(message, kind="wrong_checksum", path=path, key="weights")

    def write(self, digest: str) -> str | None:
        """Records the checksum of a file, unless it is recorded. A note for the log if that fails."""
        try:
            if self.file.exists() and self._read() == digest:
                return None
        except (OSError, ValueError, TypeError, KeyError):
            pass  # it is damaged, and rewritten
        if os.path.lexists(self.file) and not self.file.is_file():  # a pipe would block
            if not self.file.is_symlink():
                return f"{self.file} is not a file, so later loads cannot verify {self.address}; remove it"
            self.file.unlink(missing_ok=True)
        content = {"address": self.address, "file": self.name, "sha256": digest, "check": self._check(digest)}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.file, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            return f"{self.file} cannot be written ({error.strerror}), so later loads cannot verify {self.address}"
        return None

    def _read(self) -> str:
        """The recorded checksum. Raises OSError, ValueError, TypeError or KeyError for a damaged record."""
        content = read_json(self.file, RECORD_BYTES)
        digest = content["sha256"]
        if not is_sha256(digest) or content["check"] != self._check(digest):
            raise ValueError("changed since it was written")
        return digest

    def _check(self, digest: str) -> str:
        """A checksum of the record itself, so that a damaged record is not reported as a damaged file."""
        return _sha256(f"{self.address}\0{self.name}\0{digest}")[:16]


def _sha256(text: str) -> str:
    return hashlib.sha256(visible(text).encode()).hexdigest()
