"""SSF (Lian et al. 2022, arXiv 2210.08823): scale and shift of the output of a layer.

    y <- y * scale + shift,   y the output of qkv, attention projection, fc1 or fc2; in a ResNet the pooled feature

scale starts at N(1, 0.02), shift at N(0, 0.02).
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.backbones.transformer import Block, linears
from models.peft.method import BlockOptions, Method, Site


@dataclasses.dataclass(frozen=True)
class Options(BlockOptions):
    """loc: the Linears of a block, "attn", "mlp" or "all"; unused in a ResNet."""

    loc: str = "all"


class ScaleShift(nn.Module):
    """Wraps a layer; its output, [..., dim], is scaled and shifted per channel."""

    def __init__(self, wrapped: nn.Module, dim: int):
        super().__init__()
        self.wrapped = wrapped
        self.scale = nn.Parameter(1 + 0.02 * torch.randn(dim))
        self.shift = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.wrapped(x)
        return y * self.scale.to(y.dtype) + self.shift.to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """diag(scale) W, scale * b + shift; the weight of a norm is the diagonal of its matrix."""
        return weight * self.scale.view(-1, *[1] * (weight.ndim - 1)), bias * self.scale + self.shift


def attach(site: Site[Block], options: Options) -> None:
    """Wraps the Linears of every block; in a ResNet it fills the slot `after` the pooling, once."""
    if site.tower.kind == "resnet":
        tower = cast(ResNet, site.tower)
        tower.after = ScaleShift(tower.after, tower.dim)
        return
    for block in site.blocks:
        for parent, name, linear in linears(block, options.loc):
            setattr(parent, name, ScaleShift(getattr(parent, name), linear.out_features))


METHOD = Method(attach, Options, targets=("transformer", "resnet"), folds=True)
