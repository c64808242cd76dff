"""Derives a held-out test set, or a long-tailed subset, from one list. Both are the same in every run."""

import hashlib
import os

import numpy as np

from datasets.images import ImageList
from datasets.long_tail import tail_indices
from utils.errors import DataError


def hold_out(images: ImageList, fraction: float, root: str | None) -> tuple[ImageList, ImageList]:
    """Splits every class into images to train and to test with, round(fraction * n) of n, but at least 1 of each.

    A class of one image is trained on. A hash of the paths below root decides which images are tested, not the seed or
    the other images: so all runs agree, and new pictures move few old ones. Raises a DataError if none can be held out.
    """
    counts = np.bincount(images.labels)
    wanted = np.floor(counts * fraction + 0.5).astype(int).clip(1).clip(max=counts - 1)
    hashes = [hashlib.sha256(os.fsencode(path)).digest() for path in images.images.relative_paths(root)]
    order = np.lexsort((np.array(hashes), images.labels))
    labels = images.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)  # within the class
    held = np.zeros(len(order), bool)
    held[order] = rank < wanted[labels]
    if not held.any():
        message = "test_fraction found no class with two pictures, so none could be held out; add pictures"
        raise DataError(message, kind="nothing_to_hold_out", path=root, key="test_fraction")
    return images.subset(~held), images.subset(held)


def thin(images: ImageList, counts: np.ndarray) -> ImageList:
    """At most counts[c] images of each class c, chosen as for CIFAR-100-LT, in the order of the list."""
    return images.subset(np.sort(tail_indices(images.labels, counts)))
