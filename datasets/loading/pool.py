"""Worker processes that read batches ahead, into memory that they share with their parent.

The memory is one anonymous mapping, created before the workers are forked and divided into slots of one batch: it needs
no /dev/shm, no name and no open file. Only a slot's number is sent through a worker's pipe.
"""

import collections
import dataclasses
import math
import mmap
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from datasets.images import ImageList
from datasets.loading.crops import Crop, Sample
from datasets.loading.sampler import Batch
from datasets.loading.workers import CHECKS, death_error, stall_error, start_error, waits_for
from utils.device.memory import MB, free_bytes
from utils.processes import Advance, Worker, WorkerDied, end, wait_for

AHEAD = 2  # batches that each worker is sent in advance
SHARE = 1 / 2  # of the free memory, for batches that are read ahead


@dataclasses.dataclass(eq=False)
class _Job:
    """A batch that a worker reads into a slot."""

    slot: int
    batch: Batch
    worker: Worker
    done: bool = False
    error: Exception | None = None


class ReaderPool:
    """Reads batches of `images` in `num_workers` processes: in order, at most AHEAD for each of them in advance.

    largest: samples in the largest batch. timeout: seconds without progress after which `log` is called with a line
    about the images that are waited for; after twice the time the run ends; None = never. Fewer batches are read ahead
    if memory is short. Raises DataError for an image, and for a worker that died, stalled or could not be started.
    """

    def __init__(
        self,
        images: ImageList,
        crop: Crop,
        largest: int,
        num_workers: int,
        pin_memory: bool,
        timeout: float | None,
        log: Callable[[str], None],
    ):
        self.images, self.crop, self.pin_memory = images.images, crop, pin_memory
        self.timeout, self.log = timeout, log
        self.warned = False  # whether the log has the images that are waited for
        batch_bytes = max(largest * math.prod(crop.shape), 1)
        slots = self._slots(AHEAD * num_workers, batch_bytes)
        self.num_workers = min(num_workers, slots)
        try:
            self.pixels = _shared((slots, largest, *crop.shape), np.uint8)
            self.samples = _shared((slots, largest, 2), np.int64)
        except OSError as error:
            raise start_error(error, num_workers) from error
        self.jobs: dict[Worker, collections.deque[_Job]] = {}  # not answered yet

    def _slots(self, wanted: int, batch_bytes: int) -> int:
        """How many of the `wanted` slots fit in the free memory, at least one."""
        try:
            free = free_bytes(torch.device("cpu"))
        except (OSError, ValueError, LookupError):  # only Linux has /proc
            return wanted
        fitting = int(SHARE * free / batch_bytes)
        if fitting >= wanted:
            return wanted
        self.log(
            f"memory    batches read ahead: {max(fitting, 1)}, not {wanted}; each takes {batch_bytes / MB:,.0f} MB, "
            f"and {free / MB:,.0f} MB are free"
        )
        return max(fitting, 1)

    def read(self, batches: Iterable[Batch]) -> Generator[tuple[Tensor, Batch], None, None]:
        """Crops, uint8 [n, *crop.shape], and samples of each batch."""
        try:
            self._start()
            yield from self._read(iter(batches))
        finally:
            end(self.jobs)
            self.jobs.clear()

    def _start(self) -> None:
        try:
            for _ in range(self.num_workers):
                self.jobs[Worker(self._serve)] = collections.deque()
        except OSError as error:
            raise start_error(error, self.num_workers) from error

    def _serve(self, task: tuple[int, int], advance: Advance) -> Iterator[None]:
        """Reads a batch, (slot, number of samples), in a worker."""
        slot, count = task
        samples: list[Sample] = [(epoch, index) for epoch, index in self.samples[slot, :count].tolist()]
        self.images.read_crops(samples, self.crop, torch.from_numpy(self.pixels[slot, :count]), advance)
        yield None

    def _read(self, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Batch]]:
        free = collections.deque(range(len(self.pixels)))  # slots
        ahead: collections.deque[_Job] = collections.deque()  # in the order of the batches

        def send() -> None:
            while free and (batch := next(batches, None)) is not None:
                ahead.append(self._send(free.popleft(), batch))

        send()
        while ahead:
            job = ahead.popleft()
            pixels = self._result(job)
            free.append(job.slot)
            send()
            yield pixels, job.batch

    def _send(self, slot: int, batch: Batch) -> _Job:
        """Sends a batch to the worker that has the fewest."""
        self._collect(0)
        worker = min(self.jobs, key=lambda worker: len(self.jobs[worker]))
        if batch:
            self.samples[slot, : len(batch)] = batch
        worker.send((slot, len(batch)))
        job = _Job(slot, batch, worker)
        self.jobs[worker].append(job)
        return job

    def _result(self, job: _Job) -> Tensor:
        """A copy of the crops of a job, once it is done: pinned, or in ordinary memory. Raises its error."""
        while not job.done:
            self._collect(None if self.timeout is None else self.timeout / CHECKS)
            if self.timeout is not None:
                self._watch(job.worker, self.timeout)
        if job.error:
            raise job.error
        pixels = torch.from_numpy(self.pixels[job.slot, : len(job.batch)])
        return pixels.pin_memory() if self.pin_memory else pixels.clone()

    def _collect(self, seconds: float | None) -> None:
        """Receives answers; waits for them at most `seconds`."""
        for worker in wait_for(self.jobs, seconds):
            try:
                answer = worker.receive()
            except WorkerDied as died:
                images = self._unread(worker)
                raise death_error(died, images[0] if images else None, self.num_workers) from None
            job = self.jobs[worker].popleft()
            job.done, job.error = True, answer

    def _watch(self, worker: Worker, timeout: float) -> None:
        """Logs the missing images if this worker has been silent for the timeout; raises an error after two."""
        if worker.silence < timeout:
            self.warned = False
            return
        silent = [worker, *(w for w in self.jobs if w is not worker and self.jobs[w] and w.silence >= timeout)]
        waiting = "; ".join(waits_for(w.pid, w.state, self._unread(w)) for w in silent)
        if worker.silence >= 2 * timeout:
            raise stall_error(2 * timeout, waiting)
        if not self.warned:
            self.log(
                f"waiting   no image for {timeout:g} seconds: {waiting}; the run ends after the same time again "
                "(worker_timeout)"
            )
        self.warned = True

    def _unread(self, worker: Worker) -> list[str]:
        """The images that a worker has been sent and has not read yet; it is reading the first one."""
        samples = [sample for job in self.jobs[worker] for sample in job.batch]
        return [self.images.describe(index) for _, index in samples[worker.done :]]


def _shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros in memory that forked processes share. Raises OSError if there is too little."""
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(memory, dtype, count).reshape(shape)
