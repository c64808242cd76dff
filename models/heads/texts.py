"""The text features of the classes, before their projection: fixed, or computed at every step where texts train.

CoOp (Zhou et al. 2022, arXiv 2109.01134) learns vectors in the places of some of a prompt's tokens, the same ones for
all classes:

    end      "X X X X name."        front    "name X X X X."        middle   "X X name X X."
    photo    "a photo of a name."   its first four tokens and the full stop, starting at their own embeddings
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.backbones.text import TextTransformer, cut, ends
from models.backbones.tokenizer import class_prompts, tokenize
from utils.errors import ModelError

CHUNK = 256  # classes that are encoded at once


class FixedTexts(nn.Module):
    """Text features [C, dim], float32, that nothing changes any more."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.register_buffer("features", features, persistent=False)

    def forward(self) -> Tensor:
        return self.features


class TrainedTexts(nn.Module):
    """Text features [C, dim], float32, of a tower or a context that trains; in eval mode they are computed once.

    tokens: int64 [C, 77].
    """

    def __init__(self, tower: TextTransformer, tokens: Tensor, context: "Context | None" = None):
        super().__init__()
        self.tower, self.context = tower, context
        self.register_buffer("tokens", cut(tokens), persistent=False)
        self.register_buffer("end", ends(tokens), persistent=False)
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> "TrainedTexts":
        self.kept = None  # whatever happens now may change them
        return super().train(mode)

    def forward(self) -> Tensor:
        if self.training:
            return self.encode()
        if self.kept is None:
            self.kept = self.encode()
        return self.kept

    def encode(self) -> Tensor:
        x = self.tower.token_embedding(self.tokens)
        if self.context is not None:
            x = self.context(x)
        parts = zip(x.split(CHUNK), self.end.split(CHUNK), strict=True)
        return torch.cat([self.tower.encode(part, end) for part, end in parts]).float()


class Context(nn.Module):
    """Puts learnt `vectors` [M, dim] into token embeddings [C, N, dim].

    which: int64 [C, 77], at each place the number of its vector, or -1 where the token's own embedding stays.
    """

    def __init__(self, vectors: Tensor, which: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(vectors.float())
        self.register_buffer("which", which, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        which = self.which[:, : x.shape[1]]
        learnt = F.embedding(which.clamp(min=0), self.vectors).to(x.dtype)
        return torch.where((which >= 0)[..., None], learnt, x)


def build_texts(cfg, backbone: Backbone, classnames: list[str]) -> TrainedTexts:
    """The texts of a run: with a learnt context if cfg.coop, else plain ones. Raises ModelError."""
    if not cfg.coop:
        tokens, context = tokenize(class_prompts(classnames)), None
        backbone.require_words(classnames, tokens)
    else:
        photo = cfg.coop_init == "photo"
        places = photo_prompts(classnames) if photo else coop_prompts(classnames, cfg.coop_ctx_len, cfg.coop_cls_pos)
        tokens, which = places
        backbone.require_words(classnames, tokens.where(which < 0, 0))
        if photo:
            embedding = backbone.text.token_embedding.weight.detach()
            vectors = embedding[tokenize(["a photo of a."])[0, 1:6].to(embedding.device)]
        else:
            vectors = 0.02 * torch.randn(cfg.coop_ctx_len, backbone.text.dim)
        context = Context(vectors.clone(), which)
    return TrainedTexts(backbone.text, tokens, context)


def photo_prompts(classnames: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens of "a photo of a {name}.", and for each the number of its learnt vector, or -1; both int64 [C, 77]."""
    tokens = tokenize(class_prompts(classnames))
    which = torch.full_like(tokens, -1)
    which[:, 1:5] = torch.arange(4)
    full_stop = tokenize(["."])[0, 1]
    last = ends(tokens) - 1
    rows = torch.arange(len(tokens))
    which[rows, last] = torch.where(tokens[rows, last] == full_stop, 4, -1)  # "L.." is one token, and stays as it is
    return tokens, which


def coop_prompts(classnames: list[str], length: int, position: str) -> tuple[Tensor, Tensor]:
    """As photo_prompts, of a name at the "end", "front" or "middle" of `length` placeholders. Raises ModelError."""
    before = {"end": length, "front": 0, "middle": length // 2}[position]
    after = length - before
    texts = [" ".join(["X"] * before + [name] + ["X"] * after) + "." for name in classnames]
    tokens = tokenize(texts)
    if length > tokens.shape[1] - 4:  # start, one word, full stop, end
        raise ModelError(f"{length} learnt tokens leave no room for a class name: a prompt has 77; lower coop_ctx_len")
    which = torch.full_like(tokens, -1)
    which[:, 1 : 1 + before] = torch.arange(before)
    first = ends(tokens) - 1 - after  # behind them stand the full stop and the end
    columns = (first[:, None] + torch.arange(after)).clamp(min=0)
    which.scatter_(1, columns, torch.arange(before, length).expand(len(tokens), -1))
    placeholder = tokenize(["X"])[0, 1]
    for name, row in zip(classnames, (tokens == placeholder) | (which < 0), strict=True):
        if not row.all():
            raise ModelError(
                f"class '{name}' is too long for {length} learnt tokens: a prompt has 77; choose a smaller coop_ctx_len"
            )
    return tokens, which
