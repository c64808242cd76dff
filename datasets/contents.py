"""Hashes of what images hold, 8 bytes each: cheap, as of a large file a few blocks are read."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BLOCK_BYTES, BLOCKS = 4096, 5  # read of a file: so many blocks, evenly spaced, from the first bytes to the last
THREADS = 8  # that read files at once: most of the time is spent waiting for the disk


def hash8(content: bytes) -> bytes:
    """The first 8 bytes of SHA-256."""
    return hashlib.sha256(content).digest()[:8]


def hash_array(hashes: Iterable[bytes]) -> np.ndarray:
    """uint64 [n]."""
    return np.frombuffer(b"".join(hashes), "<u8")


def content_hashes(images: Sequence[str] | np.ndarray) -> np.ndarray:
    """Hashes of pixels in memory (uint8 [n, H, W, 3]), or of files: uint64 [n]."""
    if isinstance(images, np.ndarray):
        shape = str(images.shape[1:]).encode()
        return hash_array(hash8(shape + pixels.tobytes()) for pixels in images)
    with ThreadPoolExecutor(THREADS) as pool:
        return hash_array(pool.map(_file_hash, images, chunksize=64))


def _file_hash(path: str) -> bytes:
    """Hash of a file's size and blocks; a file that cannot be read is equal to itself only."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise OSError
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"".join(os.pread(file.fileno(), length, start) for start, length in _blocks(size))
    except OSError:  # whoever decodes it reports it
        return hash8(b"unreadable\0" + os.fsencode(os.path.abspath(path)))
    return hash8(b"%d\0" % size + content)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Start and length, in bytes, of what is read of a file: all of a small one."""
    if size <= BLOCKS * BLOCK_BYTES:
        yield 0, size
        return
    for number in range(BLOCKS):
        yield (size - BLOCK_BYTES) * number // (BLOCKS - 1), BLOCK_BYTES


def image_digest(images: Sequence[str] | np.ndarray, indices: Sequence[int]) -> str:
    """SHA-256 over the images `indices`: over pixels in memory, or over the paths, sizes and change times of files."""
    if isinstance(images, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(images[indices]).tobytes()).hexdigest()
    digest = hashlib.sha256()
    for index in indices:
        path = os.path.abspath(images[index])
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # reported by the loader
            state = "missing"
        digest.update(os.fsencode(f"{path}\0{state}\0"))
    return digest.hexdigest()
