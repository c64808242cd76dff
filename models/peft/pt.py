"""Prompt tuning (VPT, Jia et al. 2022, arXiv 2203.12119): p learnt tokens after the first token.

    x = [x_0, x_1, ..., x_N]  ->  [x_0, p_1, ..., p_p, x_1, ..., x_N]

A block with its own prompt drops the prompt tokens of earlier blocks first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.transformer import Block


class Prompt(nn.Module):
    """[B, N, D] -> [B, N - replaced + length, D]. `replaced` earlier prompt tokens give way to the learnt ones."""

    def __init__(self, dim: int, length: int, replaced: int = 0):
        super().__init__()
        self.replaced = replaced
        self.tokens = nn.Parameter(0.02 * torch.randn(length, dim))

    def forward(self, x: Tensor) -> Tensor:
        prompt = self.tokens.to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, :1], prompt, x[:, 1 + self.replaced :]], dim=1)


def attach(blocks: Sequence[Block], length: int) -> None:
    """Puts a prompt of `length` tokens into every block."""
    for i, block in enumerate(blocks):
        block.prompt = Prompt(block.dim, length, replaced=length if i else 0)
