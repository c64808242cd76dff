"""From the class names of folders and lists to labels 0..C-1, and to the names in CLIP's prompts."""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np

from datasets.own.class_numbers import is_label
from datasets.own.codes import are_codes
from datasets.own.lists import LabeledPaths
from datasets.own.name_files import read_classnames
from datasets.own.tables import Position
from utils.errors import DataError

NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")
SET_NAMES = "set names that CLIP can read in a classnames file"


def label_classes(splits: list[LabeledPaths], file: str | None) -> tuple[list[str], list[np.ndarray], tuple[str, ...]]:
    """Class names in the order of the labels, labels int64 [n] of each split (training first), and notes for the log.

    file: of class names, which determines the labels; without one, the numbers in the lists do, else the sorted names
    of the training classes. Raises DataError.
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
        notes = (f"its classes are named 0, 1, 2, ...; {SET_NAMES}",)
    else:
        names = sorted(set(splits[0].classes))
        label_of = {name: label for label, name in enumerate(names)}
    for name in _classes_in_order(splits):
        if name not in label_of:
            position = used[name].position_of_class(name)
            message = (
                f"{position} has test class '{name}', which has no training pictures"
                f"{_near(name, label_of)}; add some or remove it, or name all classes in a classnames file"
            )
            raise DataError(message, kind="untrained_class", path=position.path, line=position.line)
    if not numbers or file is not None:
        notes += _codes_note(names, file)
    if len(names) < 2:
        position = splits[0].position(0)
        raise position.error("one_class", f"there is only 1 class, '{names[0]}'; at least two are needed")
    return names, [np.array([label_of[name] for name in split.classes], np.int64) for split in splits], notes


def _mapping_note(names: list[str], label_of: dict[str, int], used: Iterable[str], file: str) -> tuple[str, ...]:
    """The names of the first and the last label of the data, so that a file shifted by a line is noticed."""
    labels = sorted((name for name in used if is_label(name) and name in label_of), key=int)
    if not labels or not all(is_label(name) for name in used):
        return ()
    first, last = labels[0], labels[-1]
    others = f"{', ...' * (len(labels) > 2)}, {int(last)} '{names[label_of[last]]}'" * (len(labels) > 1)
    return (f"{file}: label {int(first)} is '{names[label_of[first]]}'{others}",)


def _codes_note(names: list[str], file: str | None) -> tuple[str, ...]:
    """A note if most class names are codes."""
    codes = [name for name, code in zip(names, are_codes(names), strict=True) if code]
    if 2 * len(codes) <= len(names):
        return ()
    called = ", ".join(codes[:3]) + (", ..." if len(codes) > 3 else "")
    remedy = f"add prompt names that CLIP can read to {file}" if file else SET_NAMES
    return (f"its classes are named {called}; {remedy}",)


# ---- labels ----


def _classes_in_order(splits: list[LabeledPaths]) -> Iterable[str]:
    """The classes, in the order of the images."""
    return dict.fromkeys(itertools.chain(*(split.classes for split in splits)))


def _are_numbers(splits: list[LabeledPaths]) -> bool:
    """True if the labels in the lists are whole numbers, False if names. Raises a DataError for a mixture."""
    if any(split.are_names for split in splits):
        return False
    texts = list(_classes_in_order(splits))
    wrong = next((text for text in texts if not is_label(text)), None)
    if wrong is not None and any(NUMBER.fullmatch(text) for text in texts):
        split = next(split for split in splits if wrong in split.classes)
        position = split.position_of_class(wrong)
        message = (
            f"the label '{wrong[:100]}' is not a whole number from 0"
            f"{' of at most 18 digits' * wrong.isdecimal()}, though "
            f"{'others are numbers' if not NUMBER.fullmatch(wrong) else 'it is a number'}; use only whole numbers or "
            "only names (name the column classname if the names are numbers)"
        )
        raise position.error("mixed_labels", message)
    return wrong is None


def _count_labels(train: LabeledPaths) -> int:
    """C of the labels 0..C-1 of a list. Raises a DataError with the first that is missing."""
    labels = {int(text) for text in set(train.classes)}
    missing = next(label for label in itertools.count() if label not in labels)
    if missing < len(labels):
        path = train.position(0).path
        message = (
            f"no training image has label {missing}, though labels run from "
            f"{min(labels)} to {max(labels)}; number them 0 to {len(labels) - 1} without gaps, or name all classes in "
            "a classnames file"
        )
        raise Position(path).error("label_gap", message)
    return len(labels)


def _labels_by_file(
    entries: list[tuple[str, str]], used: Mapping[str, LabeledPaths], file: str, numbers: bool
) -> dict[str, int]:
    """The label of every class that is used: the index of its name in the file, or its number if it has one."""
    label_of = {name: label for label, (name, _) in enumerate(entries)}
    if not used.keys() <= label_of.keys() and all(is_label(name) for name in used):
        numbers, label_of = True, {name: int(name) for name in used if int(name) < len(entries)}
    unknown = min(used.keys() - label_of.keys(), default=None)
    if unknown is not None:
        position = used[unknown].position_of_class(unknown)
        problem = f"has {len(entries)} classes, 0 to {len(entries) - 1}" if numbers else "does not contain it"
        message = (
            f"class '{unknown}' is used, but {file} {problem}"
            f"{'' if numbers else _near(unknown, label_of)}; add it there, or correct it here"
        )
        raise position.error("unnamed_class", message, key="classnames")
    return label_of


def _near(name: str, known: Iterable[str]) -> str:
    """A suggestion if a known name is nearly this one."""
    folded = {text.casefold(): text for text in known}
    near = difflib.get_close_matches(name.casefold(), folded, 1, cutoff=0.8)
    return f" (did you mean '{folded[near[0]]}'?)" if near else ""
