"""Atomic writing, checksums, and bounded reading of the user's files."""

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import re
import secrets
import select
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

PARTIAL = ".partial"  # suffix of files that are being written; a killed process may leave one
NAME_BYTES = 200  # of the name of a file that is being written, without its suffix; file systems allow 255 in all

# remedies of the user for errors of the operating system
REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that is yours",
    errno.EPERM: "choose a folder that is yours",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.EIO: "check the disk and the connection to it",
    errno.ESTALE: "check the connection to the disk",
    errno.ENOENT: "create its folder, which is missing",
    errno.ENOTDIR: "choose another folder: a file has this name",
    errno.EISDIR: "choose another name: a folder has this one",
}


class WriteError(OSError):
    """A file that cannot be written: filename names it, and str() is one sentence with the remedy."""

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.errno or 0, "choose another place")
        return f"{self.filename} cannot be written ({self.strerror}); {remedy}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which replaces `path` once it is complete on disk. After an error `path` is unchanged.

    Several processes may write the same path at once: the last one to finish wins. A link at `path` is replaced, not
    followed. A device or a pipe is written to directly. Raises WriteError, which names `path`.
    """
    with write_errors(path):
        if _is_device(path):
            with _open_device(path) as file:
                yield file
            return
        # a random name, which is never that of an existing file or link
        name = path.name.encode("utf-8", "surrogateescape")[:NAME_BYTES].decode("utf-8", "ignore")
        partial = path.with_name(f"{name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        _sync_directory(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which replaces `path` when the block ends. After an error `path` is unchanged.

    Parent folders are created, and leftovers of killed processes removed: one process at a time may write `path`.
    Raises WriteError, which names `path`.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)
    partial, former = (path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}") for _ in range(2))
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:  # which may name a folder above
        raise WriteError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    try:
        yield partial
        with write_errors(path):
            if path.exists():
                os.replace(path, former)
            try:
                os.replace(partial, path)
            except OSError:
                if former.exists():
                    os.replace(former, path)
                raise
            _sync_directory(path.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turns the OSErrors of writing `path` into WriteErrors, except those that name another file."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        if isinstance(error, WriteError) or not (name == str(path) or name.endswith(PARTIAL)):
            raise
        raise WriteError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def open_to_append(path: Path) -> TextIO:
    """A UTF-8 text file to append to. Raises WriteError, also for a pipe that nobody reads, instead of waiting."""
    with write_errors(path):
        return open(path, "a", encoding="utf-8", opener=_open_at_once)


def _is_device(path: Path) -> bool:
    """Whether a device, a pipe or a socket is at `path`, or a name of an open file such as /dev/stdout."""
    if path.is_symlink() and path.parts[:2] in (("/", "dev"), ("/", "proc")) and path.parts[2] != "shm":
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


@contextlib.contextmanager
def _open_device(path: Path) -> Iterator[BinaryIO]:
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), "wb") as file:
        os.set_blocking(file.fileno(), True)
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, or raises OSError if that would wait, as for a pipe that nobody reads."""
    handle = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(handle, True)
    return handle


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes UTF-8 with atomic_write. errors: as of str.encode."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors))


def _sync_directory(directory: Path) -> None:
    """Writes the entries of a directory to the disk, so that a new name survives a power failure."""
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
    """The SHA-256 of all Python files below these directories, in hex, computed once per process."""
    files = [file for directory in directories for file in sorted(directory.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


# ---- files of the user ----

PIPE_SECONDS = 600.0  # without a byte from a shell's <(...)


def read_limited(path: str | os.PathLike[str], limit: int, shell_pipe: bool = False) -> bytes:
    """The content of a regular file of at most `limit` bytes. Never waits for a pipe, a device or a socket.

    shell_pipe: also read a shell's <(...), which is possible once. Raises an OSError whose strerror is the reason.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # as the system calls it: "No such device or address"
            raise OSError(errno.ENXIO, "it is a socket or a device, not a regular file") from error
        raise
    try:
        status = os.fstat(handle)
        is_pipe = shell_pipe and stat.S_ISFIFO(status.st_mode) and _is_of_a_shell(path)
        if not stat.S_ISREG(status.st_mode) and not is_pipe:
            raise OSError(errno.EINVAL, f"it is {kind_of_file(status.st_mode)}, not a regular file")
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {_megabytes(status.st_size)}, and at most {_megabytes(limit)} are read")
        content = bytearray()
        while chunk := _read(handle, min(1 << 20, limit + 1 - len(content))):
            content += chunk
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"it has more than {_megabytes(limit)}, the most that are read")
        return bytes(content)
    finally:
        os.close(handle)


def read_json(path: str | os.PathLike[str], limit: int) -> Any:
    """The content of a JSON file in UTF-8, read with read_limited. Raises OSError, or ValueError if it is not JSON."""
    try:
        return json.loads(read_limited(path, limit).decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(handle: int, size: int) -> bytes:
    """The next bytes; waits for those of a pipe."""
    while True:
        try:
            return os.read(handle, size)
        except BlockingIOError:
            if not select.select([handle], [], [], PIPE_SECONDS)[0]:
                message = f"it is a pipe from which nothing came for {PIPE_SECONDS:g} seconds"
                raise OSError(errno.ETIMEDOUT, message) from None


def _is_of_a_shell(path: str | os.PathLike[str]) -> bool:
    """Whether this is a pipe that a shell made for <(...), and not the standard input, which may never end."""
    descriptor = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", os.fspath(path))
    return descriptor is not None and int(descriptor[1]) > 2


def kind_of_file(mode: int) -> str:
    """The kind of a file that is not a regular one, by its mode from os.stat: "a pipe", "a socket", ..."""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
