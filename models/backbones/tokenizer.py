"""CLIP's byte-pair tokens (Radford et al. 2021): texts to token ids, prompts of class names, faults of such texts."""

import collections
import functools
import importlib.machinery
import importlib.util
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from utils.errors import ModelError

VOCABULARY = 49408  # tokens
CONTEXT = 77  # longest text, tokens
# Unicode's Default_Ignorable_Code_Point: fillers, joiners, variation selectors, tags
INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


@functools.cache
def _tokenizer() -> Any:
    """open_clip's tokenizer, loaded from its file: importing the package would import every model of timm, a second."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ModelError("open_clip is missing; pip install open_clip_torch", kind="missing_package")
    loader = importlib.machinery.SourceFileLoader("clip_tokenizer", str(Path(package.origin).with_name("tokenizer.py")))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module.SimpleTokenizer(context_length=CONTEXT)


def tokenize(texts: list[str]) -> Tensor:
    """Texts -> token ids [len(texts), 77], int64, with CLIP's own byte-pair encoding; `_` becomes a space."""
    return _tokenizer()([_spaced(text) for text in texts])


def _spaced(text: str) -> str:
    return text.replace("_", " ")


def class_prompts(classnames: list[str]) -> list[str]:
    """The prompt of each class name, `a photo of a {name}.`"""
    return [f"a photo of a {name}." for name in classnames]


# ---- names that CLIP cannot read or distinguish ----


def text_notes(
    classnames: Sequence[str], prompts: Callable[[str], Sequence[str]] | None = None, renamable: bool = True
) -> list[str]:
    """A sentence for each fault of the class texts: too long, without the name, or not distinguishable from another's.

    prompts: name -> the texts of that class; None = `class_prompts`. Texts are compared by their tokens, as the tower
    reads them: cut at 77 or at an end token in the text, and without differences in case, in spaces and in `_`.
    renamable: whether a user can give other names, which the sentences then advise.
    """
    texts = [list(prompts(name) if prompts else class_prompts([name])) for name in classnames]
    visible = [INVISIBLE.sub("", name) for name in classnames]
    same = _same_tokens(texts)
    faults = [
        (
            [index for index, of_class in enumerate(texts) if any(map(_is_cut, of_class))],
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


def _same_tokens(texts: list[list[str]]) -> list[int]:
    """The classes whose texts have the same tokens as those of another class."""
    found: list[int] = []
    for group in _equal([_cut_tokens(of_class[0]) for of_class in texts]):
        # many templates are tokenized only where the first ones agree
        for subgroup in _equal([tuple(map(_cut_tokens, texts[index])) for index in group]):
            found.extend(group[i] for i in subgroup)
    return found


def _read_tokens(text: str) -> tuple[int, ...]:
    """The token ids of a text, without start and end, up to the first end token, where the tower stops reading."""
    tokens = _tokenizer().encode(_spaced(text))
    end = _tokenizer().eot_token_id  # a text can contain one: "<end&#95;of&#95;text>"
    return tuple(tokens[: tokens.index(end)] if end in tokens else tokens)


def _cut_tokens(text: str) -> tuple[int, ...]:
    return _read_tokens(text)[: CONTEXT - 2]  # beside start and end


def _is_cut(text: str) -> bool:
    # a token has one byte at least
    return len(text.encode()) > CONTEXT - 2 and len(_read_tokens(text)) > CONTEXT - 2


def _equal(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys, one list for each key that occurs more than once."""
    groups: dict[Hashable, list[int]] = collections.defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _some(names: list[str]) -> str:
    """The first three names, shortened, and the number of the others."""
    short = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in names[:3]]
    short = [INVISIBLE.sub(lambda sign: ascii(sign[0])[1:-1], name) for name in short]
    return ", ".join(short) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
