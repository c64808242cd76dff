"""digits_lt: the 1,797 handwritten digits inside scikit-learn, made long-tailed. Real images, and no download.

The digits (Alpaydin and Kaynak 1998; the test split of UCI's optdigits) are 8 x 8 counts of ink, 0 to 16. The test set
has 50 images of each class (500 in all); the training set is the rest, thinned to 124, 80, 51, ..., 2 images
(imbalance 50).
"""

import functools

import numpy as np

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.long_tail import long_tail_counts, shuffled_by_class
from utils.errors import DataError

CLASSNAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEST_IMAGES = 50  # of each class
IMBALANCE_FACTOR = 1 / 50


def build(name: str = "digits_lt", root: str | None = None) -> DataSet:
    """The data set. Raises a DataError for a root, as it reads no files."""
    if root is not None:
        message = f"digits_lt is inside scikit-learn and reads no root, found {root}; for your own pictures: -d folder"
        raise DataError(message, kind="needless_root", path=root, key="root")
    ink, labels = _digits()
    pixels = np.rint(ink.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8).repeat(3, axis=3)
    by_class = shuffled_by_class(labels, len(CLASSNAMES))
    largest = min(map(len, by_class)) - TEST_IMAGES
    counts = long_tail_counts(largest, len(CLASSNAMES), IMBALANCE_FACTOR)

    images = ImageList.of_pixels(pixels, labels.astype(np.int64))
    test = [indices[:TEST_IMAGES] for indices in by_class]
    train = [indices[TEST_IMAGES:][:count] for indices, count in zip(by_class, counts, strict=True)]
    return DataSet(name, CLASSNAMES, images.subset(np.concatenate(train)), images.subset(np.concatenate(test)))


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Ink [1797, 64] and labels [1797], parsed once for all runs of a process."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
