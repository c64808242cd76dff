"""Memory: how much is free, how much is used, and the size of the micro-batches that fit into it."""

import contextlib
import functools
import itertools
import math
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from utils.ranks import read_processes
from utils.text import significant

MB = 2**20
# Share of the free memory that tensors saved for backward may take. The rest is for temporary tensors and for memory
# that the allocator cannot use: 0.5 to 1.9 times as much again, measured with ViT-B/16 on a CPU.
SHARE = 1 / 3
MEMINFO, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup")
# limits of containers and of Slurm's jobs, in version 2 and in version 1 of cgroups
CGROUP = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def pick_micro_batch_size(
    images: int,
    accum_step: int | None,
    loss_of: Callable[[int], Tensor],
    tensors: Sequence[Tensor],
    gradient_bytes: int,
    device: torch.device,
    log: Callable[[str], None],
) -> int:
    """How many of its `images` of a step a process computes at once: by accum_step, or if None by free memory.

    loss_of: computes the loss of so many images, of any content, with a graph for backward. tensors: those that are in
    memory anyway, parameters and buffers. gradient_bytes: to be allocated later, for gradients and momentum.
    `log` gets the result in one line. It depends on what else is in memory, so two runs may sum gradients in another
    order.
    """
    if accum_step is not None:
        return math.ceil(images / accum_step)
    free = free_bytes(device)
    two, four = (saved_for_backward_bytes(functools.partial(loss_of, count), tensors) for count in (2, 4))
    bytes_per_image = max((four - two) / 2, 1)
    fitting = 2 + (SHARE * free - gradient_bytes - two) / bytes_per_image
    micro_batches = math.ceil(images / min(max(int(fitting), 1), images))
    size = math.ceil(images / micro_batches)
    log(
        f"memory    a step is {micro_batches} x {size} images, {bytes_per_image / MB:.3g} MB each, "
        f"in a third of {significant(free / MB)} MB free"
    )
    return size


def saved_for_backward_bytes(forward: Callable[[], Tensor], tensors: Sequence[Tensor] = ()) -> int:
    """The bytes that `forward` saves for its backward pass, without those of `tensors`."""
    excluded = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = forward()  # alive while it is counted, so that no storage is counted in another's place
    del result
    return sum(saved.values())


def free_bytes(device: torch.device) -> int:
    """The bytes that one process may still take: on a GPU, or on a CPU within the limits of machine and container."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    free = [1024 * _first(MEMINFO, "MemAvailable:")]
    for group, (limit, used) in itertools.product(_groups(), LIMITS):
        with contextlib.suppress(OSError, ValueError, LookupError):  # there is none, or it is "max"
            cached = _first(group / "memory.stat", "inactive_file ")  # files, freed when needed
            free.append(int((group / limit).read_text()) - int((group / used).read_text()) + cached)
    return max(min(free), 0) // read_processes().local_size


def _groups() -> Iterator[Path]:
    """The folders of this process's cgroups, and of the groups that contain them."""
    lines = GROUPS.read_text().splitlines() if GROUPS.exists() else []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):  # version 2, version 1
            top = CGROUP / controllers
            innermost = top / group.lstrip("/")
            yield from (folder for folder in (innermost, *innermost.parents) if folder.is_relative_to(top))


def _first(file: Path, name: str) -> int:
    """The number after the first `name` in a file."""
    return int(file.read_text().partition(name)[2].split()[0])


def peak_mb(device: torch.device) -> float:
    """The most memory in use so far, MB: of the GPU's allocator, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KB on Linux
