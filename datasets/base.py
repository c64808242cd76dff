"""What every data set gives: image lists with labels, class names, and the counts that make a tail long."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.contents import content_hashes

CONTENT_FILES = 20_000  # the contents of a longer list are not all looked at
SAMPLE = 1_000  # files of such a list


@dataclasses.dataclass(frozen=True)
class ImageList:
    """One split: images and their labels, in a fixed order.

    images: paths (a list of str), or the pixels themselves (uint8 [n, H, W, 3]); labels: int64 [n], in 0..C-1.
    exif_orientation: whether image files are turned as their EXIF or XMP says; False = read as stored.
    """

    images: list[str] | np.ndarray
    labels: np.ndarray
    exif_orientation: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def some_of_each(self, num_classes: int, limit: int | None, seed: int | None = None) -> np.ndarray:
        """The indices of at most `limit` images of each class (None: of all), class by class.

        The first ones, or with a seed random ones, in the order of the list.
        """
        rng = None if seed is None else np.random.default_rng(seed)
        chosen = []
        for c in range(num_classes):
            indices = np.flatnonzero(self.labels == c)
            if rng is not None and limit is not None and len(indices) > limit:
                indices = np.sort(rng.choice(indices, limit, replace=False))
            chosen.append(indices[:limit])
        return np.concatenate(chosen)

    @functools.cached_property
    def content_hashes(self) -> np.ndarray | None:
        """A hash of what each image holds, uint64 [n]; None for a list of more than CONTENT_FILES files."""
        in_memory = isinstance(self.images, np.ndarray)
        return content_hashes(self.images) if in_memory or len(self) <= CONTENT_FILES else None

    def fingerprint(self, root: str | None = None, contents: bool = True) -> str:
        """SHA-256 (16 hex digits) over images, labels and order: two runs saw the same list if this agrees.

        Files have two parts, NAMES-CONTENTS: of their paths, relative to `root`, so that a set may move; and with
        `contents` of what they hold, in a long list of SAMPLE of them.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.labels, np.int64).tobytes())
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).tobytes())
        else:
            digest.update(os.fsencode("".join(f"{path}\0" for path in relative_paths(self.images, root))))
        names = digest.hexdigest()[:16]
        if isinstance(self.images, np.ndarray) or not contents:
            return names
        hashes = self.content_hashes
        if hashes is None:
            sample = np.linspace(0, len(self) - 1, SAMPLE).astype(int).tolist()
            hashes = content_hashes([self.images[index] for index in sample])
        return f"{names}-{hashlib.sha256(hashes.tobytes()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A training and a test list over the same classes. `class_counts` counts the training images, zeros kept."""

    name: str
    classnames: list[str]
    train: ImageList
    test: ImageList
    root: str | None = None
    many_threshold: int = 100  # classes with more training images are many-shot,
    few_threshold: int = 20  # with fewer few-shot
    notes: tuple[str, ...] = ()  # what a user should know of the images that were found
    shares_images: bool = False  # as published, some pictures are in both of its lists (CIFAR-100)
    run_counts: np.ndarray | None = None  # class_counts of the tested run, where that was trained on other images
    group_counts: np.ndarray | None = None  # class counts [C] that make the shot groups; None: class_counts

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
        """Those of both lists, {train, test}; see ImageList.fingerprint."""
        return {split: getattr(self, split).fingerprint(self.root, contents) for split in ("train", "test")}

    def counted_as(self, counts: list[int], name: str) -> "DataSet":
        """This data set with the training counts [C] of a run that was trained on `name`, for its shot groups."""
        if counts == self.class_counts.tolist() or len(counts) != len(self.classnames):
            return self
        note = f"class counts are those of the tested run: its {sum(counts):,} training images of {name}"
        return dataclasses.replace(self, run_counts=np.array(counts, np.int64), notes=(*self.notes, note))

    def summary(self) -> str:
        """The sizes of both lists, of the classes and of their shot groups, in one line; then a line for each note."""
        counts = self.class_counts
        groups = ", ".join(f"{mask.sum()} {name}" for name, mask in self.groups.items())
        if (self.many_threshold, self.few_threshold) != (100, 20):
            groups += f"; many: above {self.many_threshold}, few: below {self.few_threshold}"
        if self.group_counts is not None:
            groups += "; by the class counts of imbalance 100"
        sizes = (
            f"{self.name}: {len(self.train):,} training and {len(self.test):,} test images, "
            f"{len(counts)} classes of {counts.max():,} to {counts.min():,} ({groups})"
        )
        return "\n".join([sizes, *self.notes])

    @property
    def classes_fingerprint(self) -> str:
        """SHA-256 (16 hex digits) over the class names: the same classes in the same order."""
        return hashlib.sha256("\0".join(self.classnames).encode()).hexdigest()[:16]


def relative_paths(paths: list[str], root: str | None) -> Iterator[str]:
    """The paths as seen from `root`; as they are without one."""
    top = os.path.join(root, "") if root else ""  # pathlib would take seconds for half a million paths
    return (path[len(top) :] if path.startswith(top) else str(Path(path).relative_to(root)) for path in paths)


def shot_groups(class_counts: np.ndarray, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
    """Masks [C] of the many- (> 100), medium- and few-shot (< 20 training images) classes (Liu et al. 2019)."""
    return {
        "many": class_counts > many,
        "medium": (class_counts >= few) & (class_counts <= many),
        "few": class_counts < few,
    }


def long_tail_counts(largest: int, num_classes: int, imbalance_factor: float) -> list[int]:
    """Training images of each class, falling exponentially: int(largest * IF^(c / (C - 1))) (Cao et al. 2019)."""
    return [int(largest * imbalance_factor ** (c / (num_classes - 1))) for c in range(num_classes)]


def shuffled_by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The indices of each class, shuffled: one legacy numpy generator, seeded 0, for all classes in label order."""
    rng = np.random.RandomState(0)
    by_class = [np.flatnonzero(labels == c) for c in range(num_classes)]
    for indices in by_class:
        rng.shuffle(indices)
    return by_class
