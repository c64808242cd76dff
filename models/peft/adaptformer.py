"""AdaptFormer (Chen et al. 2022, arXiv 2205.13535): a bottleneck in parallel to the MLP.

    x <- x + MLP(LN2(x)) + s Up(ReLU(Down(LN(x)))),   s a learnt scalar, 1 at first

Down starts as an Adapter's (LIFT's: normal with the same deviation), Up zero, so a fresh AdaptFormer changes nothing.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.transformer import Block
from models.peft.adapter import Bottleneck


class AdaptFormer(Bottleneck):
    """[B, N, D] -> [B, N, D] through `width` dimensions; zero at first.

    s stands before Up, where a token has `width` values and not D: one pass over memory less, forward and backward.
    """

    def __init__(self, dim: int, width: int):
        super().__init__(dim, width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.scale.to(x.dtype) * self.hidden(x)
        return F.linear(hidden, self.up.weight.to(x.dtype), (self.scale * self.up.bias).to(x.dtype))


def attach(blocks: Sequence[Block], width: int) -> None:
    """Stands in the side slot of every block with a bottleneck of `width`."""
    for block in blocks:
        block.side = AdaptFormer(block.dim, width)


def start_normal(tower: nn.Module, blocks: Sequence[Block]) -> None:
    """Draws the first values of attached AdaptFormers as LIFT does."""
    for block in blocks:
        block.side.start_normal()
