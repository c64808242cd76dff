"""The device that a run computes on, the threads of a CPU, and deterministic kernels."""

import os

import torch

from utils.device.allocator import retain_freed_memory
from utils.device.distributed import Distributed
from utils.errors import ConfigError

THREADS = torch.get_num_threads()
SMALL_MODEL = 10_000_000  # parameters


def pick_device(gpu: int | None, distributed: Distributed) -> torch.device:
    """The GPU numbered `gpu`, or the CPU if there is no GPU or `gpu` is -1.

    With several processes each uses the GPU of its local rank. Raises a ConfigError for a GPU that does not exist.
    """
    count = torch.cuda.device_count()
    if gpu == -1 or count == 0:
        return torch.device("cpu")
    if distributed.size > 1:
        gpu = distributed.local_rank
    elif gpu is None and count > 1:
        message = (
            f"gpu None means all {count} GPUs, which needs a process for each: start torchrun "
            f"--nproc_per_node={count} main.py ... instead of python main.py ..."
        )
        raise ConfigError(message, kind="one_process_for_all_gpus", key="gpu")
    gpu = gpu or 0
    if gpu >= count:
        message = f"this machine has {count} GPUs, numbered from 0, found gpu {gpu}; choose a smaller number"
        raise ConfigError(message, kind="no_such_gpu", key="gpu")
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


def find_device(name: str | torch.device | None) -> torch.device:
    """The device called cpu, cuda or cuda:N; None = the GPU, or the CPU if there is none. Raises ConfigError."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch has no support for GPUs
        count = torch.cuda.device_count()
        there = f"this machine has {count} GPUs, numbered from 0" if count else "this machine has no GPU"
        message = f"device '{name}' does not exist; {there}: choose cpu{', cuda or cuda:N' if count else ''}"
        raise ConfigError(message, kind="no_such_device", key="device") from error


def prepare_cpu(num_parameters: int) -> None:
    """Sets threads and allocator for a model of this size. Call it once the weights are loaded."""
    torch.set_num_threads(pick_threads(num_parameters))
    retain_freed_memory()


def pick_threads(num_parameters: int) -> int:
    """The number of CPU threads to use: all, or one for a small model, whose threads would mostly wait.

    clip_tiny in steps of 16 images trains 860 images/s with one thread, 1,400 with four. But on a machine with other
    load, each of the many short waits may last a time slice: a ViT of two blocks fell from 3,800 images/s to 18.
    """
    return 1 if num_parameters < SMALL_MODEL else THREADS


def make_deterministic() -> None:
    """Chooses deterministic kernels: slower on a GPU, no change on a CPU.

    An operation without one raises a RuntimeError. warn_only does not suffice: with it, torch uses nondeterministic
    kernels for the backward pass of attention even if it has both.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
