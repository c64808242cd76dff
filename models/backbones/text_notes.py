"""Faults of class texts: names that a text tower cannot read or distinguish."""

import collections
import re
from collections.abc import Callable, Hashable, Sequence

from models.backbones.tokenizer import Tokenizer, class_prompts

# Unicode's Default_Ignorable_Code_Point: fillers, joiners, variation selectors, tags
INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def text_notes(
    tokenizer: Tokenizer,
    classnames: Sequence[str],
    prompts: Callable[[str], Sequence[str]] | None = None,
    renamable: bool = True,
) -> list[str]:
    """A sentence for each fault of the class texts: too long, without the name, or not distinguishable from another's.

    prompts: name -> the texts of that class; None = `class_prompts`. Texts are compared by their tokens, as the tower
    reads them: cut at its context or at an end token in the text, and cleaned (CLIP: without differences in case, in
    spaces and in `_`).
    renamable: whether a user can choose other names, which the sentences then recommend.
    """
    texts = [list(prompts(name) if prompts else class_prompts([name])) for name in classnames]
    visible = [INVISIBLE.sub("", name) for name in classnames]
    same = _same_tokens(tokenizer, texts)
    reader = tokenizer.reader
    faults = [
        (
            [index for index, of_class in enumerate(texts) if any(map(tokenizer.is_cut, of_class))],
            f"{reader} cuts the text after {tokenizer.context} tokens",
            "set shorter names in a classnames file",
        ),
        (
            [index for index, name in enumerate(classnames) if not tokenizer.read(name)],
            f"{reader} reads nothing of the name",
            "set readable names in a classnames file",
        ),
        (
            same,
            f"{reader} reads the same text as for another one, and zero_shot cannot distinguish them",
            "set distinct names in a classnames file",
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


def _same_tokens(tokenizer: Tokenizer, texts: list[list[str]]) -> list[int]:
    """The classes whose texts have the same tokens as those of another class."""

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.read(text)[: tokenizer.room])

    found: list[int] = []
    for group in _equal([tokens(of_class[0]) for of_class in texts]):
        # many templates are tokenized only where the first ones agree
        for subgroup in _equal([tuple(map(tokens, texts[index])) for index in group]):
            found.extend(group[i] for i in subgroup)
    return found


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
