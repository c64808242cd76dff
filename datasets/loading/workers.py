"""The loader's worker processes: their number, and messages if one cannot start, dies or stops answering."""

import errno
import os

from datasets.images import ImageList
from utils.errors import DataError
from utils.processes import WorkerDied
from utils.ranks import read_processes

CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")  # of a decoder
REMEDIES = {  # the reason why a worker or its memory is not available -> the remedy
    errno.EAGAIN: "allow more processes (ulimit -u; in a container --pids-limit)",
    errno.ENOMEM: "free memory, or raise the limit (ulimit -v)",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "end other programs",
}
CHECKS = 8  # of the workers' progress, within a timeout
NAMED = 3  # images that a message names


# ---- number ----


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
        f"run at once, which may be slower; num_workers {one_per_core} is one per core"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _local_processes() -> int:
    return read_processes().local_size


# ---- messages ----


def start_error(error: OSError, num_workers: int) -> DataError:
    """The error if workers, or the memory that they share, are not available."""
    message = (
        f"cannot start {num_workers} processes that read images ({error.strerror}); "
        f"{REMEDIES.get(error.errno or 0, 'see why')}, or set num_workers lower (0 = no such processes)"
    )
    return DataError(message, kind="cannot_start_worker", key="num_workers")


def death_error(died: WorkerDied, image: str | None, num_workers: int) -> DataError:
    """The error of a worker that died, with the likely cause. image: the one that it was reading."""
    if died.cause in CRASHES:
        cause = f"{image or 'a damaged image'} crashed the decoder"
        remedy = f"{'replace it, or find all such' if image else 'find it'} with scripts/check_data.py"
    else:
        cause, remedy = "the machine ran out of memory", "free some"
    message = (
        f"a process that reads images died ({died.cause}), most likely because {cause}; {remedy}, "
        f"or set num_workers below {num_workers} (0 = no such processes)"
    )
    return DataError(message, kind="worker_died", key="num_workers")


def stall_error(seconds: float, waiting: str) -> DataError:
    """The error of workers that did not answer for `seconds`. waiting: the images, from `waits_for`."""
    message = (
        f"no image could be read for {seconds:g} seconds: {waiting}; check that their disk or network mount responds, "
        "or raise worker_timeout (seconds; None = no limit)"
    )
    return DataError(message, kind="worker_stalled", key="worker_timeout")


def waits_for(pid: int | None, state: str, images: list[str]) -> str:
    """A phrase with the first of the images that a worker has not read yet."""
    more = f" and {len(images) - NAMED:,} more" if len(images) > NAMED else ""
    return f"process {pid} ({state}) has not read {', '.join(images[:NAMED])}{more}"
