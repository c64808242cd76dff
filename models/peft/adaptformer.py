"""AdaptFormer (Chen et al. 2022, arXiv 2205.13535): a bottleneck in parallel to the MLP.

    x <- x + MLP(LN2(x)) + s Up(ReLU(Down(LN(x)))),   s a learnt scalar, 1 at first

Down and Up start as in `adapter`, so a fresh AdaptFormer changes nothing. The default dim is that of `adapter`, too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.transformer import Block
from models.peft.adapter import Bottleneck
from models.peft.method import Method, Site, SizedOptions


class AdaptFormer(Bottleneck):
    """[B, N, D] -> [B, N, D] through `width` dimensions; zero at first.

    s is applied before Up, where a token has `width` values and not D: one pass over memory less, forward and backward.
    """

    def __init__(self, dim: int, width: int):
        super().__init__(dim, width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.scale.to(x.dtype) * self.hidden(x)
        return F.linear(hidden, self.up.weight.to(x.dtype), (self.scale * self.up.bias).to(x.dtype))


def attach(site: Site[Block], options: SizedOptions) -> None:
    """Fills the side slot of every block."""
    width = site.default_size(share=2) if options.dim is None else options.dim
    sides = [AdaptFormer(block.dim, width) for block in site.blocks]
    for block, side in zip(site.blocks, sides, strict=True):
        block.side = side
    if site.variant == "lift":
        for side in sides:
            side.start_normal()


METHOD = Method(attach, SizedOptions)
