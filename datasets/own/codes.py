"""Class names that are codes, which CLIP's text encoder cannot relate to the pictures."""

import collections
import re
from collections.abc import Sequence

from datasets.own.class_numbers import cover, is_label

# single names: numbers, ids of ImageNet, Wikidata and Freebase, hashes and UUIDs, article numbers
CODE = re.compile(
    r"[-+]?\d+(\.0+)?|n\d{8}|Q\d{3,}|/?m[./_]0\w+|(?=.*\d)[0-9a-f]{8,}(-[0-9a-f]{4,})*"
    r"|(?=.*[A-Z])(?=(.*\d){3})[A-Z0-9]{8,}"
)
SERIAL = re.compile(r"(.*?)([ _.:-]?)(\d{1,18})")
ABBREVIATION = re.compile(r"[^\W\d_]{1,5}")
YEARS = range(1500, 2101)
GENERIC = {
    *("class", "classes", "cls", "category", "cat", "label", "id", "type", "kind", "group", "item", "object", "obj"),
    *("folder", "dir", "species", "sp", "subject", "person", "product", "article", "defect", "sample", "cluster"),
}


def are_codes(names: Sequence[str]) -> list[bool]:
    """Whether each name is clearly a code, without a word about the pictures.

    A name is a code by itself, or as one of a series: the same beginning and a number, where the beginning is a word
    such as `class`, the numbers have leading zeros, or most names are of the series and either count from 0 or 1
    (c0, c1, c2) or have a short beginning with a separator (tax_9606). A4, boeing 747 and A320 are names; so are
    numbers that are all years.
    """
    codes = [CODE.fullmatch(name) is not None for name in names]
    numbers = [int(name) for name in names if is_label(name)]
    if len(numbers) == len(names) and all(number in YEARS for number in numbers):
        return [False] * len(names)
    series: dict[str, list[tuple[int, re.Match]]] = collections.defaultdict(list)  # by beginning: index, match
    for index, name in enumerate(names):
        if match := SERIAL.fullmatch(name):
            series[match[1].casefold()].append((index, match))
    for beginning, members in series.items():
        digits = [match[3] for _, match in members]
        padded = any(text[0] == "0" and len(text) > 1 for text in digits) and len(set(map(len, digits))) == 1
        separated = ABBREVIATION.fullmatch(beginning) and all(match[2] in ("_", ".", ":") for _, match in members)
        counts_most = 2 * len(members) > len(names) and (separated or cover([int(text) for text in digits]))
        if len(members) > 1 and (padded or beginning in GENERIC or counts_most):
            for index, _ in members:
                codes[index] = True
    return codes
