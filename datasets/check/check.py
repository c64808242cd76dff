"""Checks a data set before it is trained on: bad images, duplicates, class counts. See scripts/check_data.py."""

import collections
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.base import DataSet
from datasets.check.bad_images import image_names
from datasets.check.inspect import ImageReport, inspect
from datasets.check.processes import inspect_in_processes
from utils import terminal

DEEP_SHARE = 0.99  # of the pictures of 16 bits: if these need fewer bits, the others probably have specks or marks
SMALL_SIDE = 32  # pixels; a shorter side is suspicious: a thumbnail, an icon, a tracking pixel


@dataclasses.dataclass(frozen=True)
class Check:
    """The findings. Images are numbered through the training list, then the test list, then a validation list."""

    data: DataSet
    bad: dict[int, ImageReport]
    sizes: np.ndarray  # int32 [n, 2], height and width in pixels; 0 = it could not be decoded
    duplicates: list[list[int]]  # images of the same content
    seconds: float
    largest: dict[int, int] = dataclasses.field(default_factory=dict)  # number in each picture of 16 bits

    @property
    def labels(self) -> np.ndarray:
        """The labels of all images, int64 [n]."""
        return np.concatenate([images.labels for images in self.data.lists.values()])

    @property
    def names(self) -> list[str]:
        """The names of all images, as in bad_images.txt."""
        return [name for split in self.data.lists for name in image_names(self.data, split)]

    def split(self, image: int) -> str:
        """The list that contains an image."""
        ends = np.cumsum([len(images) for images in self.data.lists.values()])
        return list(self.data.lists)[int(np.searchsorted(ends, image, side="right"))]

    @property
    def small(self) -> dict[int, list[int]]:
        """Height and width of the images with a side below SMALL_SIDE."""
        shorter = self.sizes.min(axis=1)
        return {int(i): self.sizes[i].tolist() for i in np.flatnonzero((shorter > 0) & (shorter < SMALL_SIDE))}

    @property
    def leaks(self) -> list[list[int]]:
        """Duplicates across lists: tested images that were trained on."""
        return [images for images in self.duplicates if len({self.split(image) for image in images}) > 1]

    @property
    def contradictions(self) -> list[list[int]]:
        """Duplicates with two labels or more: one of them must be wrong."""
        labels = self.labels
        return [images for images in self.duplicates if len(set(labels[images].tolist())) > 1]

    @property
    def repeats(self) -> list[list[int]]:
        """Duplicates within one list and class: harmless, but they count more than once."""
        others = {images[0] for images in (*self.leaks, *self.contradictions)}
        return [images for images in self.duplicates if images[0] not in others]

    @property
    def used_bits(self) -> dict[int, int]:
        """{bits: pictures of 16 bits whose largest number needs these}, without those that are all black."""
        bits = collections.Counter(number.bit_length() for number in self.largest.values() if number > 0)
        return dict(sorted(bits.items()))

    @property
    def bit_depth(self) -> int | None:
        """The value of the key bit_depth in this check."""
        return self.data.train.images.bit_depth

    @property
    def advised_bit_depth(self) -> int | None:
        """The bits that DEEP_SHARE of the pictures of 16 bits need, if these are fewer than are read; else None."""
        bits = sorted(self.used_bits.items())
        enough, total = 0, sum(number for _, number in bits)
        for depth, number in bits:
            enough += number
            if enough >= DEEP_SHARE * total:
                return depth if depth < (self.bit_depth or 16) else None
        return None

    def above(self, depth: int) -> int:
        """The number of pictures of 16 bits with larger numbers than `depth` bits have, which would be white."""
        return sum(number >= 2**depth for number in self.largest.values())

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; small images and repeats are not."""
        return not (self.bad or self.leaks or self.contradictions)

    @property
    def good_counts(self) -> np.ndarray:
        """Training images of each class without the bad ones, int64 [C]."""
        bad = [image for image in self.bad if self.split(image) == "train"]
        return self.data.class_counts - np.bincount(self.data.train.labels[bad], minlength=len(self.data.classnames))

    def report(self) -> dict[str, Any]:
        """All findings, for report.json; bad_images.py reads `fingerprint` and `bad`."""
        data, names, labels = self.data, self.names, self.labels.tolist()
        tests = np.bincount(data.test.labels, minlength=len(data.classnames))
        groups = np.array(list(data.groups))[np.argmax(list(data.groups.values()), axis=0)]
        rows = zip(data.classnames, data.class_counts, self.good_counts, tests, groups, strict=True)

        def image(index: int) -> dict[str, Any]:
            return {"image": names[index], "list": self.split(index), "class": data.classnames[labels[index]]}

        return {
            "fingerprint": data.fingerprints(contents=False),
            "images": {split: len(images) for split, images in data.lists.items()},
            "bad": [
                {**image(i), "kind": found.kind, "reason": found.reason, "bytes": found.size}
                for i, found in self.bad.items()
            ],
            "small": [
                {**image(i), "height": int(self.sizes[i, 0]), "width": int(self.sizes[i, 1])} for i in self.small
            ],
            "sixteen_bits": {
                "images": len(self.largest),
                "largest": max(self.largest.values(), default=None),
                "used_bits": self.used_bits,
                "bit_depth": self.bit_depth,
                "advised_bit_depth": self.advised_bit_depth,
            },
            "duplicates": [[image(i) for i in images] for images in self.duplicates],
            "classes": [
                {"name": name, "train": int(train), "train_good": int(good), "test": int(test), "group": str(group)}
                for name, train, good, test, group in rows
            ],
            "seconds": self.seconds,
        }


def check_images(data: DataSet, processes: int, worker_timeout: float | None = None) -> Check:
    """Decodes every image of all lists as in training, with a progress bar; processes 0 = in this one.

    worker_timeout: seconds after which an image of a process without an answer is unreadable; None = never.
    """
    start, total = time.perf_counter(), sum(map(len, data.lists.values()))
    bad: dict[int, ImageReport] = {}
    sizes = np.zeros((total, 2), np.int32)
    largest: dict[int, int] = {}
    first: dict[bytes, int] = {}  # by digest
    same: dict[bytes, list[int]] = {}
    reports = _inspect_all(data, processes, worker_timeout)
    bar = tqdm(
        reports, "decoding", total, leave=False, unit=" images", dynamic_ncols=True, disable=None, file=terminal.BARS
    )
    for image, report in bar:
        if report.kind:
            bad[image] = report
            continue
        sizes[image] = report.height, report.width
        if report.largest is not None:
            largest[image] = report.largest
        other = first.setdefault(report.digest, image)
        if other != image:
            same.setdefault(report.digest, [other]).append(image)
    duplicates = sorted(sorted(images) for images in same.values())
    return Check(data, dict(sorted(bad.items())), sizes, duplicates, time.perf_counter() - start, largest)


def _inspect_all(data: DataSet, processes: int, worker_timeout: float | None) -> Iterator[tuple[int, ImageReport]]:
    """(image, report) in any order."""
    lists = [images.images for images in data.lists.values()]
    if processes and not all(images.is_small for images in lists):
        yield from inspect_in_processes(lists, processes, worker_timeout)
    else:
        yield from enumerate(inspect(images, index) for images in lists for index in range(len(images)))
