"""From image lists to batches on the device: order, decode, crop in the workers, uint8 on the way.

Randomness is counted, not consumed: the order of an epoch follows from (seed, epoch), a crop from (seed, epoch, index).
So the number of workers, the size of a batch and the epoch at which a run resumes change nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.base import DataError, ImageList

Step = list[tuple[int, int]]  # (epoch, index) of each sample
Crop = Callable[[Tensor, int, int], Tensor]
SMALL_BYTES = 2**20


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which an epoch visits `size` samples: one permutation of all, from (seed, epoch) alone."""
    return np.random.default_rng((seed, epoch, 0)).permutation(size)


@dataclasses.dataclass(frozen=True)
class TrainSteps:
    """The samples of every step of the epochs first_epoch..num_epochs-1; the last step of an epoch may be smaller."""

    size: int
    batch_size: int
    seed: int
    num_epochs: int
    first_epoch: int = 0

    @property
    def per_epoch(self) -> int:
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * (self.num_epochs - self.first_epoch)

    def __iter__(self) -> Iterator[Step]:
        for epoch in range(self.first_epoch, self.num_epochs):
            order = epoch_order(self.seed, epoch, self.size).tolist()
            for start in range(0, self.size, self.batch_size):
                yield [(epoch, index) for index in order[start : start + self.batch_size]]


def in_order(indices: np.ndarray, batch_size: int) -> list[Step]:
    """The samples `indices` in their own order, for testing."""
    return [[(0, int(i)) for i in indices[start : start + batch_size]] for start in range(0, len(indices), batch_size)]


class Loader:
    """Iterates over steps: (images uint8 [B, ...], labels int64 [B]), both on `device`.

    An image that is missing or cannot be decoded raises a DataError that names it, whichever process met it.
    """

    def __init__(self, images: ImageList, crop: Crop, steps, device: torch.device, num_workers: int | None = None):
        self.device = device
        self.loader = DataLoader(
            _Reader(images, crop),
            batch_sampler=steps,
            num_workers=automatic_workers(images) if num_workers is None else num_workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            # workers seed nothing from the parent's state: iterating must not advance the global generator
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = batch
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def automatic_workers(images: ImageList) -> int:
    """A process for each core; none for a small set in memory, which is read sooner than they are started."""
    small = isinstance(images.images, np.ndarray) and images.images.nbytes < SMALL_BYTES
    return 0 if small else len(os.sched_getaffinity(0))


def _as_it_is(batch: object) -> object:
    return batch


class _Reader(Dataset):
    """Reads and crops a whole step at a time, in a worker."""

    def __init__(self, images: ImageList, crop: Crop):
        self.images, self.crop = images, crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, step: Step) -> tuple[Tensor, Tensor] | DataError:
        try:
            crops = [self.crop(read_image(self.images, index), epoch, index) for epoch, index in step]
        except DataError as error:
            return error  # as a value: raised in a worker, it would come back wrapped in a traceback
        return torch.stack(crops), torch.from_numpy(self.images.labels[[index for _, index in step]])


def read_image(images: ImageList, index: int) -> Tensor:
    """The pixels of one image, uint8 RGB [3, H, W]."""
    if isinstance(images.images, np.ndarray):
        return torch.from_numpy(images.images[index]).permute(2, 0, 1)
    return decode(images.images[index])


def decode(path: str) -> Tensor:
    """Decodes an image file to uint8 RGB [3, H, W], turned as its EXIF data say. Raises a DataError that names it.

    torchvision reads plain JPEG, Pillow everything else.
    """
    import torchvision.io

    try:
        if path.lower().endswith((".jpg", ".jpeg")):
            try:
                data = torchvision.io.read_file(path)
                return torchvision.io.decode_jpeg(data, torchvision.io.ImageReadMode.RGB, apply_exif_orientation=True)
            except RuntimeError:  # no plain JPEG, missing or damaged: Pillow reads it or says what is wrong
                pass
        return _decode_with_pillow(path)
    except FileNotFoundError:
        raise DataError(f"the image {path} is missing; restore it or remove it from the list") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of damaged files raise whatever they stumble over
        raise DataError(
            f"the image {path} cannot be decoded ({error}); replace it or remove it from the list"
        ) from error


def _decode_with_pillow(path: str) -> Tensor:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # 16 bits of grey: Pillow's own conversion would cut them off at 255
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)
