"""Records the training images of a run in its checkpoint, and counts the images of a test among them.

A record contains 8-byte hashes (a sorted array in base64) of the images' paths below the root, and of their contents if
these are cheap to read. Contents are compared if both sides have them, paths otherwise.
"""

import base64
import functools
import os
from typing import Any

import numpy as np

from datasets.contents import hash8, hash_array
from datasets.images import ImageList, Images

UNKNOWN = {"kind": "unknown"}  # the record of images that were not recorded


def record(images: ImageList, root: str | None) -> dict[str, Any]:
    """The record of training images in a checkpoint, as JSON. root: the folder that their paths are relative to."""
    source = images.images
    about: dict[str, Any] = {"kind": source.kind}
    if source.paths:
        about |= {"root": _root_hash(root or "/"), "names": _encode(_path_hashes(source, root))}
    if source.content_hashes is not None:
        about["contents"] = _encode(source.content_hashes)
    return about


def count_shared(images: ImageList, root: str | None, records: list[dict[str, Any]]) -> int | None:
    """How many of `images` are in any of the records; None if unknown.

    None means that none was found, and that at least one record cannot be compared with these images.
    """
    found, all_compared = np.zeros(len(images), bool), True
    for about in records:
        try:
            mask = _found(images.images, root, about)
        except (KeyError, TypeError, ValueError):  # not a record
            mask = None
        if mask is None:
            all_compared = False
        else:
            found |= mask
    return int(found.sum()) if all_compared or found.any() else None


def _found(images: Images, root: str | None, about: dict[str, Any]) -> np.ndarray | None:
    """Mask of the images that one record has; None if they cannot be compared."""
    if about["kind"] != images.kind:
        return None
    if "contents" in about and images.content_hashes is not None:
        return np.isin(images.content_hashes, _decode(about["contents"]))
    known = _decode(about["names"])
    return np.isin(_path_hashes(images, root), known) | _found_below(images, about["root"], known)


def _found_below(images: Images, root_hash: str, known: np.ndarray) -> np.ndarray:
    """Mask of the images whose paths relative to the record's own root are known, if that root still exists.

    So images are also found from a root one folder higher or lower, and through links.
    """

    @functools.cache
    def below(folder: str) -> str | None:
        """The path of a folder relative to that root; None if it is not below it."""
        parts = folder.split("/")
        for count in range(len(parts), 0, -1):
            if _root_hash("/".join(parts[:count]) or "/", real=True) == root_hash:
                return "".join(f"{part}/" for part in parts[count:] if part)
        return None

    real_folder = functools.cache(os.path.realpath)
    numbers, hashes = [], []
    for number, path in enumerate(images.paths):
        absolute = os.path.abspath(path)
        real = os.path.join(real_folder(os.path.dirname(absolute)), os.path.basename(absolute))
        for candidate in {absolute, os.path.realpath(real) if os.path.islink(real) else real}:
            folder, name = os.path.split(candidate)
            if (top := below(folder)) is not None:
                numbers.append(number)
                hashes.append(hash8(os.fsencode(top + name)))
    mask = np.zeros(len(images), bool)
    mask[np.array(numbers, int)[np.isin(hash_array(hashes), known)]] = True
    return mask


# ---- hashes ----


def _root_hash(root: str, real: bool = False) -> str:
    """A hash of the root in hex, as a checkpoint shows no path of its machine. real: the path has no links already."""
    return hash8(os.fsencode(root if real else os.path.realpath(root))).hex()


def _path_hashes(images: Images, root: str | None) -> np.ndarray:
    """Hashes of the paths below root; without a root, below /."""
    return hash_array(hash8(os.fsencode(path)) for path in images.relative_paths(root or "/"))


def _encode(hashes: np.ndarray) -> str:
    return base64.b64encode(np.sort(hashes).tobytes()).decode()


def _decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u8")
