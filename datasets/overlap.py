"""Which images a run was trained on, as its checkpoint records them, and how many images of a test are among them.

A record holds 8-byte hashes (a sorted array in base64) of the images' names below the root, and of their contents where
those are cheap to read. Contents decide where both sides have them, names otherwise.
"""

import base64
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from datasets.base import ImageList, relative_paths

CONTENT_FILES = 20_000  # a longer list of files is known by its names alone
BLOCK_BYTES, BLOCKS = 4096, 5  # read of a file: so many blocks, evenly spaced, from the first bytes to the last
THREADS = 8  # that read files at once: most of the time is spent waiting for the disk
UNKNOWN = {"kind": "unknown"}  # the record of images that nobody wrote down


def record(images: ImageList, root: str | None) -> dict[str, Any]:
    """What a checkpoint keeps of its training images, as JSON. root: the folder that their names start from."""
    if isinstance(images.images, np.ndarray):
        return {"kind": "pixels", "contents": _encode(_contents(images))}
    kept = {"kind": "files", "root": _root_hash(root or "/"), "names": _encode(_names(images, root))}
    if len(images) <= CONTENT_FILES:
        kept["contents"] = _encode(_contents(images))
    return kept


def count_shared(images: ImageList, root: str | None, records: list[dict[str, Any]]) -> int | None:
    """How many of `images` are in any of the records; None where that cannot be known.

    None means that none was found, and that at least one record cannot be compared with these images.
    """
    found, comparable = np.zeros(len(images), bool), True
    contents = functools.cache(lambda: _contents(images))
    for kept in records:
        try:
            mask = _found(images, root, kept, contents)
        except (KeyError, TypeError, ValueError):  # not a record
            mask = None
        comparable &= mask is not None
        found |= False if mask is None else mask
    return int(found.sum()) if comparable or found.any() else None


def _found(
    images: ImageList, root: str | None, kept: dict[str, Any], contents: Callable[[], np.ndarray]
) -> np.ndarray | None:
    """Mask of the images that one record has; None where they cannot be compared. contents: computes their hashes."""
    pixels = isinstance(images.images, np.ndarray)
    if kept["kind"] != ("pixels" if pixels else "files"):
        return None
    if "contents" in kept and (pixels or len(images) <= CONTENT_FILES):
        return np.isin(contents(), _decode(kept["contents"]))
    known = _decode(kept["names"])
    return np.isin(_names(images, root), known) | _found_below(images, kept["root"], known)


def _found_below(images: ImageList, root_hash: str, known: np.ndarray) -> np.ndarray:
    """Mask of the images whose names, as seen from the record's own root, are known: where that root is still there.

    So a root one folder higher or lower, and links, hide no image.
    """

    @functools.cache
    def below(folder: str) -> str | None:
        """The path of a folder as seen from that root; None if it is not below it."""
        parts = folder.split("/")
        for count in range(len(parts), 0, -1):
            if _root_hash("/".join(parts[:count]) or "/", real=True) == root_hash:
                return "".join(f"{part}/" for part in parts[count:] if part)
        return None

    real_folder = functools.cache(os.path.realpath)
    numbers, hashes = [], []
    for number, path in enumerate(images.images):
        place = os.path.abspath(path)
        real = os.path.join(real_folder(os.path.dirname(place)), os.path.basename(place))
        for candidate in {place, os.path.realpath(real) if os.path.islink(real) else real}:
            folder, name = os.path.split(candidate)
            if (top := below(folder)) is not None:
                numbers.append(number)
                hashes.append(_hash(os.fsencode(top + name)))
    mask = np.zeros(len(images), bool)
    mask[np.array(numbers, int)[np.isin(_array(hashes), known)]] = True
    return mask


# ---- hashes ----


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]


def _root_hash(root: str, real: bool = False) -> str:
    """Hex; the path itself is nobody's business who gets the checkpoint. real: it has no links already."""
    return _hash(os.fsencode(root if real else os.path.realpath(root))).hex()


def _names(images: ImageList, root: str | None) -> np.ndarray:
    """Hashes of the paths below root; without a root, below /."""
    return _array(_hash(os.fsencode(path)) for path in relative_paths(images.images, root or "/"))


def _contents(images: ImageList) -> np.ndarray:
    """Hashes of the pixels in memory, or of the files."""
    if isinstance(images.images, np.ndarray):
        shape = str(images.images.shape[1:]).encode()
        return _array(_hash(shape + pixels.tobytes()) for pixels in images.images)
    with ThreadPoolExecutor(THREADS) as pool:
        return _array(pool.map(_file_hash, images.images, chunksize=64))


def _file_hash(path: str) -> bytes:
    """Of a file's size and blocks; a file that cannot be read is equal to itself only."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"".join(os.pread(file.fileno(), length, start) for start, length in _blocks(size))
    except OSError:  # whoever decodes it reports it
        return _hash(b"unreadable\0" + os.fsencode(os.path.abspath(path)))
    return _hash(b"%d\0" % size + content)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Start and length, in bytes, of what is read of a file: all of a small one."""
    if size <= BLOCKS * BLOCK_BYTES:
        yield 0, size
        return
    for number in range(BLOCKS):
        yield (size - BLOCK_BYTES) * number // (BLOCKS - 1), BLOCK_BYTES


def _array(hashes: Iterable[bytes]) -> np.ndarray:
    """uint64 [n]."""
    return np.frombuffer(b"".join(hashes), "<u8")


def _encode(hashes: np.ndarray) -> str:
    return base64.b64encode(np.sort(hashes).tobytes()).decode()


def _decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u8")
