"""The text tower: CLIP's causal transformer over byte-pair tokens (Radford et al. 2021)."""

import collections
import functools
import importlib.util
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.backbones.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter
from models.backbones.vit import HEAD_DIM

VOCABULARY = 49408
CONTEXT = 77
# Unicode's Default_Ignorable_Code_Point: fillers, joiners, variation selectors, tags
INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


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
    return _tokenizer()([_spaced(text) for text in texts])


def _spaced(text: str) -> str:
    return text.replace("_", " ")


def class_prompts(classnames: list[str]) -> list[str]:
    """The prompt of each class name, `a photo of a {name}.`"""
    return [f"a photo of a {name}." for name in classnames]


# ---- names that CLIP cannot read, or cannot tell apart ----


def text_notes(
    classnames: Sequence[str], prompts: Callable[[str], Sequence[str]] | None = None, renamable: bool = True
) -> list[str]:
    """A sentence for each fault of the class texts: cut, without the name, the same as another's, or so to the eye.

    prompts: name -> the texts of that class; None = `class_prompts`. Texts are compared by their tokens, as the tower
    reads them: cut at 77 or at an end token in the text, and without differences in case, in spaces and in `_`.
    renamable: whether a user can give other names, which the sentences then advise.
    """
    texts = [list(prompts(name) if prompts else class_prompts([name])) for name in classnames]
    firsts = [_cut_tokens(its[0]) for its in texts]
    same = [
        [group[i] for i in part]
        for group in _equal(firsts)  # many templates are tokenized only where the first ones agree
        for part in _equal([tuple(map(_cut_tokens, texts[index])) for index in group])
    ]
    same = [index for group in same for index in group]
    visible = [INVISIBLE.sub("", name) for name in classnames]
    faults = [
        (
            [index for index, its in enumerate(texts) if any(map(_is_cut, its))],
            f"CLIP cuts the text after {CONTEXT} tokens",
            "a classnames file gives shorter names",
        ),
        (
            [index for index, name in enumerate(classnames) if not _read_tokens(name)],
            "CLIP reads nothing of the name",
            "a classnames file gives words to read",
        ),
        (
            same,
            "CLIP reads the same text as for another one, and zero_shot cannot tell them apart",
            "a classnames file gives each its own words",
        ),
        (
            [index for group in _equal(visible) for index in group if index not in same],
            "the name differs from another one in invisible characters alone",
            "rename one of them",
        ),
    ]
    return [
        f"{len(found):,} of {len(classnames):,} classes: {fault} ({_some([classnames[i] for i in found])})"
        + f"; {remedy}" * renamable
        for found, fault, remedy in faults
        if found
    ]


def _read_tokens(text: str) -> tuple[int, ...]:
    """The token ids of a text, without start and end, as far as the tower reads: up to the first end token."""
    tokens = _tokenizer().encode(_spaced(text))
    end = _tokenizer().eot_token_id  # a text can contain one: "<end&#95;of&#95;text>"
    return tuple(tokens[: tokens.index(end)] if end in tokens else tokens)


def _cut_tokens(text: str) -> tuple[int, ...]:
    return _read_tokens(text)[: CONTEXT - 2]  # beside start and end


def _is_cut(text: str) -> bool:
    # a token has one byte at least
    return len(text.encode()) > CONTEXT - 2 and len(_read_tokens(text)) > CONTEXT - 2


def _equal(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys, for each key that is there more than once."""
    groups: dict[Hashable, list[int]] = collections.defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _some(names: list[str]) -> str:
    """The first three names, shortened, and how many more there are."""
    short = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in names[:3]]
    short = [INVISIBLE.sub(lambda sign: ascii(sign[0])[1:-1], name) for name in short]
    return ", ".join(short) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
