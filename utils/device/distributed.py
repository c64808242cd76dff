"""Training with several processes: torchrun starts them, and each computes its share of every step.

    torchrun --nproc_per_node=4 main.py -d imagenet_lt -b clip_vit_b16 -m lift+ root FOLDER

The result is that of one process: rank r takes every N-th sample of the same steps, a loss is divided by the weight of
the whole step, and the outputs of a test are summed: each image is computed by one process, and 0 in the others.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils import terminal
from utils.errors import ConfigError, UserError
from utils.ranks import UNSET, read_processes, require_meeting_point

MEETING_SECONDS = 300  # until all processes must have started
FAILURE = "failure"  # the store's key for the reason why a process has failed

Summed = TypeVar("Summed", bound=Tensor | int)


class OtherProcessError(UserError):
    """Another process of the run has failed, for the reason in the message."""


class Distributed:
    """The processes of a run, from torchrun's environment: rank, number of ranks, and rank on this machine.

    Raises a ConfigError for leftover variables of an earlier job: see utils/ranks.py.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank, _ = read_processes()
        self._store: dist.Store | None = None  # of the process group that this object has initialised

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @contextlib.contextmanager
    def process_group(self, device: torch.device) -> Iterator[None]:
        """Initialises the process group for the block, on devices like `device`; an existing one is used and stays.

        Failures in the block are shared. Raises a ConfigError if the others have not started within MEETING_SECONDS.
        """
        if self.size == 1 or dist.is_initialized():
            yield
            return
        require_meeting_point()
        try:
            limit = timedelta(seconds=MEETING_SECONDS)
            store, rank, size = next(dist.rendezvous("env://", self.rank, self.size, timeout=limit))
        except (dist.DistError, OSError, ValueError) as error:
            raise self._not_met(error) from error
        store.set_timeout(dist.distributed_c10d.default_pg_timeout)
        gpu = device.type == "cuda"
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            # torch's default for nccl is a third of this: the other ranks wait here while rank 0 downloads weights
            timeout=dist.distributed_c10d.default_pg_timeout,
            device_id=device if gpu else None,
        )
        self._store = store
        try:
            with self.shared_failures():
                yield
        finally:
            self._store = None
            dist.destroy_process_group()

    @contextlib.contextmanager
    def shared_failures(self) -> Iterator[None]:
        """In the block, a failure of one process ends the others with its reason, as an OtherProcessError.

        The others would only know that a connection was closed. torchrun reports the process that ends first, and then
        ends the rest, so without this the reason may be lost.
        """
        try:
            yield
        except Exception as error:
            text = str(error) if isinstance(error, UserError) else terminal.describe(error)
            own = f"process {self.rank} failed: {text}"
            first = self._first_failure(own)
            is_lost = type(error) is RuntimeError or isinstance(error, dist.DistError)  # as of a closed connection
            if is_lost and first != own:
                raise OtherProcessError(first, kind="other_process") from error
            raise

    def _first_failure(self, own: str) -> str:
        """Why the first process that failed did so; `own`, which is recorded, if no other one is known."""
        with contextlib.suppress(Exception):  # the store may be gone, too
            if self._store:
                return self._store.compare_set(FAILURE, "", own).decode()
        return own

    def _not_met(self, error: Exception) -> ConfigError:
        """The error for processes that do not find one another."""
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).strip().partition("\n")[0][:200]
        message = (
            f"the {self.size} processes of WORLD_SIZE did not meet at {where} within {MEETING_SECONDS} s: {reason}; "
            f"start them all with torchrun (docs/scale.md), or if an earlier job has left the variables behind, {UNSET}"
        )
        return ConfigError(message, kind="processes_did_not_meet")

    def sum(self, value: Summed, device: torch.device) -> Summed | Tensor:
        """The sum over all processes; with one process the value itself."""
        if self.size == 1:
            return value
        # a number is filled in on the device: copying it there would wait for the device
        total = value.clone() if isinstance(value, Tensor) else torch.full((), value, device=device)
        dist.all_reduce(total)
        return total

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Runs the block in the main process first, so that the others find its downloads and deletions done."""
        if self.size > 1 and not self.is_main:
            dist.barrier()
        yield
        if self.size > 1 and self.is_main:
            dist.barrier()

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copies the main process's values of these tensors to the other processes."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up the gradients of all processes, each of which has its share of a step.

        They are sent as one tensor. DistributedDataParallel sends buckets, and rearranges them after its first step:
        with more than two processes the order of a sum depends on its place in a bucket, so a resumed run would differ
        in the last bits.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, values in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))
