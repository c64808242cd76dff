"""What can be made of one list: a held-out test set, and a long tail for study. Both are the same in every run."""

import dataclasses
import hashlib
import os

import numpy as np

from datasets.base import ImageList, relative_paths, shuffled_by_class
from utils.errors import DataError


def hold_out(images: ImageList, fraction: float, root: str | None) -> tuple[ImageList, ImageList]:
    """Splits every class into images to train and to test with, round(fraction * n) of n, but at least 1 of each.

    A class of one image trains. Which images are tested follows from a hash of their paths below root, not from the
    seed or the other images: so all runs agree, and new pictures move few old ones. Raises a DataError if none is left.
    """
    counts = np.bincount(images.labels)
    wanted = np.floor(counts * fraction + 0.5).astype(int).clip(1).clip(max=counts - 1)
    hashes = [hashlib.sha256(os.fsencode(path)).digest() for path in relative_paths(images.images, root)]
    order = np.lexsort((np.array(hashes), images.labels))
    labels = images.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)  # within the class
    held = np.zeros(len(order), bool)
    held[order] = rank < wanted[labels]
    if not held.any():
        raise DataError("test_fraction found no class with two pictures, so none could be held out; add pictures")
    return _subset(images, ~held), _subset(images, held)


def thin(images: ImageList, wanted: np.ndarray) -> ImageList:
    """At most wanted[c] images of each class c, chosen as for CIFAR-100-LT, in the order of the list."""
    by_class = shuffled_by_class(images.labels, len(wanted))
    kept = np.concatenate([indices[:count] for indices, count in zip(by_class, wanted, strict=True)])
    return _subset(images, np.isin(np.arange(len(images)), kept))


def _subset(images: ImageList, mask: np.ndarray) -> ImageList:
    paths = [path for path, keep in zip(images.images, mask.tolist(), strict=True) if keep]
    return dataclasses.replace(images, images=paths, labels=images.labels[mask])
