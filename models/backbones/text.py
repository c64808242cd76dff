"""The text tower: CLIP's causal transformer over byte-pair tokens (Radford et al. 2021)."""

import dataclasses

import torch
from torch import Tensor, nn

from models.backbones.tokenizer import CONTEXT, VOCABULARY
from models.backbones.tower import Tower
from models.backbones.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A text tower."""

    dim: int
    depth: int
    context: int = CONTEXT
    vocabulary: int = VOCABULARY
    heads: int | None = None
    hidden: int | None = None
    activation: str | None = None
    eps: float = 1e-5
    causal: bool = True
    pool: str = "end"
    projection_bias: bool = False
    tokenizer: str = ""
    clean: str = ""


class TextTransformer(Tower):
    """Token ids [C, context] -> the state at the end-of-text token after the last norm, [C, dim].

    The tower runs in the precision of its token embedding.
    """

    kind = "transformer"

    def __init__(self, config: TextConfig):
        super().__init__()
        c = self.config = config
        activation, heads = c.activation or "quick_gelu", c.heads or max(c.dim // 64, 1)
        self.dim = c.dim
        self.token_embedding = nn.Embedding.from_pretrained(normal_parameter(1, c.vocabulary, c.dim), freeze=False)
        self.positional_embedding = normal_parameter(0.01, c.context, c.dim)
        self.blocks = nn.Sequential(
            *(
                Block(c.dim, heads, ACTIVATIONS[activation](), c.eps, causal=c.causal, hidden=c.hidden)
                for _ in range(c.depth)
            )
        )
        self.norm = LayerNorm(c.dim, eps=c.eps)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = cut(tokens)
        return self.encode(self.token_embedding(tokens), ends(tokens))

    def encode(self, x: Tensor, end: Tensor) -> Tensor:
        """Token embeddings [C, N, dim], and the position of each end-of-text token [C] -> [C, dim]."""
        length = x.shape[1]
        x = self.blocks(x + self.positional_embedding[:length])
        end = end + x.shape[1] - length  # prompt tokens precede it
        return self.norm(x[torch.arange(x.shape[0], device=x.device), end])


def ends(tokens: Tensor) -> Tensor:
    """The position of the end-of-text token in each row [C]: it has the largest id."""
    return tokens.argmax(dim=1)


def cut(tokens: Tensor) -> Tensor:
    """Cuts token ids [C, N] at the end of the longest text; attention is causal, so later tokens change nothing."""
    return tokens[:, : int(ends(tokens).max()) + 1]
