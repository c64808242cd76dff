"""Tokenizers: texts to the token ids that a text tower reads. CLIP's is here, file_tokenizer.py has the others.

A row of ids is a frame around the ids of a text: those before it, the text's, those behind it, then padding.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import ModelError
from utils.imports import submodule

VOCABULARY = 49408  # tokens of CLIP's byte-pair encoding
CONTEXT = 77  # CLIP's longest text, tokens
ENCODED = 2**15  # texts whose ids are cached


class Frame(NamedTuple):
    """The token ids around a text's: `before` it, `behind` it (the last of them ends the text), and the padding."""

    before: tuple[int, ...]
    behind: tuple[int, ...]
    padding: int


class Tokenizer(ABC):
    """Texts -> token ids, int64 [len(texts), context]; a text that is too long is cut, and its end stays.

    reader: the reader of the texts, in messages.
    """

    reader: str

    def __init__(self, context: int):
        self.context = context

    @property
    @abstractmethod
    def frame(self) -> Frame:
        """The ids around a text's."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without a frame and of any length; `_` becomes a space."""

    def read(self, text: str) -> list[int]:
        """The ids of a text that the tower reads, without a frame and of any length."""
        return self.encode([text])[0]

    def is_cut(self, text: str) -> bool:
        """Whether the context is too short for the text."""
        return len(self.read(text)) > self.room

    @property
    def room(self) -> int:
        """The number of a text's tokens that fit."""
        return self.context - len(self.frame.before) - len(self.frame.behind)

    def row(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text in their frame, cut and padded to the context."""
        row = [*self.frame.before, *ids[: self.room], *self.frame.behind]
        return row + [self.frame.padding] * (self.context - len(row))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = [self.row(ids) for ids in self.encode(texts)]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), self.context)

    def ends(self, tokens: Tensor) -> Tensor:
        """The position of the first end-of-text token in each row, [C, N] -> [C]."""
        return (tokens == self.frame.behind[-1]).int().argmax(dim=1)


class ClipTokenizer(Tokenizer):
    """CLIP's byte-pair encoding (Radford et al. 2021), by open_clip. The vocabulary is loaded at the first text.

    clean: the cleaning of texts, in open_clip's words.
    """

    reader = "CLIP"

    def __init__(self, context: int = CONTEXT, clean: str = "lower"):
        super().__init__(context)
        self.clean = clean

    @property
    def frame(self) -> Frame:
        bpe = _byte_pairs(self.clean)
        return Frame((bpe.sot_token_id,), (bpe.eot_token_id,), 0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(_encode(self.clean, text)) for text in texts]

    def read(self, text: str) -> list[int]:
        """Up to the first end token, where the tower stops reading; a text can contain one: <end&#95;of&#95;text>."""
        tokens, end = super().read(text), _byte_pairs(self.clean).eot_token_id
        return tokens[: tokens.index(end)] if end in tokens else tokens

    def is_cut(self, text: str) -> bool:
        return len(text.encode()) > self.room and super().is_cut(text)  # a token has at least one byte


tokenize = ClipTokenizer()  # with CLIP's own context


@functools.lru_cache(ENCODED)  # the texts that are checked when a run starts are encoded a moment later
def _encode(clean: str, text: str) -> tuple[int, ...]:
    return tuple(_byte_pairs(clean).encode(spaced(text)))


@functools.cache
def _byte_pairs(clean: str) -> Any:
    module = open_clip_tokenizers()
    return module._tokenizer if clean == "lower" else module.SimpleTokenizer(clean=clean)  # a quarter of a second


def open_clip_tokenizers() -> Any:
    """open_clip's module of tokenizers. Raises ModelError."""
    try:
        return submodule("open_clip.tokenizer")
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is missing; pip install open_clip_torch", kind="missing_package") from error


def spaced(text: str) -> str:
    """A text with spaces for `_`, which names of class folders contain."""
    return text.replace("_", " ")


def class_prompts(classnames: Sequence[str]) -> list[str]:
    """The prompt of each class name, `a photo of a {name}.`"""
    return [f"a photo of a {name}." for name in classnames]
