"""Arbitrary fine-tuning (LIFT+, arXiv 2504.13282): a random fraction of the entries of each Linear trains.

    W <- W with W[i, j] learnt for the chosen (i, j), and the bias likewise; the others stay

The entries are chosen without replacement by `seed` alone, as by the authors' programs, and start at their own values,
so a fresh one changes nothing.

    LIFT+  of every tensor of n entries apart int(ratio n), by a generator seeded with `seed` for this tensor. The
           automatic ratio lets as many entries train as a linear head on the feature has weights, C d.
    LIFT   of [W, b] together, [out, in + 1], int(ratio out (in + 1)), by one generator for all Linears in their order
"""

import hashlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.transformer import Block, Linear, linears


class Entries(nn.Module):
    """The chosen entries of a tensor: `values` [k], trained, and `index` [k], their places in the flattened tensor."""

    def __init__(self, tensor: Tensor, index: Tensor):
        super().__init__()
        self.choose(tensor, index)

    def choose(self, tensor: Tensor, index: Tensor) -> None:
        """Takes the entries at `index`, int64 [k], from their values in `tensor`, in float32 at least."""
        self.register_buffer("index", index.to(tensor.device), persistent=False)
        values = tensor.detach().flatten()[self.index]
        self.values = nn.Parameter(values.to(torch.promote_types(values.dtype, torch.float32), copy=True))

    def forward(self, tensor: Tensor) -> Tensor:
        """`tensor` with the learnt entries in their places; its shape and precision."""
        flat = tensor.flatten().scatter(0, self.index, self.values.to(tensor.dtype))
        return flat.view_as(tensor)


class PartlyTrainedLinear(nn.Module):
    """Wraps a Linear, [..., in] -> [..., out], of whose weight and bias the entries at these places train."""

    def __init__(self, linear: Linear, weight: Tensor, bias: Tensor):
        super().__init__()
        self.wrapped = linear
        self.weight = Entries(linear.weight, weight)
        self.bias = Entries(linear.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.wrapped.weight.to(x.dtype), self.wrapped.bias.to(x.dtype)
        return F.linear(x, self.weight(weight), self.bias(bias))


def choose(count: int, ratio: float, generator: torch.Generator) -> Tensor:
    """int(ratio * count) different numbers below `count`, int64, ascending."""
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[: int(ratio * count)].sort().values


def choose_of_both(dim_out: int, dim_in: int, ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Entries of [W, b], [out, in + 1], whose last column is the bias: their places in W and in b, each ascending."""
    chosen = choose(dim_out * (dim_in + 1), ratio, generator)
    rows, columns = chosen // (dim_in + 1), chosen % (dim_in + 1)
    of_bias = columns == dim_in
    return (rows * dim_in + columns)[~of_bias], rows[of_bias]


def automatic_ratio(num_classes: int, blocks: Sequence[Block], where: str, seed: int) -> float:
    """C / (L (4d + 4)) for attn, C / (L (8d + 5)) for mlp, C / (L (12d + 9)) for all; at most 1."""
    dim = blocks[0].dim
    entries = {"attn": 4 * dim + 4, "mlp": 8 * dim + 5, "all": 12 * dim + 9}[where]  # of a block, divided by dim
    return min(num_classes / (len(blocks) * entries), 1.0)


def automatic_ratio_lift(num_classes: int, blocks: Sequence[Block], where: str, seed: int) -> float:
    """C / (12 L d) cut down to a multiple of .001, at least .001 and at most 1; L counts all blocks of the tower."""
    thousandths = 1000 * num_classes // (12 * len(blocks) * blocks[0].dim)
    return min(max(thousandths, 1), 1000) / 1000


def attach(blocks: Sequence[Block], ratio: float, where: str, seed: int) -> None:
    """Wraps the innermost Linears of every block: those of `attn`, of `mlp`, or `all`."""
    for parent, name, linear in _innermost(blocks, where):
        places = (choose(t.numel(), ratio, _generator(seed)) for t in (linear.weight, linear.bias))
        setattr(parent, name, PartlyTrainedLinear(linear, *places))


def attach_lift(blocks: Sequence[Block], ratio: float, where: str, seed: int) -> None:
    """As `attach`, with the entries that LIFT draws."""
    generator = _generator(seed)
    for parent, name, linear in _innermost(blocks, where):
        places = choose_of_both(linear.out_features, linear.in_features, ratio, generator)
        setattr(parent, name, PartlyTrainedLinear(linear, *places))


def entries_fingerprint(model: nn.Module) -> str | None:
    """SHA-256 of the places of all entries that train in `model`; None where whole tensors train alone.

    A checkpoint holds the values of these entries, and not their places.
    """
    digest, found = hashlib.sha256(), False
    for name, module in model.named_modules():
        if isinstance(module, Entries):
            found = True
            digest.update(f"{name} {len(module.index)}\0".encode() + module.index.cpu().numpy().tobytes())
    return digest.hexdigest() if found else None


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _innermost(blocks: Sequence[Block], where: str) -> Iterator[tuple[nn.Module, str, Linear]]:
    """(module, attribute, Linear) of the blocks' Linears: lora and ssf stay around them."""
    for block in blocks:
        for parent, name, linear in linears(block, where):
            while getattr(parent, name) is not linear:
                parent, name = getattr(parent, name), "wrapped"
            yield parent, name, linear
