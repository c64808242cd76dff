"""An exported model beside the run's own, on the same images."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

# the largest difference of probabilities from the run's model in float32, by the precision of the exported one
PROBABILITY_BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
# the largest difference of features, relative to the largest feature
FEATURE_BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-1}


class Deviation(Exception):
    """An exported model that computes something else. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """quantity: its name. largest: the largest difference, below `bound` for a valid export.

    equal: share of images whose class is equal, None for features. images: their number.
    """

    quantity: str
    largest: float
    bound: float
    images: int
    equal: float | None = None

    def require(self) -> "Comparison":
        """Itself. Raises Deviation if the difference is not below the bound."""
        if not self.largest <= self.bound:
            raise Deviation(
                f"the exported model's {self.quantity} differ by up to {self.largest:.2g} from the run's, where "
                f"{self.bound:g} is allowed; nothing was exported; choose precision fp32 or another format"
            )
        return self

    def __str__(self) -> str:
        classes = "" if self.equal is None else f", equal classes of {100 * self.equal:.1f} %"
        return f"largest difference of {self.quantity} {self.largest:.2g} (bound {self.bound:g}){classes}"


def compare_probabilities(found: np.ndarray, expected: np.ndarray, precision: str) -> Comparison:
    """Probabilities [n, C] of the exported model, stored in `precision`, beside those of the run's in float32."""
    largest = float(np.abs(found - expected).max())
    equal = float((found.argmax(1) == expected.argmax(1)).mean())
    return Comparison("probabilities", largest, PROBABILITY_BOUNDS[precision], len(found), equal)


def compare_features(quantity: str, found: Tensor, expected: Tensor, precision: str) -> Comparison:
    """Features [n, D], relative to the largest one."""
    largest = float((found - expected).abs().max() / expected.abs().max())
    return Comparison(quantity, largest, FEATURE_BOUNDS[precision], len(found))


def batches(images: Tensor, size: int = 16) -> list[Tensor]:
    """The images in batches; the last one is smaller unless there is one image, so that several sizes are tried."""
    first = len(images) - 1 if len(images) > 1 else 1
    return [*images[:first].split(size), *([images[first:]] if len(images) > 1 else [])]


@torch.inference_mode()
def probabilities_of(served: torch.nn.Module, images: Tensor) -> np.ndarray:
    """The probabilities of a served model on uint8 images [n, 3, R, R]: float32 [n, C]."""
    return torch.cat([served(batch)[1] for batch in batches(images)]).cpu().numpy()
