"""The images of a list, as files or as pixels in memory, behind one interface; and a list of images with labels.

Fingerprints, content hashes and digests are stored in checkpoints, results and reports: their bytes are a format.
"""

import abc
import copy
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.contents import file_hashes, file_states, pixel_hashes
from datasets.decoding.decode import Reduction, decode, largest_number, torchvision_io
from datasets.decoding.opening import regular_only
from datasets.image_cache import CachedFiles, Log
from datasets.loading.crops import Crop, Sample
from utils.processes import Advance
from utils.text import visible

CONTENT_FILES = 20_000  # the contents of longer lists are hashed for a sample only
SAMPLE = 1_000  # files of such a sample
SMALL_BYTES = 2**20  # of pixels, which are read faster than a worker starts


def no_report() -> None:
    """An `advance` that reports nothing."""


def no_log(line: str) -> None:
    """A `log` that discards the line."""


class Images(abc.ABC):
    """n images, by index in 0..n-1."""

    kind: str  # "files" or "pixels", as in records of training images
    exif_orientation: bool = False  # whether files are turned by their EXIF or XMP orientation
    bit_depth: int | None = None  # bits that are used of files of 16 bits; None = all
    is_small: bool = False  # whether reading all of them takes less time than starting a worker

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def subset(self, indices: np.ndarray) -> "Images":
        """The images at `indices`, in their order."""

    def with_orientation(self, exif_orientation: bool) -> "Images":
        """The same images, files turned by their EXIF or XMP orientation, or read as stored."""
        return self

    def with_bit_depth(self, bit_depth: int | None) -> "Images":
        """The same images, files of 16 bits scaled by the bits that they use; None = all."""
        return self

    def with_cache(self, folder: Path) -> "Images":
        """The same images, files read from the cache in `folder`: see datasets/image_cache.py."""
        return self

    # ---- reading ----

    def prepare(self, log: Log = no_log) -> None:
        """Imports the packages that reading needs, and fills the cache of files, once, before workers are forked."""
        return

    def finish(self, log: Log) -> None:
        """Logs and replaces damaged entries of the cache of files, after all images have been read."""
        return

    @abc.abstractmethod
    def read(self, index: int, reduction: Reduction | None = None) -> Tensor:
        """One image, uint8 RGB [3, H, W]; see decode.decode for `reduction`. Raises DataError."""

    @abc.abstractmethod
    def read_crops(
        self, samples: Sequence[Sample], crop: Crop, out: Tensor | None = None, advance: Advance = no_report
    ) -> Tensor:
        """The crops of n samples (epoch, index), uint8 [n, *crop.shape], in `out` if it is given. Raises DataError.

        advance: called after each sample, or after all of them if they are read at once.
        """

    @abc.abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes of the file, or of the pixels. Raises OSError."""

    def file_bytes(self, index: int) -> int | None:
        """The size of the file in bytes; None if it is missing, and for pixels."""
        return None

    def largest_number(self, index: int) -> int | None:
        """The largest number in a file of 16 bits; None for other images."""
        return None

    # ---- names ----

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """One image, for a message."""

    @property
    def paths(self) -> list[str]:
        """The paths of all files, as a new list; none for pixels."""
        return []

    def relative_paths(self, root: str | None) -> list[str]:
        """The paths relative to `root`; unchanged without one."""
        top = os.path.join(root, "") if root else ""  # pathlib would take seconds for half a million paths
        return [path[len(top) :] if path.startswith(top) else str(Path(path).relative_to(top)) for path in self.paths]

    @abc.abstractmethod
    def names(self, root: str | None, split: str) -> list[str]:
        """The names in a report: paths, below the root if there is one; SPLIT[0], SPLIT[1], ... for pixels."""

    # ---- identity ----

    @property
    @abc.abstractmethod
    def content_hashes(self) -> np.ndarray | None:
        """A hash of the content of each image, uint64 [n]; None for more than CONTENT_FILES files."""

    def states(self) -> np.ndarray | None:
        """Size, time of change (ns) and content hash of each file, int64 [n, 3]; None for pixels.

        The hash is 0 if there are more than CONTENT_FILES files.
        """
        return None

    @abc.abstractmethod
    def fingerprint(self, prefix: bytes, root: str | None, contents: bool) -> str:
        """See ImageList.fingerprint; `prefix` is hashed first."""

    @abc.abstractmethod
    def digest(self, indices: Iterable[int]) -> str:
        """SHA-256 (hex) of the pixels; for files, of paths, sizes and times of change, without reading them."""


class ImagePaths(Images):
    """Image files. All paths are in one block of bytes, which forked workers share.

    In a list of strings, reading a path changes its reference count, so that the worker copies its page of memory.
    """

    kind = "files"

    def __init__(
        self,
        paths: Sequence[str],
        exif_orientation: bool = False,
        bit_depth: int | None = None,
        cache: Path | None = None,
    ):
        self.exif_orientation, self.bit_depth, self.cache = exif_orientation, bit_depth, cache
        self.cached: CachedFiles | None = None  # set by `prepare`
        self.block = os.fsencode("".join(f"{path}\0" for path in paths))
        self.ends = np.flatnonzero(np.frombuffer(self.block, np.uint8) == 0)

    def __len__(self) -> int:
        return len(self.ends)

    def subset(self, indices: np.ndarray) -> "ImagePaths":
        paths = [self.path(index) for index in indices.tolist()]
        return ImagePaths(paths, self.exif_orientation, self.bit_depth, self.cache)

    def with_orientation(self, exif_orientation: bool) -> "ImagePaths":
        images = copy.copy(self)
        images.exif_orientation = exif_orientation
        return images

    def with_bit_depth(self, bit_depth: int | None) -> "ImagePaths":
        images = copy.copy(self)
        images.bit_depth = bit_depth
        return images

    def with_cache(self, folder: Path) -> "ImagePaths":
        images = copy.copy(self)
        images.cache, images.cached = folder, None
        return images

    def prepare(self, log: Log = no_log) -> None:
        torchvision_io()
        if self.cache and self.cached is None:
            paths = self.paths
            self.cached = CachedFiles(self.cache, paths)
            self.cached.fill(paths, log)

    def finish(self, log: Log) -> None:
        if self.cached:
            self.cached.replace_damaged(self.paths, log)

    def read(self, index: int, reduction: Reduction | None = None) -> Tensor:
        path = self.path(index)
        content = self.cached.read(index, path) if self.cached else None
        return decode(path, reduction, self.exif_orientation, self.bit_depth, content)

    def read_crops(
        self, samples: Sequence[Sample], crop: Crop, out: Tensor | None = None, advance: Advance = no_report
    ) -> Tensor:
        crops = torch.empty(len(samples), *crop.shape, dtype=torch.uint8) if out is None else out
        if self.cached:
            self.cached.read_ahead([index for _, index in samples])
        for row, (epoch, index) in enumerate(samples):
            reduction = functools.partial(crop.reduction, epoch=epoch, index=index) if crop.reducing_gap else None
            crops[row] = crop(self.read(index, reduction), epoch, index)
            advance()
        return crops

    def content(self, index: int) -> bytes:
        with open(self.path(index), "rb", opener=regular_only) as file:
            return file.read(os.fstat(file.fileno()).st_size)  # not more if it grows meanwhile

    def file_bytes(self, index: int) -> int | None:
        try:
            return os.stat(self.path(index)).st_size
        except OSError:
            return None

    def describe(self, index: int) -> str:
        return visible(self.path(index))

    def largest_number(self, index: int) -> int | None:
        return largest_number(self.path(index))

    @property
    def paths(self) -> list[str]:
        return os.fsdecode(self.block).split("\0")[:-1]

    def path(self, index: int) -> str:
        """The path of one file."""
        return os.fsdecode(self.block[self.ends[index - 1] + 1 if index else 0 : self.ends[index]])

    def names(self, root: str | None, split: str) -> list[str]:
        top = os.path.join(root, "") if root else ""
        return [path.removeprefix(top) for path in self.paths]

    @functools.cached_property
    def content_hashes(self) -> np.ndarray | None:
        return file_hashes(self.paths) if len(self) <= CONTENT_FILES else None

    def states(self) -> np.ndarray:
        hashes = np.zeros(len(self), np.uint64) if self.content_hashes is None else self.content_hashes
        return np.column_stack([file_states(self.paths), hashes.view(np.int64)])

    def fingerprint(self, prefix: bytes, root: str | None, contents: bool) -> str:
        relative = "".join(f"{path}\0" for path in self.relative_paths(root))
        names = hashlib.sha256(prefix + os.fsencode(relative)).hexdigest()[:16]
        if not contents:
            return names
        hashes = self.content_hashes
        if hashes is None:
            sample = np.linspace(0, len(self) - 1, SAMPLE).astype(int).tolist()
            hashes = file_hashes([self.path(index) for index in sample])
        return f"{names}-{hashlib.sha256(hashes.tobytes()).hexdigest()[:16]}"

    def digest(self, indices: Iterable[int]) -> str:
        digest = hashlib.sha256()
        paths = [os.path.abspath(self.path(index)) for index in indices]
        for path, (size, time) in zip(paths, file_states(paths).tolist(), strict=True):
            state = "missing" if size < 0 else f"{size} {time}"  # the loader reports it
            digest.update(os.fsencode(f"{path}\0{state}\0"))
        return digest.hexdigest()


class ImagePixels(Images):
    """Images of one size in memory. pixels: uint8 [n, H, W, 3]."""

    kind = "pixels"

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.is_small = pixels.nbytes < SMALL_BYTES

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: np.ndarray) -> "ImagePixels":
        return ImagePixels(self.pixels[indices])

    def read(self, index: int, reduction: Reduction | None = None) -> Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)

    def read_crops(
        self, samples: Sequence[Sample], crop: Crop, out: Tensor | None = None, advance: Advance = no_report
    ) -> Tensor:
        if not samples:
            return torch.empty(0, *crop.shape, dtype=torch.uint8)
        pixels = self.pixels[[index for _, index in samples]]
        crops = crop.of_batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), samples)
        advance()
        return crops if out is None else out.copy_(crops)

    def content(self, index: int) -> bytes:
        return self.pixels[index].tobytes()

    def describe(self, index: int) -> str:
        return f"image {index}"

    def names(self, root: str | None, split: str) -> list[str]:
        return [f"{split}[{index}]" for index in range(len(self))]

    @functools.cached_property
    def content_hashes(self) -> np.ndarray:
        return pixel_hashes(self.pixels)

    def fingerprint(self, prefix: bytes, root: str | None, contents: bool) -> str:
        digest = hashlib.sha256(prefix)
        digest.update(np.ascontiguousarray(self.pixels).tobytes())
        return digest.hexdigest()[:16]

    def digest(self, indices: Iterable[int]) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.pixels[list(indices)]).tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class ImageList:
    """One split: images and their labels, int64 [n] in 0..C-1, in a fixed order."""

    images: Images
    labels: np.ndarray

    @classmethod
    def of_paths(cls, paths: Sequence[str], labels: np.ndarray, exif_orientation: bool = False) -> "ImageList":
        """A list of image files; exif_orientation: whether it is applied."""
        return cls(ImagePaths(paths, exif_orientation), labels)

    @classmethod
    def of_pixels(cls, pixels: np.ndarray, labels: np.ndarray) -> "ImageList":
        """A list of images in memory, uint8 [n, H, W, 3]."""
        return cls(ImagePixels(pixels), labels)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, selection: np.ndarray | Sequence[int] | slice) -> "ImageList":
        """The images that indices, a mask or a slice select, with their labels."""
        indices = np.arange(len(self))[selection]
        return ImageList(self.images.subset(indices), self.labels[indices])

    def with_labels(self, labels: np.ndarray) -> "ImageList":
        """The same images with other labels."""
        return ImageList(self.images, labels)

    def with_orientation(self, exif_orientation: bool) -> "ImageList":
        """The same list, its files turned by their EXIF or XMP orientation, or read as stored."""
        return ImageList(self.images.with_orientation(exif_orientation), self.labels)

    def with_bit_depth(self, bit_depth: int | None) -> "ImageList":
        """The same list, its files of 16 bits scaled by the bits that they use; None = all."""
        return ImageList(self.images.with_bit_depth(bit_depth), self.labels)

    def with_cache(self, folder: Path) -> "ImageList":
        """The same list, its files read from the cache in `folder`."""
        return ImageList(self.images.with_cache(folder), self.labels)

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

    def fingerprint(self, root: str | None = None, contents: bool = True) -> str:
        """SHA-256 (16 hex digits) of images, labels and order: equal for two runs on the same list.

        For files it is NAMES-CONTENTS: a hash of their paths relative to `root`, so that a set may move, and with
        `contents` one of their contents, of SAMPLE files in a list of more than CONTENT_FILES.
        """
        return self.images.fingerprint(np.ascontiguousarray(self.labels, np.int64).tobytes(), root, contents)
