"""Several processes, one run: torchrun starts them, each computes its share of every step.

    torchrun --nproc_per_node=4 main.py -d imagenet_lt -b clip_vit_b16 -m lift+ root FOLDER

The result is that of one process: rank r takes every N-th sample of the same steps, a loss is divided by the weight of
the whole step, and what a test finds is added up as integers, each image by one process alone.
"""

import contextlib
import inspect
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn


class World:
    """The processes of this run: `rank` of `size`, and `local`, the number of this one on its machine."""

    def __init__(self) -> None:
        self.rank, self.size, self.local = (
            int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Within it the processes know one another; their tensors are on devices like `device`."""
        if self.size == 1 or dist.is_initialized():  # by whoever runs several trainings in one process
            yield
            return
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()

    def sum(self, value: Tensor | int, device: torch.device) -> Tensor | int:
        """The sum over all processes; of a single one the value itself."""
        if self.size == 1:
            return value
        total = torch.as_tensor(value, device=device).clone()
        dist.all_reduce(total)
        return total

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does this before the others: what it downloads or deletes, they find done."""
        if self.size > 1 and not self.main:
            dist.barrier()
        yield
        if self.size > 1 and self.main:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, its gradients averaged over the processes in the backward pass."""
        if self.size == 1:
            return model
        parallel = nn.parallel.DistributedDataParallel
        names = inspect.signature(parallel).parameters  # buffers are equal everywhere; the option's name has changed
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        return parallel(model, **{sync: False})

    def alone(self, model: nn.Module, unless: bool) -> contextlib.AbstractContextManager:
        """Within it a backward pass of a wrapped model keeps its gradients to itself, for a later one to average."""
        return contextlib.nullcontext() if unless or self.size == 1 else model.no_sync()
