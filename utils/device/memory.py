"""Memory: how much there is, how much is used, and how many images of a step it takes at once."""

import contextlib
import itertools
import math
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

MB = 2**20
# Of the free memory, for what a part keeps for its backward pass. The rest is for what a pass holds for a while and
# what the allocator cannot use: 0.5 to 1.9 times as much again, measured with ViT-B/16 on a CPU.
SHARE = 1 / 3
MEMINFO, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup")
CGROUP = Path("/sys/fs/cgroup")  # where limits of containers and of Slurm's jobs are, of version 2 or of version 1:
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def images_at_once(
    model: nn.Module, loss: nn.Module, share: int, accum_step: int | None, say: Callable[[str], None]
) -> int:
    """How many of its `share` of a step's images a process computes at once: by accum_step, or if None by free memory.

    `model` is in training mode, and no gradient or momentum has been made yet; `say` is told in one line what is
    chosen. It depends on what else is in memory, so two runs may add up their gradients in another order.
    """
    if accum_step is not None:
        return math.ceil(share / accum_step)
    side, device = model.tower.resolution, model.mean.device

    def kept(count: int) -> int:
        images = torch.zeros(count, 3, side, side, dtype=torch.uint8, device=device)
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        return kept_bytes(model, lambda: loss(model(images), labels).sum())

    free, two, four = free_bytes(device), kept(2), kept(4)
    each = max((four - two) / 2, 1)
    gradients = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)  # and momentum
    fits = 2 + (SHARE * free - gradients - two) / each
    parts = math.ceil(share / min(max(int(fits), 1), share))
    size = math.ceil(share / parts)
    say(f"memory    a step is {parts} x {size} images, {each / MB:.3g} MB each, in a third of {free / MB:,.0f} MB free")
    return size


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """The bytes that `forward` keeps for its backward pass, the tensors of `model` left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # alive while it is counted, so that no storage is counted in another's place
    del result
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """What one process may still take: of the GPU's memory, or on a CPU of the machine's and of a container's limit."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    free = [1024 * _first(MEMINFO, "MemAvailable:")]
    for group, (limit, used) in itertools.product(_groups(), LIMITS):
        with contextlib.suppress(OSError, ValueError, LookupError):  # there is none, or it is "max"
            cached = _first(group / "memory.stat", "inactive_file ")  # files: given back when wanted
            free.append(int((group / limit).read_text()) - int((group / used).read_text()) + cached)
    return max(min(free), 0) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _groups() -> Iterator[Path]:
    """The folders of the groups that this process belongs to, and of those around them."""
    lines = GROUPS.read_text().splitlines() if GROUPS.exists() else []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):  # of version 2, of version 1
            top = CGROUP / controllers
            place = top / group.lstrip("/")
            yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(top))


def _first(file: Path, name: str) -> int:
    """The number after the first `name` in a file."""
    return int(file.read_text().partition(name)[2].split()[0])


def peak_mb(device: torch.device) -> float:
    """The most memory in use so far, MB: of the GPU's allocator, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KB on Linux
