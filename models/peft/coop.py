"""CoOp (Zhou et al. 2022, arXiv 2109.01134): learnt vectors replace tokens of the prompts, the same
ones for all classes.

    end      "X X X X name."        front    "name X X X X."        middle   "X X name X X."
    photo    "a photo of a name."   its words before the name and the full stop, which start at their own embeddings

Other vectors start at N(0, 0.02). A tokenizer that drops punctuation, as SigLIP's, has no full stop.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.tokenizer import Tokenizer
from models.heads.texts import TextEncoderFeatures
from models.peft.method import Method
from utils.errors import ModelError

PHOTO, PLACEHOLDER, STOP = "a photo of a", "X", "."


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

    index_map: int64 [C, context], for each token the number of its vector, or -1 where its own embedding stays.
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
    """Sets prompts with a learnt context. Raises ModelError for a class name that leaves too few tokens."""
    tokenizer = texts.tokenizer
    if options.init == "photo":
        tokens, index_map = photo_prompts(tokenizer, texts.classnames)
        embedding = texts.tower.token_embedding.weight.detach()
        words, stop = photo_words(tokenizer)
        vectors = embedding[torch.tensor(words + stop, device=embedding.device)]
    else:
        tokens, index_map = coop_prompts(tokenizer, texts.classnames, options.ctx_len, options.cls_pos)
        vectors = 0.02 * torch.randn(options.ctx_len, texts.tower.dim)
    texts.set_prompts(tokens, PromptLearner(vectors, index_map), replaced=index_map >= 0)


def photo_words(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids of the words before the name, and of the full stop: those that are learnt in photo_prompts."""
    return tokenizer.encode([PHOTO])[0], _behind(tokenizer, PHOTO, [STOP])[0]


def photo_prompts(tokenizer: Tokenizer, classnames: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens of "a photo of a {name}.", and for each the number of its learnt vector or -1; both int64 [C, context]."""
    words, stop = photo_words(tokenizer)
    rows, numbers = [], []
    for name in _behind(tokenizer, PHOTO, [f" {name}{STOP}" for name in classnames]):
        row = (words + name)[: tokenizer.room]
        number = [*range(len(words)), *(-1 for _ in name)][: tokenizer.room]
        if stop and row[-len(stop) :] == stop:  # "L.." is one token, which stays
            number[-len(stop) :] = range(len(words), len(words) + len(stop))
        rows.append(row)
        numbers.append(number)
    return _framed(tokenizer, rows, numbers)


def coop_prompts(tokenizer: Tokenizer, classnames: list[str], length: int, position: str) -> tuple[Tensor, Tensor]:
    """As photo_prompts, for a name at the "end", "front" or "middle" of `length` placeholders. Raises ModelError."""
    stop = _behind(tokenizer, PLACEHOLDER, [STOP])[0]
    if length > tokenizer.room - 1 - len(stop):  # one word, full stop
        message = (
            f"{length} learnt tokens leave no token for a class name: a prompt has {tokenizer.context}; "
            "lower coop_ctx_len"
        )
        raise ModelError(message, kind="context_too_long", key="coop_ctx_len")
    num_before = {"end": length, "front": 0, "middle": length // 2}[position]
    placeholder = tokenizer.encode([PLACEHOLDER])[0][-1:]
    before, after = placeholder * num_before, placeholder * (length - num_before)
    rows, numbers = [], []
    texts = [f" {name}" if after else f" {name}{STOP}" for name in classnames]
    for classname, name in zip(classnames, _behind(tokenizer, PLACEHOLDER if before else "", texts), strict=True):
        row = [*before, *name, *after, *(stop if after else [])]
        if after and len(row) > tokenizer.room:
            message = (
                f"class '{classname}' is too long for {length} learnt tokens: a prompt has {tokenizer.context}; "
                "lower coop_ctx_len"
            )
            raise ModelError(message, kind="name_too_long", key="coop_ctx_len")
        rows.append(row)
        numbers.append([*range(num_before), *(-1 for _ in name), *range(num_before, length)])
    return _framed(tokenizer, rows, numbers)


def _behind(tokenizer: Tokenizer, words: str, texts: list[str]) -> list[list[int]]:
    """The ids that each text has after `words`, since the first token of a text may contain the space."""
    before, *whole = tokenizer.encode([words, *(words + text for text in texts)])
    return [
        ids[len(before) :] if ids[: len(before)] == before else tokenizer.encode([text])[0]
        for ids, text in zip(whole, texts, strict=True)
    ]


def _framed(tokenizer: Tokenizer, rows: list[list[int]], numbers: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of token ids in the tokenizer's frame, and the numbers of their learnt vectors at the same positions."""
    tokens = torch.tensor([tokenizer.row(row) for row in rows])
    index_map = torch.full_like(tokens, -1)
    first = len(tokenizer.frame.before)
    for of_row, number in zip(index_map, numbers, strict=True):
        of_row[first : first + min(len(number), tokenizer.room)] = torch.tensor(number[: tokenizer.room])
    return tokens, index_map


METHOD = Method(attach, Options, targets=("texts",))
