"""Inspects images in several processes. An image that kills its process, or stalls it, is bad like any other."""

import collections
from collections.abc import Iterator, Sequence

from datasets.check.inspect import ImageReport, inspect
from datasets.images import Images
from datasets.loading.workers import CHECKS, stall_error, start_error, waits_for
from utils.processes import Advance, Worker, WorkerDied, end, wait_for

CHUNK = 32  # images that a worker is sent at a time
ROUNDS = 3  # of stalled images in all workers, without a report in between: the disk does not answer


def inspect_in_processes(
    lists: Sequence[Images], processes: int, timeout: float | None = None
) -> Iterator[tuple[int, ImageReport]]:
    """(image, report) in any order, images numbered through the lists.

    An image that kills its worker is tried once more. timeout: seconds after which an image without a report is
    unreadable; None = never. Raises a DataError if a worker cannot be started, or if image after image stalls.
    """
    for images in lists:
        images.prepare()
    inspection = _Inspection(lists, processes, timeout)
    try:
        while inspection.chunks or inspection.at_work:
            inspection.start()
            yield from inspection.collect()
    finally:
        end(inspection.at_work)


class _Inspection:
    """The chunks of images that are still to be inspected, and the workers."""

    def __init__(self, lists: Sequence[Images], processes: int, timeout: float | None):
        self.lists, self.processes, self.timeout = lists, processes, timeout
        total = sum(map(len, lists))
        size = max(1, min(CHUNK, total // (4 * processes)))
        self.chunks = collections.deque(range(start, min(start + size, total)) for start in range(0, total, size))
        self.at_work: dict[Worker, range] = {}  # the images of its chunk that it has not reported
        self.fatal: set[int] = set()  # images that killed a worker
        self.stalled = 0  # images in a row

    def start(self) -> None:
        """Starts a worker for each chunk, as long as there are both."""
        while self.chunks and len(self.at_work) < self.processes:
            try:
                worker = Worker(self._serve)
            except OSError as error:
                raise start_error(error, self.processes) from error
            self._send_chunk(worker)

    def collect(self) -> Iterator[tuple[int, ImageReport]]:
        """Waits; yields what the workers report, and the images that killed or stalled one."""
        for worker in wait_for(self.at_work, self.timeout and self.timeout / CHECKS):
            image = self.at_work[worker][0]
            try:
                report = worker.receive()
            except WorkerDied as died:
                if image in self.fatal:
                    images, index = self._locate(image)
                    reason = _death(died.cause)
                    yield image, ImageReport("unreadable", reason, size=images.file_bytes(index))
                self._replace(worker, again=image not in self.fatal)
                self.fatal.add(image)
                continue
            if isinstance(report, Exception):
                raise report
            self.stalled = 0
            self._advance(worker)
            yield image, report
        for worker in [w for w in self.at_work if self.timeout and w.silence >= self.timeout]:
            yield self._stalled(worker)

    # ---- chunks and workers ----

    def _serve(self, chunk: range, advance: Advance) -> Iterator[ImageReport]:
        """Reports on the images of a chunk, in a worker."""
        for image in chunk:
            report = inspect(*self._locate(image))
            advance()
            yield report

    def _locate(self, image: int) -> tuple[Images, int]:
        """The list that contains an image, and its index there."""
        for images in self.lists:
            if image < len(images):
                return images, image
            image -= len(images)
        raise IndexError(image)

    def _send_chunk(self, worker: Worker) -> None:
        self.at_work[worker] = self.chunks.popleft()
        worker.send(self.at_work[worker])

    def _advance(self, worker: Worker) -> None:
        """Records that an image was reported; a worker without images receives the next chunk, or is ended."""
        self.at_work[worker] = self.at_work[worker][1:]
        if self.at_work[worker]:
            return
        if self.chunks:
            self._send_chunk(worker)
        else:
            del self.at_work[worker]
            end([worker])

    def _replace(self, worker: Worker, again: bool) -> None:
        """Ends a worker and requeues its images; again: also the one that it was reading, as a separate chunk."""
        chunk = self.at_work.pop(worker)
        end([worker])
        self.chunks.extendleft(part for part in (chunk[1:], chunk[:1] if again else ()) if part)

    def _stalled(self, worker: Worker) -> tuple[int, ImageReport]:
        """The report on an image that stalled a worker. Raises a DataError if it was the last one of many."""
        image = self.at_work[worker][0]
        images, index = self._locate(image)
        self.stalled += 1
        if self.stalled >= ROUNDS * self.processes:
            raise stall_error(
                ROUNDS * (self.timeout or 0), waits_for(worker.pid, worker.state, [images.describe(index)])
            )
        reason = f"cannot be read within {self.timeout:g} seconds (worker_timeout); its process was {worker.state}"
        self._replace(worker, again=False)
        return image, ImageReport("unreadable", reason, size=_file_bytes(images, index))


def _file_bytes(images: Images, index: int) -> int | None:
    """The size of a file, read in a separate process, as a dead disk does not answer."""
    worker = Worker(lambda index, advance: [images.file_bytes(index)])
    try:
        worker.send(index)
        return worker.receive() if wait_for([worker], 1.0) else None
    finally:
        end([worker])


def _death(cause: str) -> str:
    return f"kills the process that decodes it ({cause}{', out of memory?' if cause == 'SIGKILL' else ''})"
