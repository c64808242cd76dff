"""From what folders and lists call their classes to labels 0..C-1, and to the names that CLIP reads."""

import collections
import difflib
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from datasets.own.class_numbers import cover
from datasets.own.lists import Listed
from datasets.own.name_files import read_classnames
from utils.errors import DataError

NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")


def label_classes(splits: list[Listed], file: str | None) -> tuple[list[str], list[np.ndarray], tuple[str, ...]]:
    """Class names in the order of the labels, labels int64 of each split (training first), and what is to be told.

    file: of class names. Labels follow it; without one, the numbers in the lists, else the sorted names of the training
    classes. Raises DataError.
    """
    used = {name: split for split in reversed(splits) for name in set(split.classes)}
    numbers = _are_numbers(splits)
    notes: tuple[str, ...] = ()
    if file is not None:
        entries, notes = read_classnames(file, used.keys())
        names, label_of = [prompt for _, prompt in entries], _labels_by_file(entries, used, file, numbers)
        notes += _mapping_note(names, label_of, used, file)
    elif numbers:
        names = [str(label) for label in range(_count_labels(splits[0]))]
        label_of = {text: int(text) for text in used if int(text) < len(names)}
        notes = ("its classes are called 0, 1, 2, ...; a classnames file gives CLIP words to read",)
    else:
        names = sorted(set(splits[0].classes))
        label_of = {name: label for label, name in enumerate(names)}
    for name in _in_order(splits):
        if name not in label_of:
            raise DataError(
                f"{used[name].where_class(name)} tests class '{name}', which has no training pictures"
                f"{_near(name, label_of)}; add some or remove it, or name all classes in a classnames file"
            )
    if not numbers or file is not None:
        notes += _codes_note(names, file)
    if len(names) < 2:
        raise DataError(f"{splits[0].where(0)}: there is 1 class only, '{names[0]}'; at least two are needed")
    return names, [np.array([label_of[name] for name in split.classes], np.int64) for split in splits], notes


def _mapping_note(names: list[str], label_of: dict[str, int], used: Iterable[str], file: str) -> tuple[str, ...]:
    """What the first and the last label of the data are called, so that a file shifted by a line is noticed."""
    labels = sorted((name for name in used if name.isdecimal() and name in label_of), key=int)
    if not labels or not all(name.isdecimal() for name in used):
        return ()
    first, last = labels[0], labels[-1]
    others = f"{', ...' * (len(labels) > 2)}, {int(last)} '{names[label_of[last]]}'" * (len(labels) > 1)
    return (f"{file}: label {int(first)} is '{names[label_of[first]]}'{others}",)


# ---- names that are codes ----

# names by themselves: numbers, ids of ImageNet, Wikidata and Freebase, hashes and UUIDs, article numbers
CODE = re.compile(
    r"[-+]?\d+(\.0+)?|n\d{8}|Q\d{3,}|/?m[./_]0\w+|(?=.*\d)[0-9a-f]{8,}(-[0-9a-f]{4,})*"
    r"|(?=.*[A-Z])(?=(.*\d){3})[A-Z0-9]{8,}"
)
SERIAL = re.compile(r"(.*?)([ _.:-]?)(\d+)")
ABBREVIATION = re.compile(r"[^\W\d_]{1,5}")
YEARS = range(1500, 2101)
GENERIC = (
    "class",
    "classes",
    "cls",
    "category",
    "cat",
    "label",
    "id",
    "type",
    "kind",
    "group",
    "item",
    "object",
    "obj",
)
GENERIC += ("folder", "dir", "species", "sp", "subject", "person", "product", "article", "defect", "sample", "cluster")


def are_codes(names: Sequence[str]) -> list[bool]:
    """Which names are plainly codes, that tell nobody what is in the pictures.

    By themselves, or as one series: the same beginning and a number, where the beginning is a word such as `class`, the
    numbers have leading zeros, or most names are of the series and either count from 0 or 1 (c0, c1, c2) or have a
    short beginning with a separator (tax_9606). A4, boeing 747 and A320 are names; so are numbers that are all years.
    """
    codes = [CODE.fullmatch(name) is not None for name in names]
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) == len(names) and all(number in YEARS for number in numbers):
        return [False] * len(names)
    series: dict[str, list[tuple[int, re.Match]]] = collections.defaultdict(list)  # beginning -> places, parts
    for place, name in enumerate(names):
        if match := SERIAL.fullmatch(name):
            series[match[1].casefold()].append((place, match))
    for beginning, members in series.items():
        digits = [match[3] for _, match in members]
        padded = any(text[0] == "0" and len(text) > 1 for text in digits) and len(set(map(len, digits))) == 1
        separated = ABBREVIATION.fullmatch(beginning) and all(match[2] in ("_", ".", ":") for _, match in members)
        of_most = 2 * len(members) > len(names) and (separated or cover([int(text) for text in digits]))
        if len(members) > 1 and (padded or beginning in GENERIC or of_most):
            for place, _ in members:
                codes[place] = True
    return codes


def _codes_note(names: list[str], file: str | None) -> tuple[str, ...]:
    """A note if most classes are called by codes."""
    codes = [name for name, code in zip(names, are_codes(names), strict=True) if code]
    if 2 * len(codes) <= len(names):
        return ()
    called = ", ".join(codes[:3]) + (", ..." if len(codes) > 3 else "")
    remedy = f"prompt names in {file} give" if file else "a classnames file gives"
    return (f"its classes are called {called}; {remedy} CLIP words to read",)


# ---- labels ----


def _in_order(splits: list[Listed]) -> Iterable[str]:
    """What the classes are called, in the order of the images."""
    return dict.fromkeys(itertools.chain(*(split.classes for split in splits)))


def _are_numbers(splits: list[Listed]) -> bool:
    """True if the lists label by whole numbers, False if by names. Raises a DataError for a mixture."""
    if any(split.named for split in splits):
        return False
    texts = list(_in_order(splits))
    wrong = next((text for text in texts if not text.isdecimal()), None)
    if wrong is not None and any(NUMBER.fullmatch(text) for text in texts):
        split = next(split for split in splits if wrong in split.classes)
        raise DataError(
            f"{split.where_class(wrong)}: the label '{wrong}' is not a whole number from 0, though "
            f"{'others are numbers' if not NUMBER.fullmatch(wrong) else 'it is a number'}; use whole numbers alone or "
            "names alone (call the column classname if the names are numbers)"
        )
    return wrong is None


def _count_labels(train: Listed) -> int:
    """C of the labels 0..C-1 of a list. Raises a DataError that names the first that is missing."""
    labels = {int(text) for text in set(train.classes)}
    missing = next(label for label in itertools.count() if label not in labels)
    if missing < len(labels):
        raise DataError(
            f"{train.where(0).partition(', line')[0]}: no training image has label {missing}, though labels run from "
            f"{min(labels)} to {max(labels)}; number them 0 to {len(labels) - 1} without gaps, or name all classes in "
            "a classnames file"
        )
    return len(labels)


def _labels_by_file(
    entries: list[tuple[str, str]], used: dict[str, Listed], file: str, numbers: bool
) -> dict[str, int]:
    """The label of every class that is used: the place of its name in the file, or the number that it is called by."""
    label_of = {name: label for label, (name, _) in enumerate(entries)}
    if not used.keys() <= label_of.keys() and all(name.isdecimal() for name in used):
        numbers, label_of = True, {name: int(name) for name in used if int(name) < len(entries)}
    unknown = min(used.keys() - label_of.keys(), default=None)
    if unknown is not None:
        problem = f"has {len(entries)} classes, 0 to {len(entries) - 1}" if numbers else "does not name it"
        raise DataError(
            f"{used[unknown].where_class(unknown)}: class '{unknown}' is used, but {file} {problem}"
            f"{'' if numbers else _near(unknown, label_of)}; add it there, or correct it here"
        )
    return label_of


def _near(name: str, known: Iterable[str]) -> str:
    folded = {text.casefold(): text for text in known}
    near = difflib.get_close_matches(name.casefold(), folded, 1, cutoff=0.8)
    return f" (did you mean '{folded[near[0]]}'?)" if near else ""
