"""Loader: from image lists to batches on the device. Workers decode and crop; images are transferred as uint8.

Randomness is counter-based: the order is a function of (seed, epoch), a crop of (seed, epoch, index).
"""

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor

from datasets.images import ImageList
from datasets.loading.crops import Crop
from datasets.loading.pool import ReaderPool
from datasets.loading.sampler import Batch, TrainBatchSampler, largest_batch
from datasets.loading.workers import default_workers

TEST_BATCH = 128  # minimum images in a test batch: without gradients they need little memory; small models are faster
WORKER_TIMEOUT = 600.0  # seconds


class Loader:
    """Iterates over batches: (images uint8 [B, ...], labels int64 [B]), both on `device`.

    Workers persist through all the epochs of `batches`. An image that is missing or cannot be decoded raises a
    DataError with its path, in any process; so does a worker that was killed, with the likely cause, and one that reads
    no image for twice worker_timeout (seconds; None: no limit). After half of that, `log` is called with a line about
    the images that are waited for.
    """

    def __init__(
        self,
        images: ImageList,
        crop: Crop,
        batches: TrainBatchSampler | list[Batch],
        device: torch.device,
        num_workers: int | None = None,
        worker_timeout: float | None = WORKER_TIMEOUT,
        log: Callable[[str], None] = warnings.warn,
    ):
        self.images, self.crop, self.batches, self.device = images, crop, batches, device
        self.num_workers = default_workers(images) if num_workers is None else num_workers
        self.worker_timeout, self.log = worker_timeout, log
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        images.images.prepare(log)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # close now, which ends the workers, not when the traceback of an error is released
        with contextlib.closing(self._read_in_workers() if self.num_workers else self._read_here()) as batches:
            for crops, samples in batches:
                labels = torch.from_numpy(self.images.labels[[index for _, index in samples]])
                labels = labels.pin_memory() if self.stream else labels
                yield to_device((crops, labels), self.device, self.stream)
        self.images.images.finish(self.log)

    def _read_in_workers(self) -> Generator[tuple[Tensor, Batch], None, None]:
        pool = ReaderPool(
            self.images,
            self.crop,
            largest_batch(self.batches),
            self.num_workers,
            self.device.type == "cuda",
            self.worker_timeout,
            self.log,
        )
        return pool.read(self.batches)

    def _read_here(self) -> Generator[tuple[Tensor, Batch], None, None]:
        for samples in self.batches:
            crops = self.images.images.read_crops(samples, self.crop)
            yield crops.pin_memory() if self.stream else crops, samples


def to_device(
    batch: tuple[Tensor, Tensor], device: torch.device, stream: torch.cuda.Stream | None
) -> tuple[Tensor, Tensor]:
    """The batch on `device`; copied to a GPU on a side stream, so that the copy overlaps the queued steps.

    The host queues steps faster than a GPU computes them, so a batch has arrived long before its step begins. For a GPU
    the batch is in pinned memory of torch's allocator, which does not reuse it before the copy is done.
    """
    with torch.cuda.stream(stream):  # does nothing for None
        images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
    if stream:
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(stream)
        for tensor in (images, labels):
            tensor.record_stream(steps)  # allocated on the side stream; reused only after the steps' work on it
    return images, labels
