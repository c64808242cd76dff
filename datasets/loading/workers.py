"""The loader's worker processes: how many, what they do with Ctrl-C, and a message if one of them dies."""

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

from datasets.images import ImageList
from utils.errors import DataError
from utils.processes import read_processes

CAUSES = {  # signal that killed a worker -> most likely cause, remedy
    "Bus error": ("the shared memory is too small", "enlarge it (/dev/shm; docker run --shm-size 8g)"),
    "Segmentation fault": ("a damaged image crashed the decoder", "find it with scripts/check_data.py"),
}
OUT_OF_MEMORY = ("the machine ran out of memory", "free some")  # of any other death


# ---- how many ----


def default_workers(images: ImageList) -> int:
    """A worker for each core (of torchrun's share); none for a small set in memory."""
    return 0 if images.images.is_small else max(_cores() // _local_processes(), 1)


def workers_note(num_workers: int | None) -> str | None:
    """A sentence for the log if `num_workers` is more than the cores (of torchrun's share), else None."""
    cores, processes = _cores(), _local_processes()
    if (num_workers or 0) * processes <= cores:
        return None
    each = f" in each of {processes} processes" if processes > 1 else ""
    one_per_core = max(cores // processes, 1)
    return (
        f"num_workers {num_workers}{each} is more than {'this core' if cores == 1 else f'these {cores} cores'} can "
        f"run at once, which may be slower; num_workers {one_per_core} uses every core once"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _local_processes() -> int:
    return read_processes().local_size


@contextlib.contextmanager
def without_warning_of_workers() -> Iterator[None]:
    """Suppresses torch's warning of more workers than cores: `workers_note` is in the log."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


# ---- how they end ----


def ignore_interrupts(worker: int) -> None:
    """Called in a new worker. Ctrl-C reaches all processes of a terminal, and only the parent should answer it."""

    def hook(kind, error, traceback):
        # the thread that hands over batches fails like this once the parent has stopped waiting
        if not issubclass(kind, (ConnectionError, EOFError)):
            sys.__excepthook__(kind, error, traceback)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = hook


@contextlib.contextmanager
def explained_death(num_workers: int) -> Iterator[None]:
    """Within the block, the death of a worker raises a DataError, wherever the parent is at that moment.

    torch raises a RuntimeError from its handler of SIGCHLD, or from its wait for the next batch. Enter the block when
    the workers are running: torch installs its handler as it starts them.
    """
    torch_handler = signal.getsignal(signal.SIGCHLD)
    if num_workers == 0 or not callable(torch_handler) or threading.current_thread() is not threading.main_thread():
        with _death_as_data_error(num_workers):
            yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        with _death_as_data_error(num_workers):
            torch_handler(number, frame)

    signal.signal(signal.SIGCHLD, handler)
    try:
        with _death_as_data_error(num_workers):
            yield
    finally:
        with contextlib.suppress(ValueError):  # at the end of the program, or garbage-collected in another thread
            signal.signal(signal.SIGCHLD, torch_handler)


@contextlib.contextmanager
def _death_as_data_error(num_workers: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error.__cause__, DataError):  # torch caught the handler's error and raised its own
            raise error.__cause__ from None
        if isinstance(error, RuntimeError) and not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            raise
        match = re.search(r"signal: ([^.]*)", str(error))
        killed_by = match[1] if match else None
        cause, remedy = CAUSES.get(killed_by or "", OUT_OF_MEMORY)
        message = (
            f"a process that reads images died ({killed_by or 'unexpectedly'}), most likely because "
            f"{cause}; {remedy}, or set num_workers below {num_workers} (0 = no such processes)"
        )
        raise DataError(message, kind="worker_died", key="num_workers") from None
