"""LoRA (Hu et al. 2022, arXiv 2106.09685) on the two Linears of the MLP.

    h <- h + (1/r) (y A) B,   h the output of fc1 or fc2, y its input

A and B start as in `lora`, so the output is unchanged before training. The default rank is that of `lora`, too.
"""

from torch import Tensor, nn

from models.backbones.transformer import Block, linears
from models.peft.lora import LowRank, default_rank
from models.peft.method import Method, Site, SizedOptions


class LoraLinear(nn.Module):
    """Wraps a Linear, [..., in] -> [..., out], with other methods around it or not."""

    def __init__(self, wrapped: nn.Module, dim_in: int, dim_out: int, rank: int):
        super().__init__()
        self.wrapped = wrapped
        self.lora = LowRank(dim_in, dim_out, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.wrapped(x) + self.lora(x)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """W + (1/r) (A B)^T."""
        return weight + self.lora.matrix, bias


def attach(site: Site[Block], options: SizedOptions) -> None:
    """Wraps fc1 and fc2 of every block."""
    rank = default_rank(site) if options.dim is None else options.dim
    for block in site.blocks:
        for parent, name, linear in linears(block, "mlp"):
            layer = LoraLinear(getattr(parent, name), linear.in_features, linear.out_features, rank)
            setattr(parent, name, layer)


METHOD = Method(attach, SizedOptions, folds=True)
