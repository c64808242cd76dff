"""Checks a data set before it is trained on: scripts/check_data.py shows what this finds.

Every image is decoded as in training, in one process a core. Kept of it are a digest and a size, never the pixels, so
half a million images need little memory. A picture that kills the decoder is named like any other bad one.
"""

import collections
import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from datasets.base import DataSet
from datasets.check.bad_images import SPLITS, fingerprints, image_names, size_of
from datasets.loading.decode import decode
from utils.errors import DataError

SMALL_SIDE = 32  # pixels; a shorter side is suspicious: a thumbnail, an icon, a tracking pixel
CHUNK = 32  # images that a process is given at a time


class Look(NamedTuple):
    """What one image looked like."""

    kind: str = ""  # "missing" or "unreadable"; "" = it is good
    reason: str = ""
    digest: bytes = b""  # of the file's bytes, or of the pixels where there is no file
    height: int = 0  # pixels
    width: int = 0
    size: int | None = None  # bytes of the file; None = there is none


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found. Images are numbered through the training list, then the test list."""

    data: DataSet
    bad: dict[int, Look]
    sizes: np.ndarray  # int32 [n, 2], height and width in pixels; 0 = it could not be decoded
    duplicates: list[list[int]]  # images of the same content
    seconds: float

    @property
    def labels(self) -> np.ndarray:
        """Of all images, int64 [n]."""
        return np.concatenate([self.data.train.labels, self.data.test.labels])

    @property
    def names(self) -> list[str]:
        """Of all images, as bad_images.txt has them."""
        return [name for split in SPLITS for name in image_names(self.data, split)]

    def split(self, image: int) -> str:
        """The list that holds an image."""
        return "train" if image < len(self.data.train) else "test"

    @property
    def small(self) -> dict[int, list[int]]:
        """Height and width of the images with a side below SMALL_SIDE."""
        shorter = self.sizes.min(axis=1)
        return {int(i): self.sizes[i].tolist() for i in np.flatnonzero((shorter > 0) & (shorter < SMALL_SIDE))}

    @property
    def leaks(self) -> list[list[int]]:
        """Duplicates across train and test: what is tested was seen in training."""
        return [images for images in self.duplicates if len({self.split(image) for image in images}) == 2]

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
    def sound(self) -> bool:
        """Nothing is wrong: neither small images nor repeats are."""
        return not (self.bad or self.leaks or self.contradictions)

    @property
    def good_counts(self) -> np.ndarray:
        """Training images of each class without the bad ones, int64 [C]."""
        bad = [image for image in self.bad if self.split(image) == "train"]
        return self.data.class_counts - np.bincount(self.data.train.labels[bad], minlength=len(self.data.classnames))

    def report(self) -> dict[str, Any]:
        """All of it, for report.json; datasets/bad_images.py reads `fingerprint` and `bad`."""
        data, names, labels = self.data, self.names, self.labels.tolist()
        tests = np.bincount(data.test.labels, minlength=len(data.classnames))
        groups = np.array(list(data.groups))[np.argmax(list(data.groups.values()), axis=0)]
        rows = zip(data.classnames, data.class_counts, self.good_counts, tests, groups, strict=True)

        def image(index: int) -> dict[str, Any]:
            return {"image": names[index], "list": self.split(index), "class": data.classnames[labels[index]]}

        return {
            "fingerprint": fingerprints(data),
            "images": {split: len(getattr(data, split)) for split in SPLITS},
            "bad": [
                {**image(i), "kind": look.kind, "reason": look.reason, "bytes": look.size}
                for i, look in self.bad.items()
            ],
            "small": [
                {**image(i), "height": int(self.sizes[i, 0]), "width": int(self.sizes[i, 1])} for i in self.small
            ],
            "duplicates": [[image(i) for i in images] for images in self.duplicates],
            "classes": [
                {"name": name, "train": int(train), "train_good": int(good), "test": int(test), "group": str(group)}
                for name, train, good, test, group in rows
            ],
            "seconds": self.seconds,
        }


def check_images(data: DataSet, processes: int) -> Check:
    """Looks at every image of both lists, with a progress bar; processes 0 = in this one."""
    start, bad, first, same = time.perf_counter(), {}, {}, {}
    sizes = np.zeros((len(data.train) + len(data.test), 2), np.int32)
    looks = _looks(data, processes)
    bar = tqdm(looks, "decoding", len(sizes), leave=False, unit=" images", dynamic_ncols=True, disable=None)
    for image, look in bar:
        if look.kind:
            bad[image] = look
            continue
        sizes[image] = look.height, look.width
        other = first.setdefault(look.digest, image)
        if other != image:
            same.setdefault(look.digest, [other]).append(image)
    duplicates = sorted(sorted(images) for images in same.values())
    return Check(data, dict(sorted(bad.items())), sizes, duplicates, time.perf_counter() - start)


# ---- looking at the images ----


def _looks(data: DataSet, processes: int) -> Iterator[tuple[int, Look]]:
    if isinstance(data.train.images, np.ndarray):
        for image, pixels in enumerate(pixels for part in (data.train, data.test) for pixels in part.images):
            yield image, Look("", "", _digest(pixels.tobytes()), *pixels.shape[:2])
    elif processes:
        yield from _in_processes([*data.train.images, *data.test.images], processes, data.train.exif_orientation)
    else:
        for image, path in enumerate([*data.train.images, *data.test.images]):
            yield image, look_at(path, data.train.exif_orientation)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]


def look_at(path: str, exif_orientation: bool) -> Look:
    """Decodes a file as in training; what is wrong with it is returned, never raised."""
    try:
        height, width = decode(path, exif_orientation=exif_orientation).shape[1:]
        content = Path(path).read_bytes()
        return Look("", "", _digest(content), height, width, len(content))
    except (DataError, OSError) as error:
        what = str(error).removeprefix(f"the image {path} ")
        reason = what.rpartition("; ")[0] or what  # without the advice
        if reason.startswith("cannot be decoded ("):
            reason = reason.removeprefix("cannot be decoded (").removesuffix(")")
        if os.path.exists(path):
            return Look("unreadable", reason, size=size_of(path))
        return Look("missing", f"a link to {os.readlink(path)}" if os.path.islink(path) else reason)


def _in_processes(paths: list[str], processes: int, exif_orientation: bool) -> Iterator[tuple[int, Look]]:
    """(image, look) in any order. Of a chunk that killed its process, each image goes to a process of its own."""
    import torchvision.io  # noqa: F401 (here once, sooner than in every process)

    context = multiprocessing.get_context("fork")  # the workers start at once, with all packages loaded
    size = max(1, min(CHUNK, len(paths) // (4 * processes)))
    chunks = collections.deque(range(start, min(start + size, len(paths))) for start in range(0, len(paths), size))
    at_work: dict[Connection, tuple[multiprocessing.Process, range]] = {}
    try:
        while chunks or at_work:
            while chunks and len(at_work) < processes:
                pipe, its_end = context.Pipe()
                process = context.Process(target=_work, args=(its_end, exif_orientation), daemon=True)
                process.start()
                its_end.close()
                at_work[pipe] = process, chunks.popleft()
                _send(pipe, [paths[image] for image in at_work[pipe][1]])
            for pipe in wait(list(at_work)):
                process, chunk = at_work.pop(pipe)
                try:
                    looks = pipe.recv()
                except (EOFError, OSError):  # it died
                    process.join()
                    if len(chunk) == 1:
                        yield chunk[0], Look("unreadable", _death(process.exitcode), size=size_of(paths[chunk[0]]))
                    chunks.extendleft(range(image, image + 1) for image in chunk if len(chunk) > 1)
                    continue
                if chunks:
                    at_work[pipe] = process, chunks.popleft()
                _send(pipe, [paths[image] for image in at_work[pipe][1]] if pipe in at_work else None)
                yield from zip(chunk, looks, strict=True)
    finally:
        for process, _ in at_work.values():
            process.kill()


def _send(pipe: Connection, paths: list[str] | None) -> None:
    with contextlib.suppress(OSError):  # a process that has just died is met when its answer is read
        pipe.send(paths)


def _work(pipe: Connection, exif_orientation: bool) -> None:
    """A process: paths in, looks out, until None comes or the parent is gone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    while multiprocessing.parent_process().is_alive():
        if pipe.poll(5):
            paths = pipe.recv()
            if paths is None:
                return
            pipe.send([look_at(path, exif_orientation) for path in paths])


def _death(exitcode: int) -> str:
    name = signal.Signals(-exitcode).name if exitcode < 0 else f"exit status {exitcode}"
    return f"kills the process that decodes it ({name}{', out of memory?' if name == 'SIGKILL' else ''})"
