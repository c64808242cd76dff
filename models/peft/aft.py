"""Arbitrary fine-tuning (LIFT+, arXiv 2504.13282): a random fraction of the entries of each Linear trains.

    W <- W with W[i, j] learnt for the chosen (i, j), and the bias likewise; the others stay frozen

The entries are chosen without replacement by `seed` alone, as in the authors' programs, and start at their own values,
so the output is unchanged before training.

    LIFT+  chooses int(ratio n) of the n entries of each tensor, by a generator seeded with `seed` for each tensor
    LIFT   chooses int(ratio out (in + 1)) of the entries of [W, b], [out, in + 1], by one generator for all Linears

Default ratio: as many entries train as a linear head on the feature has weights, C d, so in LIFT+ C / (L (12d + 9)) for
all Linears, C / (L (4d + 4)) for `loc attn`, C / (L (8d + 5)) for `loc mlp`; in LIFT C / (12 L d) rounded down to a
multiple of .001, at least .001, where L counts all blocks of the tower.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.transformer import Block, Linear, linears
from models.peft.method import BlockOptions, Method, Site


@dataclasses.dataclass(frozen=True)
class Options(BlockOptions):
    """ratio: fraction of the entries that train; None = by the numbers of classes and blocks.

    loc: the Linears of a block, "attn", "mlp" or "all". seed: of the choice of entries.
    """

    ratio: float | None = None
    loc: str = "all"
    seed: int = 0


class Entries(nn.Module):
    """The chosen entries of a tensor: `values` [k], trainable, and `index` [k], their positions when flattened."""

    index: Tensor

    def __init__(self, tensor: Tensor, index: Tensor):
        super().__init__()
        self.choose(tensor, index)

    def choose(self, tensor: Tensor, index: Tensor) -> None:
        """Sets the entries to those at `index`, int64 [k], with their values in `tensor`, in float32 at least."""
        self.register_buffer("index", index.to(tensor.device), persistent=False)
        values = tensor.detach().flatten()[self.index]
        self.values = nn.Parameter(values.to(torch.promote_types(values.dtype, torch.float32), copy=True))

    def forward(self, tensor: Tensor) -> Tensor:
        """`tensor` with the learnt entries in their positions; its shape and precision."""
        flat = tensor.flatten().scatter(0, self.index, self.values.to(tensor.dtype))
        return flat.view_as(tensor)


class PartlyTrainedLinear(nn.Module):
    """Wraps a Linear, [..., in] -> [..., out]; the entries at these positions of weight and bias are trainable."""

    def __init__(self, linear: Linear, weight: Tensor, bias: Tensor):
        super().__init__()
        self.wrapped, linear.in_parts = linear, True
        self.weight = Entries(linear.weight, weight)
        self.bias = Entries(linear.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.wrapped.weight.to(x.dtype), self.wrapped.bias.to(x.dtype)
        return F.linear(x, self.weight(weight), self.bias(bias))

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """W and b with the learnt entries in their positions."""
        return self.weight(weight), self.bias(bias)


def choose(count: int, ratio: float, generator: torch.Generator) -> Tensor:
    """int(ratio * count) different numbers below `count`, int64, ascending."""
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[: int(ratio * count)].sort().values


def choose_jointly(dim_out: int, dim_in: int, ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions in W and in b of entries chosen from [W, b], [out, in + 1], each ascending."""
    chosen = choose(dim_out * (dim_in + 1), ratio, generator)
    rows, columns = chosen // (dim_in + 1), chosen % (dim_in + 1)
    in_bias = columns == dim_in
    return (rows * dim_in + columns)[~in_bias], rows[in_bias]


def default_ratio(num_classes: int, num_blocks: int, block: Block, loc: str) -> float:
    """C d / (L n), n the entries of a block's Linears, weights and biases; at most 1.

    With an MLP of four times d: C / (L (4d + 4)) for attn, C / (L (8d + 5)) for mlp, C / (L (12d + 9)) for all.
    """
    entries = sum(linear.weight.numel() + linear.bias.numel() for *_, linear in linears(block, loc))
    return min(num_classes * block.dim / (num_blocks * entries), 1.0)


def default_ratio_lift(num_classes: int, num_blocks: int, block: Block) -> float:
    """C d / (L n) cut down to a multiple of .001, at least .001 and at most 1.

    n: the weights of a block's Linears, 12 d^2 with an MLP of four times d; L counts all blocks of the tower.
    """
    weights = sum(linear.weight.numel() for *_, linear in linears(block))
    thousandths = 1000 * num_classes * block.dim // (num_blocks * weights)
    return min(max(thousandths, 1), 1000) / 1000


def attach(site: Site[Block], options: Options) -> None:
    """Wraps the innermost Linears of every block."""
    counts = site.num_classes, site.counted_blocks, site.blocks[0]
    lift, ratio = site.variant == "lift", options.ratio
    if ratio is None:
        ratio = default_ratio_lift(*counts) if lift else default_ratio(*counts, options.loc)
    generator = torch.Generator().manual_seed(options.seed)
    for parent, name, linear in _innermost(site.blocks, options.loc):
        if lift:
            weight, bias = choose_jointly(linear.out_features, linear.in_features, ratio, generator)
        else:
            tensors = (linear.weight, linear.bias)
            weight, bias = (choose(t.numel(), ratio, generator.manual_seed(options.seed)) for t in tensors)
        setattr(parent, name, PartlyTrainedLinear(linear, weight, bias))


def entries_fingerprint(model: nn.Module) -> str | None:
    """SHA-256 of the positions of all chosen entries, which a checkpoint does not contain; None without any."""
    digest, found = hashlib.sha256(), False
    for name, module in model.named_modules():
        if isinstance(module, Entries):
            found = True
            digest.update(f"{name} {len(module.index)}\0".encode() + module.index.cpu().numpy().tobytes())
    return digest.hexdigest() if found else None


def _innermost(blocks: Sequence[Block], loc: str) -> Iterator[tuple[nn.Module, str, Linear]]:
    """(module, attribute, Linear) of the blocks' Linears: lora and ssf stay around them."""
    for block in blocks:
        for parent, name, linear in linears(block, loc):
            while getattr(parent, name) is not linear:
                parent, name = getattr(parent, name), "wrapped"
            yield parent, name, linear


METHOD = Method(attach, Options, folds=True)
