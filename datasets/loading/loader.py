"""Loader: from image lists to batches on the device. Workers decode and crop; images travel as uint8.

Randomness is counted, not consumed: the order follows from (seed, epoch), a crop from (seed, epoch, index).
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.images import ImageList
from datasets.loading.crops import Crop
from datasets.loading.sampler import Batch
from datasets.loading.workers import default_workers, explained_death, ignore_interrupts, without_warning_of_workers
from utils.errors import DataError

TEST_BATCH = 128  # minimum images in a test batch: without gradients they need little memory, and small models gain


class Loader:
    """Iterates over batches: (images uint8 [B, ...], labels int64 [B]), both on `device`.

    Workers live through all the epochs of `batches`. An image that is missing or cannot be decoded raises a DataError
    with its path, in whichever process; so does a worker that was killed, with the likely cause.
    """

    def __init__(
        self,
        images: ImageList,
        crop: Crop,
        batches: Iterable[Batch],
        device: torch.device,
        num_workers: int | None = None,
    ):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        images.images.prepare()
        with without_warning_of_workers():
            self.loader = DataLoader(
                _ImageDataset(images, crop),
                batch_sampler=batches,
                num_workers=default_workers(images) if num_workers is None else num_workers,
                collate_fn=_identity,
                pin_memory=device.type == "cuda",
                worker_init_fn=ignore_interrupts,
                # workers take no seed from the parent's state: iterating must not advance the global generator
                generator=torch.Generator(),
            )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with without_warning_of_workers():
            batches = iter(self.loader)  # starts the workers
        try:
            with explained_death(self.loader.num_workers):
                for batch in batches:
                    if isinstance(batch, DataError):
                        raise batch
                    yield to_device(batch, self.device, self.stream)
        finally:
            # ends the workers now, not when the traceback of an error is released, perhaps in another forked process
            del batches


def to_device(
    batch: tuple[Tensor, Tensor], device: torch.device, stream: torch.cuda.Stream | None
) -> tuple[Tensor, Tensor]:
    """The batch on `device`; copied to a GPU on a side stream, so that the copy overlaps the queued steps.

    The host queues steps faster than a GPU computes them, so a batch has arrived long before its step begins.
    """
    with torch.cuda.stream(stream):  # does nothing for None
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
    if stream:
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(stream)
        for tensor in (images, labels):
            tensor.record_stream(steps)  # allocated on the side stream; reused only after the steps' work on it
    return images, labels


class _ImageDataset(Dataset):
    """Reads and crops a whole batch at a time, in a worker."""

    def __init__(self, images: ImageList, crop: Crop):
        self.images, self.labels, self.crop = images.images, images.labels, crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, samples: Batch) -> tuple[Tensor, Tensor] | DataError:
        if not samples:  # the share of a process in a batch with fewer samples than processes
            side = self.crop.resolution
            return torch.empty(0, 3, side, side, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        try:
            crops = self.images.read_crops(samples, self.crop)
        except DataError as error:
            return error  # as a value: raised in a worker, it would arrive wrapped in a traceback
        return crops, torch.from_numpy(self.labels[[index for _, index in samples]])


def _identity(batch: object) -> object:
    return batch
