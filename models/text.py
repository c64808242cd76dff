"""The text tower: CLIP's causal transformer over byte-pair tokens (Radford et al. 2021)."""

import functools

import torch
from torch import Tensor, nn

from models.transformer import Block, LayerNorm, QuickGELU
from models.vit import HEAD_DIM

VOCABULARY = 49408
CONTEXT = 77


class TextTransformer(nn.Module):
    """Token ids [C, context] -> the state at the end-of-text token after the last norm, [C, dim]."""

    def __init__(self, dim: int, depth: int, context: int = CONTEXT):
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, dim)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, dim))
        heads = max(dim // HEAD_DIM, 1)
        self.blocks = nn.Sequential(*(Block(dim, heads, QuickGELU(), causal=True) for _ in range(depth)))
        self.norm = LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        end = tokens.argmax(dim=1)  # the end-of-text token has the largest id
        tokens = tokens[:, : int(end.max()) + 1]  # attention is causal: what follows the longest text changes nothing
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.blocks(x)
        return self.norm(x[torch.arange(len(x), device=x.device), end])


@functools.cache
def _tokenizer():
    from open_clip.tokenizer import SimpleTokenizer  # heavy: imported where it is used

    return SimpleTokenizer(context_length=CONTEXT)


def tokenize(texts: list[str]) -> Tensor:
    """Texts -> token ids [len(texts), 77], int64, with CLIP's own byte-pair encoding; `_` becomes a space."""
    return _tokenizer()([text.replace("_", " ") for text in texts])


def class_prompts(classnames: list[str]) -> list[str]:
    """The prompt of each class name, `a photo of a {name}.`"""
    return [f"a photo of a {name}." for name in classnames]
