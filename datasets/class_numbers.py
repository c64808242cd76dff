"""Numbers of classes beside their names: `2: cat`, `cat 2`, `002`, `class_2`."""

import re
from collections.abc import Sequence

_NUMBER = r"(\d+)(?:\.0+)?"  # 2, 002, 2.0
_WORDED = rf"(?:(?:class|cls|category|label|id|index|idx|number|no\.?|nr\.?|#)[ _.-]?)?{_NUMBER}"
_FRONT = re.compile(  # "2: cat", "2 cat", "(2) cat", "2 -> cat"; not "0.5 litres", "707-320"
    rf"[(\[]?{_WORDED}((?:\s*(?:[])=:;,|]|\.(?!\d)|[-=]>|→))+|\s+[-–—](?=\s)|[-_](?=[^\W\d])|(?=\s))\s*(\S.*)", re.I
)
_BACK = re.compile(  # "cat: 2", "cat 2", "cat (2)"; not "A320", "F-16"
    rf"(.*?[^\s:;,|=_(\[>-])(?:\s*(?:[=:;,|]|[-=]>|→)\s*|\s+[-–—]\s+|[\s_]+|\s*(?=[(\[]))[(\[]?{_WORDED}[)\]]?", re.I
)
_WEAK_SIGNS = ("", "-", "–", "—", "_")  # may be part of a name
_QUANTITY = re.compile(r"[-+]?\d[\d.,]*%?")


def numbers_of(texts: Sequence[str], with_words: bool = False) -> list[int] | None:
    """The whole numbers that these texts are (`2`, `002`, `2.0`; with_words: `class 2`), if all are."""
    matches = [re.fullmatch(_WORDED if with_words else _NUMBER, text, re.I) for text in texts]
    return [int(match[1]) for match in matches] if all(matches) else None


def are_quantities(texts: Sequence[str]) -> bool:
    """Whether all texts are numbers of some kind, and not words."""
    return all(map(_QUANTITY.fullmatch, texts))


def cover(numbers: Sequence[int]) -> bool:
    """Whether the numbers are 0..n-1 or 1..n, in any order."""
    first = min(numbers, default=0)
    return first in (0, 1) and sorted(numbers) == [*range(first, first + len(numbers))]


def split_numbers(texts: Sequence[str], used: frozenset[str]) -> list[tuple[int, str]] | None:
    """(number, name) of texts that all begin, or all end, with a number of their own, beside a name of their own.

    The numbers are 0..n-1 or 1..n, or include those that the data use. Those before a sign such as `:` may have gaps,
    which is an error to be reported; other numbers are part of the names (None). `1. cat`, `2. dog` is how a person
    counts: these are numbers 0 and 1 where the data use a 0.
    """
    for pattern in (_FRONT, _BACK):
        matches = [pattern.fullmatch(text) for text in texts]
        if len(matches) < 2 or not all(matches):
            continue
        if pattern is _FRONT:
            parts = [(int(match[1]), match[2].strip(), match[3].strip('"')) for match in matches]
        else:
            parts = [(int(match[2]), "", match[1].strip('"')) for match in matches]
        numbers, signs, names = (list(column) for column in zip(*parts, strict=True))
        if len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
            continue  # "5 euros", "10 euros"
        signed = not any(sign in _WEAK_SIGNS for sign in signs) and not any(name[:1].isdigit() for name in names)
        listed = set("".join(signs)) <= {".", ")"} and numbers == [*range(1, len(numbers) + 1)]
        if signed and listed and "0" in used:
            numbers = [number - 1 for number in numbers]
        if signed or cover(numbers) or (used and used <= set(map(str, numbers))):
            return list(zip(numbers, names, strict=True))
    return None
