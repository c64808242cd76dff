"""CIFAR-100 (Krizhevsky 2009) and its long-tailed versions (Cao et al. 2019). Downloaded, and read into memory."""

from pathlib import Path

import numpy as np

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.long_tail import long_tail_counts, tail_indices
from utils.errors import DataError

IMBALANCE_FACTORS = {"cifar100_ir100": 0.01, "cifar100_ir50": 0.02, "cifar100_ir10": 0.1}
ARCHIVE = "cifar-100-python.tar.gz"
NUM_CLASSES, PER_CLASS = 100, 500


def build(name: str, root: str | None) -> DataSet:
    """The data set `name`, downloaded into `root` (160 MB) unless it is there. Raises DataError."""
    train, classnames = _load(root, train=True)
    test, _ = _load(root, train=False)
    if name in IMBALANCE_FACTORS:
        train = train.subset(tail_indices(train.labels, counts(name)))
    # LIFT reports the milder tails by the shot groups of imbalance 100
    choices = {"ir100": counts("cifar100_ir100")} if name in ("cifar100_ir50", "cifar100_ir10") else {}
    return DataSet(name, classnames, train, test, shares_images=True, group_choices=choices)


def counts(name: str) -> np.ndarray:
    """Training images of each class of a long-tailed version, int64 [100]."""
    return np.array(long_tail_counts(PER_CLASS, NUM_CLASSES, IMBALANCE_FACTORS[name]))


def _load(root: str | None, train: bool) -> tuple[ImageList, list[str]]:
    """One of its lists, and the class names."""
    from torchvision.datasets import CIFAR100

    if root is None:
        raise DataError("CIFAR-100 needs a folder to download into: add root ./data", kind="no_root", key="root")
    if Path(root).exists() and not Path(root).is_dir():
        message = f"root {root} is a file; set it to the folder that contains (or will contain) {ARCHIVE}"
        raise DataError(message, kind="not_a_folder", path=root, key="root")
    try:
        cifar = CIFAR100(root, train=train, download=True)
    except (OSError, RuntimeError) as error:  # offline, no permission, or a wrong checksum
        message = (
            f"CIFAR-100 is not in {root} and could not be fetched ({error}); "
            f"download {ARCHIVE} from {CIFAR100.url} on another machine and put it into {root}"
        )
        raise DataError(message, kind="not_fetched", path=root, key="root") from error
    return ImageList.of_pixels(cifar.data, np.asarray(cifar.targets, np.int64)), cifar.classes
