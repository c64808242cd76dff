"""Text features of the classes before projection: computed once, or in every step if their encoder is trained."""

import torch
from torch import Tensor, nn

from models.backbones.text import TextTransformer
from models.backbones.tokenizer import Tokenizer, class_prompts

CHUNK = 256  # classes that are encoded at once


class CachedTextFeatures(nn.Module):
    """Precomputed text features [C, dim], float32."""

    features: Tensor

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features, persistent=False)

    def forward(self) -> Tensor:
        return self.features


class TextEncoderFeatures(nn.Module):
    """Text features [C, dim], float32, of "a photo of a {name}." by a text tower; in eval mode they are computed once.

    The slot `context` is applied to the token embeddings, [C, N, dim] -> [C, N, dim]; models/peft/coop.py fills it.
    """

    kind = "texts"
    tokens: Tensor  # int64 [C, N]
    end: Tensor  # int64 [C], the position of each end-of-text token

    def __init__(self, tower: TextTransformer, tokenizer: Tokenizer, classnames: list[str]):
        super().__init__()
        self.tower, self.tokenizer = tower, tokenizer
        self.classnames = classnames
        self.cached: Tensor | None = None
        self.set_prompts(tokenizer(class_prompts(classnames)), nn.Identity())

    def set_prompts(self, tokens: Tensor, context: nn.Module, replaced: Tensor | None = None) -> None:
        """Changes the prompts: token ids [C, context], and where `context` replaces their embeddings, bool likewise."""
        self.context = context
        end = self.tokenizer.ends(tokens)
        self.register_buffer("tokens", self.tower.cut(tokens, end), persistent=False)
        self.register_buffer("end", end, persistent=False)
        # the ids whose embeddings are read
        self.read_tokens = tokens if replaced is None else tokens.masked_fill(replaced, self.tokenizer.frame.padding)

    def train(self, mode: bool = True) -> "TextEncoderFeatures":
        self.cached = None  # the tower or the context may change now
        return super().train(mode)

    def forward(self) -> Tensor:
        if self.training:
            return self.encode()
        if self.cached is None:
            self.cached = self.encode()
        return self.cached

    def encode(self) -> Tensor:
        """The text features as tower and context compute them now."""
        x = self.context(self.tower.token_embedding(self.tokens))
        chunks = zip(x.split(CHUNK), self.end.split(CHUNK), strict=True)
        return torch.cat([self.tower.encode(part, end) for part, end in chunks]).float()

    @torch.no_grad()
    def cached_if_frozen(self) -> "TextEncoderFeatures | CachedTextFeatures":
        """Itself if any parameter is trainable, else its precomputed features."""
        if any(parameter.requires_grad for parameter in self.parameters()):
            return self
        return CachedTextFeatures(self.encode())
