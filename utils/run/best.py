"""keep best: the tensors of the epoch with the best score on validation images, which are saved with the progress."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from utils.run.checkpoint import saved_tensors

NAME = "best"  # key of its record in a progress file, and prefix of its tensors there


@dataclasses.dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far. epoch: counted from 1. measure, value: its score. tensors: of its model, on the CPU."""

    epoch: int
    measure: str
    value: float
    tensors: dict[str, Tensor]

    @property
    def record(self) -> dict[str, Any]:
        """The record in the checkpoint and in the results, under "kept"."""
        return {"epoch": self.epoch, "score": self.measure, "value": self.value}

    @property
    def named_tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a progress file; see `read_best`."""
        return {f"{NAME}:{name}": tensor for name, tensor in self.tensors.items()}


def is_better(measure: str, value: float, other: float) -> bool:
    """Whether a score is better than another: larger, or smaller if it is an error. False for equal ones."""
    return value < other if measure.endswith("error") else value > other


def better_of(
    best: BestEpoch | None, epoch: int, measure: str, value: float | None, model: nn.Module
) -> BestEpoch | None:
    """The better of the best epoch so far and this one, with copies of the model's tensors; the earlier if equal.

    value: None if the score is undefined; it is never better then.
    """
    if value is None or (best is not None and not is_better(measure, value, best.value)):
        return best
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in saved_tensors(model).items()}
    return BestEpoch(epoch, measure, value, tensors)


def read_best(about: Mapping[str, Any], extra: Mapping[str, Tensor]) -> BestEpoch | None:
    """The best epoch in a progress file's `about` and `extra`; None if there is none."""
    record = about.get(NAME)
    if record is None:
        return None
    tensors = {name.partition(":")[2]: tensor for name, tensor in extra.items() if name.startswith(f"{NAME}:")}
    return BestEpoch(record["epoch"], record["score"], record["value"], tensors)
