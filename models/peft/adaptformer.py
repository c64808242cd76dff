"""AdaptFormer (Chen et al. 2022, arXiv 2205.13535): a bottleneck in parallel to the MLP.

    x <- x + MLP(LN2(x)) + s Up(ReLU(Down(LN(x)))),   s a learnt scalar, 1 at first

Down is kaiming-uniform, Up zero, so a fresh AdaptFormer changes nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.transformer import Block, LayerNorm, Linear


class AdaptFormer(nn.Module):
    """[B, N, D] -> [B, N, D] through `width` dimensions; zero at first."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.norm = LayerNorm(dim)
        self.down = Linear(dim, width)  # nn.Linear starts kaiming-uniform, a = sqrt 5
        self.up = Linear(width, dim)
        self.scale = nn.Parameter(torch.ones(()))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale.to(x.dtype) * self.up(self.down(self.norm(x)).relu())


def attach(blocks: Sequence[Block], size: int) -> None:
    """Stands in the side slot of every block with a bottleneck of `size`."""
    for block in blocks:
        block.side = AdaptFormer(block.dim, size)
