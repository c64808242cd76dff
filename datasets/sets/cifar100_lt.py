"""CIFAR-100 (Krizhevsky 2009) and its long-tailed versions (Cao et al. 2019). Downloads itself; stays in memory."""

from pathlib import Path

import numpy as np

from datasets.base import DataSet, ImageList, long_tail_counts, shuffled_by_class
from utils.errors import DataError

IMBALANCE_FACTORS = {"cifar100_ir100": 0.01, "cifar100_ir50": 0.02, "cifar100_ir10": 0.1}
ARCHIVE = "cifar-100-python.tar.gz"
NUM_CLASSES, PER_CLASS = 100, 500


def build(name: str, root: str | None) -> DataSet:
    """The data set `name`, downloaded into `root` (160 MB) unless it is there. Raises DataError."""
    train, classnames = _load(root, train=True)
    test, _ = _load(root, train=False)
    if name in IMBALANCE_FACTORS:
        by_class = shuffled_by_class(train.labels, len(classnames))
        kept = np.concatenate([indices[:count] for indices, count in zip(by_class, counts(name), strict=True)])
        train = ImageList(train.images[kept], train.labels[kept])
    return DataSet(name, classnames, train, test, shares_images=True)


def counts(name: str) -> np.ndarray:
    """Training images of each class of a long-tailed version, int64 [100]."""
    return np.array(long_tail_counts(PER_CLASS, NUM_CLASSES, IMBALANCE_FACTORS[name]))


def _load(root: str | None, train: bool) -> tuple[ImageList, list[str]]:
    from torchvision.datasets import CIFAR100

    if root is None:
        raise DataError("CIFAR-100 needs a folder to download into: add root ./data")
    if Path(root).exists() and not Path(root).is_dir():
        raise DataError(f"root {root} is a file; give the folder that holds (or will hold) {ARCHIVE}")
    try:
        cifar = CIFAR100(root, train=train, download=True)
    except (OSError, RuntimeError) as error:  # offline, no permission, or a wrong checksum
        raise DataError(
            f"CIFAR-100 is not in {root} and could not be fetched ({error}); "
            f"download {ARCHIVE} from {CIFAR100.url} on another machine and put it into {root}"
        ) from error
    return ImageList(cifar.data, np.asarray(cifar.targets, np.int64)), cifar.classes
