"""The text tower: CLIP's causal transformer over byte-pair tokens (Radford et al. 2021)."""

import functools
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from models.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter
from models.vit import HEAD_DIM

VOCABULARY = 49408
CONTEXT = 77


class TextTransformer(nn.Module):
    """Token ids [C, context] -> the state at the end-of-text token after the last norm, [C, dim].

    activation: a name of ACTIVATIONS; heads: None = as many as are HEAD_DIM wide.
    The tower runs in the precision of its token embedding.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        context: int = CONTEXT,
        activation: str | None = None,
        heads: int | None = None,
    ):
        super().__init__()
        activation, heads = activation or "quick_gelu", heads or max(dim // HEAD_DIM, 1)
        self.dim = dim
        self.token_embedding = nn.Embedding.from_pretrained(normal_parameter(1, VOCABULARY, dim), freeze=False)
        self.positional_embedding = normal_parameter(0.01, context, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads, ACTIVATIONS[activation](), causal=True) for _ in range(depth)))
        self.norm = LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = cut(tokens)
        return self.encode(self.token_embedding(tokens), ends(tokens))

    def encode(self, x: Tensor, end: Tensor) -> Tensor:
        """Token embeddings [C, N, dim], and the place of each end-of-text token [C] -> [C, dim]."""
        length = x.shape[1]
        x = self.blocks(x + self.positional_embedding[:length])
        end = end + x.shape[1] - length  # prompt tokens stand before it
        return self.norm(x[torch.arange(len(x), device=x.device), end])


def ends(tokens: Tensor) -> Tensor:
    """The place of the end-of-text token in each row [C]: it has the largest id."""
    return tokens.argmax(dim=1)


def cut(tokens: Tensor) -> Tensor:
    """Cuts token ids [C, N] at the end of the longest text; attention is causal, so what follows changes nothing."""
    return tokens[:, : int(ends(tokens).max()) + 1]


@functools.cache
def _tokenizer():
    # open_clip's, which stands in one file; the whole package would import every model of timm, a second
    package = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("clip_tokenizer", Path(package) / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer(context_length=CONTEXT)


def tokenize(texts: list[str]) -> Tensor:
    """Texts -> token ids [len(texts), 77], int64, with CLIP's own byte-pair encoding; `_` becomes a space."""
    return _tokenizer()([text.replace("_", " ") for text in texts])


def class_prompts(classnames: list[str]) -> list[str]:
    """The prompt of each class name, `a photo of a {name}.`"""
    return [f"a photo of a {name}." for name in classnames]
