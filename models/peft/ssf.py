"""SSF (Lian et al. 2022, arXiv 2210.08823): scale and shift of what a layer gives.

    y <- y * scale + shift,   y the output of qkv, attention projection, fc1 or fc2; in a ResNet the pooled feature

scale starts at N(1, 0.02), shift at N(0, 0.02).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.backbones.transformer import Block, linears


class ScaleShift(nn.Module):
    """Wraps a layer: what it gives, [..., dim], scaled and shifted per channel."""

    def __init__(self, wrapped: nn.Module, dim: int):
        super().__init__()
        self.wrapped = wrapped
        self.scale = nn.Parameter(1 + 0.02 * torch.randn(dim))
        self.shift = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.wrapped(x)
        return y * self.scale.to(y.dtype) + self.shift.to(y.dtype)


def attach(blocks: Sequence[Block], where: str) -> None:
    """Wraps the Linears of every block: those of `attn`, of `mlp`, or `all`."""
    for block in blocks:
        for parent, name, linear in linears(block, where):
            setattr(parent, name, ScaleShift(getattr(parent, name), linear.out_features))


def attach_resnet(tower: ResNet, where: str) -> None:
    """Once, on the pooled feature; `where` has no meaning there."""
    tower.after = ScaleShift(tower.after, tower.dim)
