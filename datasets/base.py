"""DataSet: image lists with labels, class names, and the class counts that determine the shot groups."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from datasets.images import ImageList
from datasets.long_tail import shot_groups
from utils.errors import DataError
from utils.text import visible

__all__ = ["SPLITS", "DataSet", "ImageList"]

SPLITS = {"train": "training", "test": "test", "val": "validation"}  # fields of a data set, and their names in messages


def classes_fingerprint(classnames: Sequence[str]) -> str:
    """SHA-256 (16 hex digits) of class names: the same classes in the same order."""
    return hashlib.sha256("\0".join(classnames).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A training, a test and maybe a validation list of the same classes, without images in common.

    `class_counts` counts the training images without the held-out ones; zeros are possible.
    """

    name: str
    classnames: list[str]
    train: ImageList
    test: ImageList
    root: str | None = None
    val: ImageList | None = None  # to choose epochs and settings by
    many_threshold: int = 100  # classes with more training images are many-shot
    few_threshold: int = 20  # classes with fewer training images are few-shot
    notes: tuple[str, ...] = ()  # lines for the log about the images that were found
    shares_images: bool = False  # as published, some pictures are in both of its lists (CIFAR-100)
    run_counts: np.ndarray | None = None  # class_counts of the tested run, if it was trained on other images
    group_counts: np.ndarray | None = None  # class counts [C] that determine the shot groups; None: class_counts
    group_choices: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # by name, other such counts

    @property
    def lists(self) -> dict[str, ImageList]:
        """The lists by their names in SPLITS: train, test, and val if there is one."""
        lists = {"train": self.train, "test": self.test}
        return lists if self.val is None else lists | {"val": self.val}

    def with_lists(self, lists: Mapping[str, ImageList]) -> "DataSet":
        """This data set with other lists: train, test, and val or none."""
        return dataclasses.replace(self, train=lists["train"], test=lists["test"], val=lists.get("val"))

    def split(self, name: str) -> ImageList:
        """The list `name`: train, test or val. Raises a DataError for a validation set that is missing."""
        if name not in self.lists:
            message = f"{self.name} has no validation set; hold out training images with val_fraction 0.1"
            if self.name == "folder":
                message += ", set val_list FILE, or add a folder val/ beside train/ and test/"
            raise DataError(message, kind="no_validation_set", key="val_fraction")
        return self.lists[name]

    @property
    def class_counts(self) -> np.ndarray:
        """Training images of each class, int64 [C]."""
        if self.run_counts is not None:
            return self.run_counts
        return np.bincount(self.train.labels, minlength=len(self.classnames))

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Masks [C] of the many-, medium- and few-shot classes."""
        counts = self.class_counts if self.group_counts is None else self.group_counts
        return shot_groups(counts, self.many_threshold, self.few_threshold)

    def fingerprints(self, contents: bool = True) -> dict[str, str]:
        """The fingerprints of the lists, {train, test} and maybe val; see ImageList.fingerprint."""
        return {split: images.fingerprint(self.root, contents) for split, images in self.lists.items()}

    @property
    def classes_fingerprint(self) -> str:
        """The fingerprint of the class names."""
        return classes_fingerprint(self.classnames)

    def counted_as(self, counts: list[int], name: str) -> "DataSet":
        """This data set with the training counts [C] of a run that was trained on `name`, for its shot groups."""
        if counts == self.class_counts.tolist() or len(counts) != len(self.classnames):
            return self
        note = f"class counts are those of the tested run: its {sum(counts):,} training images of {name}"
        return dataclasses.replace(self, run_counts=np.array(counts, np.int64), notes=(*self.notes, note))

    def summary(self) -> str:
        """The sizes of the lists, of the classes and of their shot groups, in one line; then a line for each note.

        Control characters and marks of direction in names are escaped.
        """
        counts = self.class_counts
        groups = ", ".join(f"{mask.sum()} {name}" for name, mask in self.groups.items())
        if (self.many_threshold, self.few_threshold) != (100, 20):
            groups += f"; many: above {self.many_threshold}, few: below {self.few_threshold}"
        if self.group_counts is not None:
            groups += "; by the class counts of imbalance 100"
        sizes = (
            f"{self.name}: {len(self.train):,} training{self._validation()} and {len(self.test):,} test images, "
            f"{len(counts)} classes of {counts.max():,} to {counts.min():,} ({groups})"
        )
        return "\n".join(map(visible, [sizes, *self.notes]))

    def _validation(self) -> str:
        """The number of validation images, and of their classes if these are not all, for `summary`."""
        if self.val is None:
            return ""
        classes = len(np.unique(self.val.labels))
        return f", {len(self.val):,} validation{f' (of {classes:,} classes)' if classes < len(self.classnames) else ''}"
