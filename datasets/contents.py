"""Hashes of the contents of images, 8 bytes each. Cheap: only a few blocks of a large file are read."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from datasets.decoding.opening import regular_only

BLOCK_BYTES, BLOCKS = 4096, 5  # read of a file, evenly spaced, from the first bytes to the last
T = TypeVar("T")
CHUNK = 64  # files per task of a thread: a task for each file would take longer than reading it
THREADS = 8  # that read files at once: most of the time is spent waiting for the disk


def hash8(content: bytes) -> bytes:
    """The first 8 bytes of SHA-256."""
    return hashlib.sha256(content).digest()[:8]


def hash_array(hashes: Iterable[bytes]) -> np.ndarray:
    """Hashes of 8 bytes as an array, uint64 [n]."""
    return np.frombuffer(b"".join(hashes), "<u8")


def pixel_hashes(images: np.ndarray) -> np.ndarray:
    """Hashes of images in memory (uint8 [n, H, W, 3]), uint64 [n]."""
    shape = str(images.shape[1:]).encode()
    return hash_array(hash8(shape + pixels.tobytes()) for pixels in images)


def file_hashes(paths: Sequence[str]) -> np.ndarray:
    """Hashes of files, uint64 [n]."""
    return hash_array(in_threads(_file_hash, paths))


def file_states(paths: Sequence[str]) -> np.ndarray:
    """Size in bytes and time of the last change in ns of each file, int64 [n, 2]; -1 where there is none.

    500,000 local files take 2 s, and 5 s where the system has to read their folders from the disk.
    """
    return np.array(in_threads(_file_state, paths), np.int64).reshape(-1, 2)


def in_threads(read: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """`read` of each file, in their order; several at once if threads can be started (ulimit -u, memory)."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda chunk: list(map(read, chunk)), chunks))
    except RuntimeError:
        return list(map(read, paths))
    return list(itertools.chain.from_iterable(found))


def _file_state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # reported when it is decoded
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _file_hash(path: str) -> bytes:
    """Hash of a file's size and blocks; a file that cannot be read is equal to itself only."""
    try:
        with open(path, "rb", buffering=0, opener=regular_only) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"".join(os.pread(file.fileno(), length, start) for start, length in _blocks(size))
    except OSError:  # reported when it is decoded
        return hash8(b"unreadable\0" + os.fsencode(os.path.abspath(path)))
    return hash8(b"%d\0" % size + content)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Start and length, in bytes, of the blocks that are read: all of a small file."""
    if size <= BLOCKS * BLOCK_BYTES:
        yield 0, size
        return
    for number in range(BLOCKS):
        yield (size - BLOCK_BYTES) * number // (BLOCKS - 1), BLOCK_BYTES
