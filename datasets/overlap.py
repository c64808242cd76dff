"""Which images a run was trained on, as its checkpoint records them, and how many images of a test are among them.

A record holds 8-byte hashes (a sorted array in base64) of the images' names below the root, and of their contents where
those are cheap to read. Contents decide where both sides have them, names otherwise.
"""

import base64
import functools
import os
from typing import Any

import numpy as np

from datasets.base import ImageList, relative_paths
from datasets.contents import hash8, hash_array

UNKNOWN = {"kind": "unknown"}  # the record of images that nobody wrote down


def record(images: ImageList, root: str | None) -> dict[str, Any]:
    """What a checkpoint keeps of its training images, as JSON. root: the folder that their names start from."""
    if isinstance(images.images, np.ndarray):
        return {"kind": "pixels", "contents": _encode(images.content_hashes)}
    kept = {"kind": "files", "root": _root_hash(root or "/"), "names": _encode(_names(images, root))}
    if images.content_hashes is not None:
        kept["contents"] = _encode(images.content_hashes)
    return kept


def count_shared(images: ImageList, root: str | None, records: list[dict[str, Any]]) -> int | None:
    """How many of `images` are in any of the records; None where that cannot be known.

    None means that none was found, and that at least one record cannot be compared with these images.
    """
    found, comparable = np.zeros(len(images), bool), True
    for kept in records:
        try:
            mask = _found(images, root, kept)
        except (KeyError, TypeError, ValueError):  # not a record
            mask = None
        comparable &= mask is not None
        found |= False if mask is None else mask
    return int(found.sum()) if comparable or found.any() else None


def _found(images: ImageList, root: str | None, kept: dict[str, Any]) -> np.ndarray | None:
    """Mask of the images that one record has; None where they cannot be compared."""
    pixels = isinstance(images.images, np.ndarray)
    if kept["kind"] != ("pixels" if pixels else "files"):
        return None
    if "contents" in kept and images.content_hashes is not None:
        return np.isin(images.content_hashes, _decode(kept["contents"]))
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
                hashes.append(hash8(os.fsencode(top + name)))
    mask = np.zeros(len(images), bool)
    mask[np.array(numbers, int)[np.isin(hash_array(hashes), known)]] = True
    return mask


# ---- hashes ----


def _root_hash(root: str, real: bool = False) -> str:
    """Hex; the path itself is nobody's business who gets the checkpoint. real: it has no links already."""
    return hash8(os.fsencode(root if real else os.path.realpath(root))).hex()


def _names(images: ImageList, root: str | None) -> np.ndarray:
    """Hashes of the paths below root; without a root, below /."""
    return hash_array(hash8(os.fsencode(path)) for path in relative_paths(images.images, root or "/"))


def _encode(hashes: np.ndarray) -> str:
    return base64.b64encode(np.sort(hashes).tobytes()).decode()


def _decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u8")
