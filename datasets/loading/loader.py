"""From image lists to batches on the device: order, decode, crop in the workers, uint8 on the way.

Randomness is counted, not consumed: the order of an epoch follows from (seed, epoch), a crop from (seed, epoch, index).
So the number of workers, the size of a batch and the epoch at which a run resumes change nothing.
"""

import contextlib
import dataclasses
import functools
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.base import ImageList
from datasets.loading.crops import AnyTestCrops, Sample, TrainCrop
from datasets.loading.decode import ImageFiles, decode
from utils.errors import DataError

Step = list[Sample]
Crop = TrainCrop | AnyTestCrops
SMALL_BYTES = 2**20
TEST_BATCH = 128  # images at least: without gradients they need little memory, and small models gain
CAUSES = {  # of a worker's death by this signal, and what helps
    "Bus error": ("the shared memory is too small", "enlarge it (/dev/shm; docker run --shm-size 8g)"),
    "Segmentation fault": ("a damaged image crashed the decoder", "find it with scripts/check_data.py"),
    None: ("the machine ran out of memory", "free some"),
}


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which an epoch visits `size` samples: one permutation of all, from (seed, epoch) alone."""
    return np.random.default_rng((seed, epoch, 0)).permutation(size)


@dataclasses.dataclass(frozen=True)
class TrainSteps:
    """The samples of every step of the epochs first_epoch..num_epochs-1; the last step of an epoch may be smaller.

    Of several processes each takes its share: `rank` every num_ranks-th sample of a step.
    """

    size: int
    batch_size: int
    seed: int
    num_epochs: int
    first_epoch: int = 0
    rank: int = 0
    num_ranks: int = 1

    @property
    def per_epoch(self) -> int:
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * (self.num_epochs - self.first_epoch)

    def __iter__(self) -> Iterator[Step]:
        for epoch in range(self.first_epoch, self.num_epochs):
            order = epoch_order(self.seed, epoch, self.size).tolist()
            for start in range(0, self.size, self.batch_size):
                step = order[start : start + self.batch_size]
                yield [(epoch, index) for index in step[self.rank :: self.num_ranks]]


def in_order(indices: np.ndarray, batch_size: int) -> list[Step]:
    """The samples `indices` in their own order, for testing."""
    return [[(0, int(i)) for i in indices[start : start + batch_size]] for start in range(0, len(indices), batch_size)]


class Loader:
    """Iterates over steps: (images uint8 [B, ...], labels int64 [B]), both on `device`.

    Workers live through all the epochs of `steps`. An image that is missing or cannot be decoded raises a DataError
    that names it, whichever process met it; a worker that was killed raises one that says why that happens.
    """

    def __init__(self, images: ImageList, crop: Crop, steps, device: torch.device, num_workers: int | None = None):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        with _without_warning_of_workers():
            self.loader = DataLoader(
                _Reader(images, crop),
                batch_sampler=steps,
                num_workers=automatic_workers(images) if num_workers is None else num_workers,
                collate_fn=_as_it_is,
                pin_memory=device.type == "cuda",
                worker_init_fn=_leave_interrupts_to_the_parent,
                # workers seed nothing from the parent's state: iterating must not advance the global generator
                generator=torch.Generator(),
            )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with _without_warning_of_workers():
            batches = iter(self.loader)  # starts the workers
        try:
            with _explained_death(self.loader.num_workers):
                for batch in batches:
                    if isinstance(batch, DataError):
                        raise batch
                    yield move(batch, self.device, self.stream)
        finally:
            # ends the workers now, not when the traceback of an error is forgotten: in another fork, perhaps
            del batches


def move(batch: tuple[Tensor, ...], device: torch.device, stream: torch.cuda.Stream | None) -> tuple[Tensor, ...]:
    """The tensors of a batch on `device`; to a GPU on a stream of its own, past the steps that still wait there.

    The host queues steps faster than a GPU computes them, so a batch has arrived long before its step begins.
    """
    with torch.cuda.stream(stream):  # None: this is no stream
        moved = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
    if stream:
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(stream)
        for tensor in moved:
            tensor.record_stream(steps)  # its memory is the other stream's; it may be used again after this one's work
    return moved


def automatic_workers(images: ImageList) -> int:
    """A process for each core (of torchrun's share); none for a small set in memory, read sooner than they start."""
    small = isinstance(images.images, np.ndarray) and images.images.nbytes < SMALL_BYTES
    return 0 if small else max(_cores() // _local_processes(), 1)


def workers_note(num_workers: int | None) -> str | None:
    """A sentence for the log if `num_workers` is more than the cores (of torchrun's share), else None."""
    cores, processes = _cores(), _local_processes()
    if (num_workers or 0) * processes <= cores:
        return None
    each = f" in each of {processes} processes" if processes > 1 else ""
    one_a_core = max(cores // processes, 1)
    return (
        f"num_workers {num_workers}{each} is more than {'this core' if cores == 1 else f'these {cores} cores'} can "
        f"run at once, which may be slower; num_workers {one_a_core} uses every core once"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextlib.contextmanager
def _without_warning_of_workers() -> Iterator[None]:
    """Suppresses torch's warning of more workers than cores: `workers_note` is in the log."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


class _Reader(Dataset):
    """Reads and crops a whole step at a time, in a worker."""

    def __init__(self, images: ImageList, crop: Crop):
        in_memory = isinstance(images.images, np.ndarray)
        self.pixels = images.images if in_memory else None
        self.files = None if in_memory else ImageFiles(images.images, images.exif_orientation)
        self.labels, self.crop = images.labels, crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, step: Step) -> tuple[Tensor, Tensor] | DataError:
        indices = [index for _, index in step]
        if not step:  # the share of a process in a step with fewer samples than processes
            side = self.crop.resolution
            return torch.empty(0, 3, side, side, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        try:
            if self.files is None:
                images = torch.from_numpy(self.pixels[indices]).permute(0, 3, 1, 2)
                crops = self.crop.of_batch(images, step)
            else:
                crops = torch.stack([self.crop(self.decode(sample), *sample) for sample in step])
        except DataError as error:
            return error  # as a value: raised in a worker, it would come back wrapped in a traceback
        return crops, torch.from_numpy(self.labels[indices])

    def decode(self, sample: Sample) -> Tensor:
        epoch, index = sample
        smaller = functools.partial(self.crop.reduction, epoch=epoch, index=index) if self.crop.reducing_gap else None
        return self.files.decode(index, smaller)


def read_image(images: ImageList, index: int) -> Tensor:
    """The pixels of one image, uint8 RGB [3, H, W]."""
    if isinstance(images.images, np.ndarray):
        return torch.from_numpy(images.images[index]).permute(2, 0, 1)
    return decode(images.images[index], exif_orientation=images.exif_orientation)


def _as_it_is(batch: object) -> object:
    return batch


# ---- how workers end ----


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: the parent answers it, and its workers show no tracebacks."""

    def hook(kind, error, traceback):
        if not issubclass(kind, (ConnectionError, EOFError)):  # of the thread that hands over batches: nobody waits
            sys.__excepthook__(kind, error, traceback)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = hook


@contextlib.contextmanager
def _explained_death(num_workers: int) -> Iterator[None]:
    """Within, the death of a worker is a DataError, wherever in its work the parent is at that moment.

    torch raises a RuntimeError out of its handler of SIGCHLD, or out of its wait for the next batch. Enter when the
    workers run: torch installs its handler as it starts them.
    """
    torchs = signal.getsignal(signal.SIGCHLD)

    def handler(number, frame):
        with _death_in_words(num_workers):
            torchs(number, frame)

    wrap = num_workers > 0 and callable(torchs) and threading.current_thread() is threading.main_thread()
    if wrap:
        signal.signal(signal.SIGCHLD, handler)
    try:
        with _death_in_words(num_workers):
            yield
    finally:
        if wrap:
            with contextlib.suppress(ValueError):  # at the very end, or collected in another thread
                signal.signal(signal.SIGCHLD, torchs)


@contextlib.contextmanager
def _death_in_words(num_workers: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error.__cause__, DataError):  # torch met the handler's answer, and went on to its own
            raise error.__cause__ from None
        if isinstance(error, RuntimeError) and not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            raise
        signalled = re.search(r"signal: ([^.]*)", str(error))
        cause, remedy = CAUSES.get(signalled and signalled[1], CAUSES[None])
        raise DataError(
            f"a process that reads images died ({signalled[1] if signalled else 'unexpectedly'}), most likely because "
            f"{cause}; {remedy}, or set num_workers below {num_workers} (0 = no such processes)"
        ) from None
