"""Derives a held-out test or validation set, or a long-tailed subset, from one list. All are the same in every run."""

import hashlib
import os

import numpy as np

from datasets.images import ImageList
from datasets.long_tail import tail_indices
from utils.errors import DataError


def hold_out(images: ImageList, fraction: float, root: str | None, min_images: int = 1) -> tuple[ImageList, ImageList]:
    """Splits every class into images that remain and images that are held out.

    round(fraction * n) of n images are held out, at least min_images, and never the last image of a class. They are
    chosen by a hash of each image, not by the seed or the other images: so all runs agree, and new pictures move few
    old ones. The hash is of a file's path below root, or of pixels in memory. None may be held out.
    """
    counts = np.bincount(images.labels)
    wanted = np.floor(counts * fraction + 0.5).astype(int).clip(min_images).clip(max=counts - 1)
    if images.images.paths:
        hashes = [hashlib.sha256(os.fsencode(path)).digest() for path in images.images.relative_paths(root)]
    else:
        hashes = [hashlib.sha256(images.images.content(index)).digest() for index in range(len(images))]
    order = np.lexsort((np.array(hashes), images.labels))
    labels = images.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)  # within the class
    held = np.zeros(len(order), bool)
    held[order] = rank < wanted[labels]
    return images.subset(~held), images.subset(held)


def hold_out_test(images: ImageList, fraction: float, root: str | None) -> tuple[ImageList, ImageList]:
    """Training and test images; each class with two images or more has a test image. Raises DataError."""
    train, test = hold_out(images, fraction, root)
    if not len(test):
        message = "test_fraction found no class with two pictures, so none could be held out; add pictures"
        raise DataError(message, kind="nothing_to_hold_out", path=root, key="test_fraction")
    return train, test


def hold_out_validation(images: ImageList, fraction: float, root: str | None) -> tuple[ImageList, ImageList]:
    """Training and validation images; classes so small that the share rounds to 0 have none. Raises DataError."""
    train, val = hold_out(images, fraction, root, min_images=0)
    if not len(val):
        message = (
            f"val_fraction {fraction:g} holds out no image: the largest class has {np.bincount(images.labels).max():,} "
            "training images; choose a larger one"
        )
        raise DataError(message, kind="nothing_to_hold_out", path=root, key="val_fraction")
    return train, val


def thin(images: ImageList, counts: np.ndarray) -> ImageList:
    """At most counts[c] images of each class c, chosen as for CIFAR-100-LT, in the order of the list."""
    return images.subset(np.sort(tail_indices(images.labels, counts)))
