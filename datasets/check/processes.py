"""Inspects images in several processes. An image that kills the decoder is reported like any other bad one."""

import collections
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

import torch

from datasets.check.inspect import ImageReport, inspect
from datasets.images import Images

CHUNK = 32  # images that a process is sent at a time


def inspect_in_processes(lists: Sequence[Images], processes: int) -> Iterator[tuple[int, ImageReport]]:
    """(image, report) in any order, images numbered through the lists.

    If a chunk kills its process, its images are retried, each in a process of its own.
    """
    for images in lists:
        images.prepare()
    context = multiprocessing.get_context("fork")  # workers start at once, with packages and paths in memory
    total = sum(map(len, lists))
    size = max(1, min(CHUNK, total // (4 * processes)))
    chunks = collections.deque(range(start, min(start + size, total)) for start in range(0, total, size))
    at_work: dict[object, tuple[Connection, ForkProcess, range]] = {}  # by connection
    try:
        while chunks or at_work:
            # a process for each chunk, as long as there are both
            while chunks and len(at_work) < processes:
                pipe, far_end = context.Pipe()
                process = context.Process(target=_work, args=(far_end, lists), daemon=True)
                process.start()
                far_end.close()
                chunk = chunks.popleft()
                at_work[pipe] = pipe, process, chunk
                _send(pipe, chunk)

            # answers; whoever has answered is sent the next chunk, or None to end
            for ready in wait([pipe for pipe, _, _ in at_work.values()]):
                pipe, process, chunk = at_work.pop(ready)
                try:
                    reports = pipe.recv()
                except (EOFError, OSError):  # it died
                    process.join()
                    if len(chunk) == 1:
                        images, index = _locate(lists, chunk[0])
                        reason = _death(process.exitcode or 0)
                        yield chunk[0], ImageReport("unreadable", reason, size=images.file_bytes(index))
                    else:
                        chunks.extendleft(range(image, image + 1) for image in chunk)
                    continue
                following = chunks.popleft() if chunks else None
                if following is not None:
                    at_work[pipe] = pipe, process, following
                _send(pipe, following)
                yield from zip(chunk, reports, strict=True)
    finally:
        for _, process, _ in at_work.values():
            process.kill()


def _locate(lists: Sequence[Images], image: int) -> tuple[Images, int]:
    """The list that contains an image, and its index there."""
    for images in lists:
        if image < len(images):
            return images, image
        image -= len(images)
    raise IndexError(image)


def _send(pipe: Connection, chunk: range | None) -> None:
    with contextlib.suppress(OSError):  # a process that has just died is noticed when its answer is received
        pipe.send(chunk)


def _work(pipe: Connection, lists: Sequence[Images]) -> None:
    """A worker: ranges of images in, reports out, until None arrives or the parent has ended."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        if pipe.poll(5):
            chunk = pipe.recv()
            if chunk is None:
                return
            pipe.send([inspect(*_locate(lists, image)) for image in chunk])


def _death(exitcode: int) -> str:
    name = signal.Signals(-exitcode).name if exitcode < 0 else f"exit status {exitcode}"
    return f"kills the process that decodes it ({name}{', out of memory?' if name == 'SIGKILL' else ''})"
