"""The text tower: a transformer over token ids (Radford et al. 2021), in CLIP's form or in SigLIP's (2303.15343)."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.tokenizer import CONTEXT, VOCABULARY
from models.backbones.tower import Tower
from models.backbones.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter

HEAD_DIM = 64  # width of a head where a config has no number of heads, as in OpenAI's towers


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The architecture of a text tower and its tokenizer; the defaults are CLIP's."""

    dim: int
    depth: int
    context: int = CONTEXT  # longest text, tokens
    vocabulary: int = VOCABULARY  # tokens
    heads: int | None = None  # None = as many as are HEAD_DIM wide
    hidden: int | None = None  # width of the MLPs; None = 4 dim
    activation: str | None = None  # a name of ACTIVATIONS; None = OpenAI's quick GELU
    eps: float = 1e-5  # of the norms
    causal: bool = True  # whether a token attends to itself and earlier ones alone
    pool: str = "end"  # the feature: the state at the end-of-text token, "end", or at the last position, "last"
    projection_bias: bool = False  # of the projection behind the tower
    tokenizer: str = ""  # a repository of the hub with tokenizer.json; "" = CLIP's byte-pair encoding
    clean: str = ""  # open_clip's name of the cleaning of texts; "" = the tokenizer's usual one

    @property
    def computed(self) -> dict[str, Any]:
        """The properties that the tensors do not determine, beside activation and heads."""
        return {name: getattr(self, name) for name in ("eps", "causal", "pool", "tokenizer", "clean")}


class TextTransformer(Tower):
    """Token ids [C, context] -> the state at one of them after the last norm, [C, dim]; see TextConfig.

    The tower runs in the precision of its token embedding.
    """

    kind = "transformer"

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config, dim = config, config.dim
        heads = config.heads or max(dim // HEAD_DIM, 1)
        activation = ACTIVATIONS[config.activation or "quick_gelu"]
        self.dim = dim
        self.token_embedding = nn.Embedding.from_pretrained(normal_parameter(1, config.vocabulary, dim), freeze=False)
        self.positional_embedding = normal_parameter(0.01, config.context, dim)
        self.blocks = nn.Sequential(
            *(
                Block(dim, heads, activation(), eps=config.eps, causal=config.causal, hidden=config.hidden)
                for _ in range(config.depth)
            )
        )
        self.norm = LayerNorm(dim, eps=config.eps)

    def forward(self, tokens: Tensor, end: Tensor | None = None) -> Tensor:
        """end: position of each end-of-text token [C]; None = that of the largest id, which CLIP's has."""
        end = tokens.argmax(dim=1) if end is None else end
        return self.encode(self.token_embedding(self.cut(tokens, end)), end)

    def cut(self, tokens: Tensor, end: Tensor) -> Tensor:
        """Token ids [C, N] up to the end of the longest text, if later ones change nothing, as in causal attention."""
        if self.config.causal and self.config.pool == "end":
            return tokens[:, : int(end.max()) + 1]
        return tokens

    def encode(self, x: Tensor, end: Tensor) -> Tensor:
        """Token embeddings [C, N, dim], and the position of each end-of-text token [C] -> [C, dim]."""
        length = x.shape[1]
        x = x + self.positional_embedding[:length]
        for block in self.blocks:
            x = self.run_block(block, x)
        if self.config.pool == "last":
            return self.norm(x[:, -1])
        end = end + x.shape[1] - length  # prompt tokens precede it
        return self.norm(x[torch.arange(x.shape[0], device=x.device), end])
