"""CoOp (Zhou et al. 2022, arXiv 2109.01134): learnt vectors replace some of a prompt's tokens, alike for all classes.

    end      "X X X X name."        front    "name X X X X."        middle   "X X name X X."
    photo    "a photo of a name."   its first four tokens and the full stop, which start at their own embeddings

Other vectors start at N(0, 0.02).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.text import ends
from models.backbones.tokenizer import class_prompts, tokenize
from models.heads.texts import TextEncoderFeatures
from models.peft.method import Method
from utils.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Options:
    """init: first context, None = random, "photo" = that of "a photo of a NAME.", which fixes the other two.

    ctx_len: number of learnt tokens. cls_pos: position of the class name, "end", "front" or "middle".
    """

    init: str | None = None
    ctx_len: int = 4
    cls_pos: str = "end"


class PromptLearner(nn.Module):
    """Puts learnt `vectors` [M, dim] into token embeddings [C, N, dim].

    index_map: int64 [C, 77], for each token the number of its vector, or -1 where its own embedding stays.
    """

    index_map: Tensor

    def __init__(self, vectors: Tensor, index_map: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(vectors.float())
        self.register_buffer("index_map", index_map, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        index_map = self.index_map[:, : x.shape[1]]
        learnt = F.embedding(index_map.clamp(min=0), self.vectors).to(x.dtype)
        return torch.where((index_map >= 0)[..., None], learnt, x)


def attach(texts: TextEncoderFeatures, options: Options) -> None:
    """Gives the texts prompts with a learnt context. Raises ModelError for a name that leaves too few tokens."""
    if options.init == "photo":
        tokens, index_map = photo_prompts(texts.classnames)
        embedding = texts.tower.token_embedding.weight.detach()
        vectors = embedding[tokenize(["a photo of a."])[0, 1:6].to(embedding.device)]
    else:
        tokens, index_map = coop_prompts(texts.classnames, options.ctx_len, options.cls_pos)
        vectors = 0.02 * torch.randn(options.ctx_len, texts.tower.dim)
    texts.set_prompts(tokens, PromptLearner(vectors, index_map), replaced=index_map >= 0)


def photo_prompts(classnames: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens of "a photo of a {name}.", and for each the number of its learnt vector, or -1; both int64 [C, 77]."""
    tokens = tokenize(class_prompts(classnames))
    index_map = torch.full_like(tokens, -1)
    index_map[:, 1:5] = torch.arange(4)
    full_stop = tokenize(["."])[0, 1]
    last = ends(tokens) - 1
    rows = torch.arange(len(tokens))
    index_map[rows, last] = torch.where(tokens[rows, last] == full_stop, 4, -1)  # "L.." is one token, which stays
    return tokens, index_map


def coop_prompts(classnames: list[str], length: int, position: str) -> tuple[Tensor, Tensor]:
    """As photo_prompts, for a name at the "end", "front" or "middle" of `length` placeholders. Raises ModelError."""
    before = {"end": length, "front": 0, "middle": length // 2}[position]
    after = length - before
    texts = [" ".join(["X"] * before + [name] + ["X"] * after) + "." for name in classnames]
    tokens = tokenize(texts)
    if length > tokens.shape[1] - 4:  # start, one word, full stop, end
        message = f"{length} learnt tokens leave no token for a class name: a prompt has 77; lower coop_ctx_len"
        raise ModelError(message, kind="context_too_long", key="coop_ctx_len")
    index_map = torch.full_like(tokens, -1)
    index_map[:, 1 : 1 + before] = torch.arange(before)
    first = ends(tokens) - 1 - after  # the full stop and the end follow
    columns = (first[:, None] + torch.arange(after)).clamp(min=0)
    index_map.scatter_(1, columns, torch.arange(before, length).expand(len(tokens), -1))
    placeholder = tokenize(["X"])[0, 1]
    for name, row in zip(classnames, (tokens == placeholder) | (index_map < 0), strict=True):
        if not row.all():
            message = f"class '{name}' is too long for {length} learnt tokens: a prompt has 77; lower coop_ctx_len"
            raise ModelError(message, kind="name_too_long", key="coop_ctx_len")
    return tokens, index_map


METHOD = Method(attach, Options, targets=("texts",))
