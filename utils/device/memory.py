"""Memory: free bytes, peak use, and the size of the micro-batches that fit."""

import contextlib
import functools
import itertools
import math
import resource
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.ranks import read_processes
from utils.text import significant

MB = 2**20
# Share of the free memory that tensors may take. The rest is for temporaries inside operations and for fragmentation:
# half as much again, measured with ViT-B/16 on a CPU (docs/scale.md).
SHARE = 1 / 2
MEMINFO, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup")
# limits of containers and of Slurm's jobs, in version 2 and in version 1 of cgroups
CGROUP = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def pick_micro_batch_size(
    images: int,
    accum_step: int | None,
    compute: Callable[[int], object],
    state_bytes: int,
    device: torch.device,
    log: Callable[[str], None],
) -> int:
    """The number of images per micro-batch, for the `images` of a step: by accum_step, or if None by free memory.

    compute: forward and backward pass of a number of images, of any content. state_bytes: of gradients and the
    optimizer's state. log: called with the result in one line.
    The result depends on the other contents of memory, so two runs may sum gradients in a different order.
    """
    if accum_step is not None:
        return math.ceil(images / accum_step)
    free = free_bytes(device)
    two, four = (peak_bytes(functools.partial(compute, count)) for count in (2, 4))
    bytes_per_image = max((four - two) / 2, 1)
    fitting = 2 + (SHARE * (free - state_bytes) - two) / bytes_per_image
    micro_batches = math.ceil(images / min(max(int(fitting), 1), images))
    size = math.ceil(images / micro_batches)
    log(
        f"memory    a step is {micro_batches} x {size} images, {bytes_per_image / MB:.3g} MB each, "
        f"in {SHARE:.0%} of {significant(free / MB)} MB free"
    )
    return size


def peak_bytes(function: Callable[[], object]) -> int:
    """The peak memory in bytes of the tensors that `function` creates, including its backward passes.

    Temporaries inside an operation are not counted.
    """
    with _CreatedTensors() as created:
        function()
    return created.peak


class _CreatedTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operations in its block create, until each is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, found = _storages((args, kwargs)), _storages(result)
        for key in found.keys() - given.keys():  # the others are views, or computed in place
            self._add(found[key].nbytes())
            weakref.finalize(found[key], self._add, -found[key].nbytes()).atexit = False
        return result

    def _add(self, count: int) -> None:
        self.bytes += count
        self.peak = max(self.peak, self.bytes)


def _storages(tree: object) -> dict[int, torch.UntypedStorage]:
    """The storages of all tensors in a tree, each once."""
    storages = (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return {storage._cdata: storage for storage in storages}


def free_bytes(device: torch.device) -> int:
    """The bytes that a process may still allocate: on a GPU, or on a CPU within the limits of machine and container."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    free = [1024 * _first(MEMINFO, "MemAvailable:")]
    for group, (limit, used) in itertools.product(_groups(), LIMITS):
        with contextlib.suppress(OSError, ValueError, LookupError):  # it does not exist, or is "max"
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
    """The peak memory so far, MB: of the GPU's allocator, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KB on Linux
