"""Prompt tuning (VPT, Jia et al. 2022, arXiv 2203.12119): learnt tokens after the class token and the registers.

    x = [x_0, x_1, ..., x_N]  ->  [x_0, t_1, ..., t_len, x_1, ..., x_N]

A block with its own prompt first drops the prompt tokens of earlier blocks. The tokens start at N(0, 0.02); in an image
tower of LIFT they start uniform in +-sqrt(6 / (3 p^2 + d)), p the side of a patch. LIFT puts them after the patches;
attention has no order, so the feature is the same. Default number of tokens (`len`): 2^floor(log2(C / L)), in LIFT 10.
"""

import dataclasses

import torch
from torch import Tensor, nn

from models.backbones.transformer import Block
from models.peft.method import BlockOptions, Method, Site

LIFT_LENGTH = 10  # tokens: LIFT's default


@dataclasses.dataclass(frozen=True)
class Options(BlockOptions):
    """len: number of prompt tokens; None = by the numbers of classes and blocks, in LIFT LIFT_LENGTH."""

    len: int | None = None


class Prompt(nn.Module):
    """[B, N, D] -> [B, N - replaced + length, D]: after `num_first` tokens. `replaced` earlier ones are dropped."""

    def __init__(self, dim: int, length: int, replaced: int = 0, num_first: int = 1):
        super().__init__()
        self.replaced, self.num_first = replaced, num_first
        self.tokens = nn.Parameter(0.02 * torch.randn(length, dim))

    def forward(self, x: Tensor) -> Tensor:
        prompt = self.tokens.to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x[:, : self.num_first], prompt, x[:, self.num_first + self.replaced :]], dim=1)


def attach(site: Site[Block], options: Options) -> None:
    """Fills the prompt slot of every block."""
    length = options.len
    if length is None:
        length = LIFT_LENGTH if site.variant == "lift" else site.default_size(share=1)
    num_first = site.tower.num_first
    prompts = [Prompt(block.dim, length, length if i else 0, num_first) for i, block in enumerate(site.blocks)]
    for block, prompt in zip(site.blocks, prompts, strict=True):
        block.prompt = prompt
    if site.variant == "lift" and site.tower.patch:
        bound = (6 / (3 * site.tower.patch**2 + site.tower.dim)) ** 0.5
        for prompt in prompts:
            nn.init.uniform_(prompt.tokens, -bound, bound)  # as in the code of VPT and LIFT


METHOD = Method(attach, Options)
