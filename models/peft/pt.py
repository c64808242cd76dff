"""Prompt tuning (VPT, Jia et al. 2022, arXiv 2203.12119): p learnt tokens after the first token.

    x = [x_0, x_1, ..., x_N]  ->  [x_0, p_1, ..., p_p, x_1, ..., x_N]

A block with its own prompt drops the prompt tokens of earlier blocks first. The tokens start at N(0, 0.02), LIFT's in
an image tower uniform in +-sqrt(6 / (3 p^2 + d)), p the side of a patch. LIFT puts them after the patches: attention
has no order, so the feature is the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbones.transformer import Block

LIFT_LENGTH = 10  # tokens, where LIFT is given no vpt_len


class Prompt(nn.Module):
    """[B, N, D] -> [B, N - replaced + length, D]. `replaced` earlier prompt tokens give way to the learnt ones."""

    def __init__(self, dim: int, length: int, replaced: int = 0):
        super().__init__()
        self.replaced = replaced
        self.tokens = nn.Parameter(0.02 * torch.randn(length, dim))

    def forward(self, x: Tensor) -> Tensor:
        prompt = self.tokens.to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :1], prompt, x[:, 1 + self.replaced :]], dim=1)


def attach(blocks: Sequence[Block], length: int) -> None:
    """Puts a prompt of `length` tokens into every block."""
    for i, block in enumerate(blocks):
        block.prompt = Prompt(block.dim, length, replaced=length if i else 0)


def start_uniform(tower: nn.Module, blocks: Sequence[Block]) -> None:
    """Draws attached prompts of an image tower as VPT's and LIFT's code do; those of a text tower stay normal."""
    if not hasattr(tower, "patch_embed"):
        return
    patch = tower.patch_embed.kernel_size[0]
    for block in blocks:
        bound = (6 / (3 * patch**2 + block.dim)) ** 0.5
        nn.init.uniform_(block.prompt.tokens, -bound, bound)
