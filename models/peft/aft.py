"""Arbitrary fine-tuning (LIFT+, arXiv 2504.13282): a random fraction of the entries of each Linear trains.

    W <- W with W[i, j] learnt for the chosen (i, j), and the bias likewise; the others stay

The entries are chosen without replacement by `seed` alone, and start at their own values, so a fresh one changes
nothing. The automatic ratio lets as many entries train in all as a linear head on the feature has weights, C * d.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformer import Block, Linear, linears


class Entries(nn.Module):
    """The chosen entries of a tensor: `values` [k], trained, and `index` [k], their places in the flattened tensor."""

    def __init__(self, tensor: Tensor, index: Tensor):
        super().__init__()
        self.choose(tensor, index)

    def choose(self, tensor: Tensor, index: Tensor) -> None:
        """Takes the entries at `index`, int64 [k], from their values in `tensor`."""
        self.register_buffer("index", index.to(tensor.device), persistent=False)
        self.values = nn.Parameter(tensor.detach().flatten()[self.index].clone())

    def forward(self, tensor: Tensor) -> Tensor:
        """`tensor` with the learnt entries in their places; its shape and precision."""
        flat = tensor.flatten().scatter(0, self.index, self.values.to(tensor.dtype))
        return flat.view_as(tensor)


class PartlyTrainedLinear(nn.Module):
    """Wraps a Linear, [..., in] -> [..., out], of whose weight and bias the chosen entries train."""

    def __init__(self, linear: Linear, ratio: float, generator: torch.Generator):
        super().__init__()
        self.wrapped = linear
        self.weight = Entries(linear.weight, choose(linear.weight.numel(), ratio, generator))
        self.bias = Entries(linear.bias, choose(linear.bias.numel(), ratio, generator))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.wrapped.weight.to(x.dtype), self.wrapped.bias.to(x.dtype)
        return F.linear(x, self.weight(weight), self.bias(bias))


def choose(count: int, ratio: float, generator: torch.Generator) -> Tensor:
    """round(ratio * count) different numbers below `count`, int64, ascending."""
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[: round(ratio * count)].sort().values


def automatic_ratio(num_classes: int, blocks: Sequence[Block], where: str, seed: int) -> float:
    """C / (L (4d + 4)) for attn, C / (L (8d + 5)) for mlp, C / (L (12d + 9)) for all; at most 1."""
    dim = blocks[0].dim
    entries = {"attn": 4 * dim + 4, "mlp": 8 * dim + 5, "all": 12 * dim + 9}[where]  # of a block, divided by dim
    return min(num_classes / (len(blocks) * entries), 1.0)


def attach(blocks: Sequence[Block], ratio: float, where: str, seed: int) -> None:
    """Wraps the innermost Linears of every block: those of `attn`, of `mlp`, or `all`."""
    generator = torch.Generator().manual_seed(seed)
    for block in blocks:
        for parent, name, linear in linears(block, where):
            while getattr(parent, name) is not linear:  # lora and ssf stay around it
                parent, name = getattr(parent, name), "wrapped"
            setattr(parent, name, PartlyTrainedLinear(linear, ratio, generator))
