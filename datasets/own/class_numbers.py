"""Numbers of classes beside their names: `2: cat`, `cat 2`, `002`, `class_2`."""

import re
from collections.abc import Sequence

DIGITS = 18  # of a number of a class, at most
_NUMBER = rf"(?P<number>\d{{1,{DIGITS}}})(?:\.0+)?"  # 2, 002, 2.0
_WORDED = rf"(?:(?:class|cls|category|label|id|index|idx|number|no\.?|nr\.?|#)[ _.-]?)?{_NUMBER}"
_FRONT = re.compile(  # "2: cat", "2 cat", "(2) cat", "2 -> cat", "2-cat"; not "3D"
    rf"[(\[{{<#]?{_WORDED}(?P<sign>(?:[^\w(\[{{\"'#]|_)+)(?P<name>\S.*)", re.I
)
_BACK = re.compile(  # "cat: 2", "cat 2", "cat (2)", "cat-2"; not "A320"
    rf"(?P<name>.*?[^\W_][)\]\"']{{0,9}})(?P<sign>[\W_]{{1,200}}){_WORDED}[)\]}}>]?", re.I
)
_SIGN = re.compile(r"[]):;,|=>.]")  # which are not part of a name
_INNER = ("-", "–", ".", "/")  # between digits: part of a number, "0.5" and "0-2"
_QUOTED = re.compile(r"""(["'])(.*)\1""")
_QUANTITY = re.compile(r"[-+]?\d[\d.,]*%?")


def is_label(text: str) -> bool:
    """Whether a class is named by a whole number of at most DIGITS digits."""
    return text.isdecimal() and len(text) <= DIGITS


def numbers_of(texts: Sequence[str], with_words: bool = False) -> list[int] | None:
    """The texts as whole numbers (`2`, `002`, `2.0`; with_words: `class 2`), None if one is not."""
    matches = [re.fullmatch(_WORDED if with_words else _NUMBER, text, re.I) for text in texts]
    numbers = [int(match["number"]) for match in matches if match]
    return numbers if len(numbers) == len(texts) else None


def are_quantities(texts: Sequence[str]) -> bool:
    """Whether all texts are numbers of some kind instead of words."""
    return all(map(_QUANTITY.fullmatch, texts))


def cover(numbers: Sequence[int]) -> bool:
    """Whether the numbers are 0..n-1 or 1..n, in any order."""
    first = min(numbers, default=0)
    return first in (0, 1) and sorted(numbers) == [*range(first, first + len(numbers))]


def is_numbered(text: str) -> bool:
    """Whether a text begins or ends with a number."""
    return any(pattern.fullmatch(text) for pattern in (_FRONT, _BACK))


def split_numbers(texts: Sequence[str], used: frozenset[str]) -> list[tuple[int, str]] | None:
    """(number, name) of texts that all begin, or all end, with a distinct number, beside a distinct name.

    The numbers are 0..n-1 or 1..n, or include those that the data use. Those before a sign such as `:` may have gaps
    and equal names, which are errors to be reported; other numbers belong to the names (None). Lists numbered
    `1. cat`, `2. dog` count from 1: these are numbers 0 and 1 if the data use a 0.
    """
    for pattern in (_FRONT, _BACK):
        matches = [match for text in texts if (match := pattern.fullmatch(text))]
        if len(matches) < max(2, len(texts)):
            continue
        numbers = [int(match["number"]) for match in matches]
        signs = [match["sign"] for match in matches]
        names = [_QUOTED.sub(r"\2", name) if _QUOTED.fullmatch(name) else name for name in (m["name"] for m in matches)]
        signed = pattern is _FRONT and all(map(_SIGN.search, signs)) and not any(name[:1].isdigit() for name in names)
        if len(set(numbers)) < len(numbers) or (len(set(names)) < len(names) and not signed):
            continue  # "5 euros", "10 euros"
        edge = slice(0, 1) if pattern is _FRONT else slice(-1, None)
        inner = [sign in _INNER and name[edge].isdigit() for sign, name in zip(signs, names, strict=True)]
        if any(inner) and (all(inner) or len(set(signs)) > 1):
            continue  # "0.5 litres", "1 litre"; but "0.A320", "1.707-320"
        listed = signed and {sign.strip() for sign in signs} <= {".", ")"} and "0" in used
        if listed and numbers == [*range(1, len(numbers) + 1)]:
            numbers = [number - 1 for number in numbers]
        if signed or cover(numbers) or (used and used <= set(map(str, numbers))):
            return list(zip(numbers, names, strict=True))
    return None
