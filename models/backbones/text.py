"""The text tower: CLIP's causal transformer over byte-pair tokens (Radford et al. 2021)."""

import torch
from torch import Tensor, nn

from models.backbones.tokenizer import CONTEXT, VOCABULARY
from models.backbones.tower import Tower
from models.backbones.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter
from models.backbones.vit import HEAD_DIM


class TextTransformer(Tower):
    """Token ids [C, context] -> the state at the end-of-text token after the last norm, [C, dim].

    activation: a name of ACTIVATIONS; heads: None = as many as are HEAD_DIM wide.
    The tower runs in the precision of its token embedding.
    """

    def __init__(
        self, dim: int, depth: int, context: int = CONTEXT, activation: str | None = None, heads: int | None = None
    ):
        super().__init__()
        activation = activation or "quick_gelu"
        heads = heads or max(dim // HEAD_DIM, 1)
        self.dim = dim
        self.token_embedding = nn.Embedding.from_pretrained(normal_parameter(1, VOCABULARY, dim), freeze=False)
        self.positional_embedding = normal_parameter(0.01, context, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads, ACTIVATIONS[activation](), causal=True) for _ in range(depth)))
        self.norm = LayerNorm(dim)

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
