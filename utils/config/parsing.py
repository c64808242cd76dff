"""Parses the value of a key, from text or YAML: of its type and within its limits. Nothing is evaluated."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from utils.config.schema import Key, Kind
from utils.config.suggestions import nearest_value
from utils.errors import ConfigError
from utils.text import shortened

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # mean and std of RGB in 0..1, by name
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

PATH_BYTES, NAME_BYTES = 4000, 255  # of a path and of each name in it: Linux's limits, with room for a run's files
INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_value(name: str, key: Key, value: Any) -> Any:
    """`value`, text or already parsed, as a value of `key`. Raises a ConfigError with its values."""
    if value is None or value in ("None", "none", "null"):
        if key.takes_none:
            return None
        raise ConfigError(f"{name} must be {expected(key)}, not None", kind="wrong_value", key=name)
    try:
        parsed = KINDS[key.kind][0](value)
        if key.kind == "floats" and isinstance(parsed, str):  # the name of a normalisation
            parsed = NORMALISATIONS[parsed][name == "std"]
        valid = _is_allowed(key, parsed)
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        nearest = nearest_value(str(value), _choices(key))
        hint = f"; did you mean {nearest}?" if nearest else ""
        message = f"{name} must be {expected(key, value)}, found '{shortened(str(value))}'{hint}"
        raise ConfigError(message, kind="wrong_value", key=name)
    return parsed


def _choices(key: Key) -> list[str]:
    """The choices of a key as text; [] for a key without choices."""
    few: Mapping[str, Iterable[object]] = {"bool": (True, False), "floats": NORMALISATIONS}
    return [str(choice) for choice in key.choices or few.get(key.kind, ())]


def _is_allowed(key: Key, parsed: Any) -> bool:
    """Whether a value of the key's type is among its choices and within its limits."""
    if key.choices:
        return set(parsed) <= set(key.choices) if isinstance(parsed, tuple) else parsed in key.choices
    if key.min is None:
        return True
    numbers = parsed if isinstance(parsed, tuple) else (parsed,)
    return all(key.min <= number <= key.largest for number in numbers)


def expected(key: Key, value: Any = None) -> str:
    """The values of a key, in words. value: the one that was found, for the limit that it exceeds."""
    choices = ", ".join(map(str, key.choices))
    if key.kind == "names":
        return f"a comma-separated list of names from {choices}"
    if key.choices:
        return f"one of {choices}" + (" or None" if key.takes_none else "")
    limits = f" of at least {key.min}" if key.min is not None else ""
    limits += f" and at most {key.largest}" if limits and (key.max < math.inf or _is_above(key.largest, value)) else ""
    return KINDS[key.kind][1] + limits


def _is_above(limit: float, value: Any) -> bool:
    """Whether a value is a number above the limit, or a list with one."""
    parts = str(value)[:1000].strip("[]() ").split(",")
    return any(NUMBER.fullmatch(part.strip()) and float(part) > limit for part in parts)


# ---- one parser per kind; each raises ValueError or TypeError for other values ----


def _bool(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _int(value: Any) -> int:
    if isinstance(value, bool) or not INTEGER.fullmatch(str(value)):
        raise ValueError
    return int(str(value))


def _float(value: Any) -> float:
    """A finite number, and zero only if written as zero: neither 1e400 nor 1e-400."""
    if isinstance(value, bool) or not NUMBER.fullmatch(str(value)):
        raise ValueError
    number = float(value)
    digits = re.split("[eE]", str(value))[0]
    if math.isinf(number) or (number == 0 and re.search("[1-9]", digits)):
        raise ValueError
    return number


def _text(value: Any) -> str:
    if not str(value).strip():
        raise ValueError
    return str(value)


def _path(value: Any) -> str:
    """A path, its ~ expanded. Raises ValueError if it is longer than file systems allow."""
    path = os.path.expanduser(_text(value))
    if len(os.fsencode(path)) > PATH_BYTES or any(len(os.fsencode(name)) > NAME_BYTES for name in path.split("/")):
        raise ValueError
    return path


def _list(value: Any) -> list[Any]:
    return str(value).strip("[]() ").split(",") if isinstance(value, str) else list(value)


def _floats(value: Any) -> tuple[float, ...] | str:
    if isinstance(value, str) and value in NORMALISATIONS:
        return value
    numbers = tuple(_float(part) for part in _list(value))
    if len(numbers) != 3 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError
    return numbers


def _names(value: Any) -> tuple[str, ...]:
    names = [str(name).strip() for name in _list(value)]
    if not all(names):
        raise ValueError
    return tuple(dict.fromkeys(names))


def _layers(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple)) or (isinstance(value, str) and re.search(r"[\[(,]", value)):
        return tuple(_int(str(part).strip()) for part in _list(value) if str(part).strip()) or 0
    return _int(value)


def _range(value: Any) -> int | tuple[int, ...]:
    if value in ([], ()) or str(value).strip() in ("[]", "()"):
        raise ValueError
    blocks = _layers(value)
    if isinstance(blocks, tuple) and (len(blocks) != 2 or blocks[0] > blocks[1]):
        raise ValueError
    return blocks


# the parser of each kind, and its values in words
KINDS: dict[Kind, tuple[Callable[[Any], Any], str]] = {
    "bool": (_bool, "True or False"),
    "int": (_int, "a whole number"),
    "float": (_float, "a number"),
    "str": (_text, "a text"),
    "names": (_names, "a comma-separated list of names"),
    "path": (_path, f"a path with names of up to {NAME_BYTES} bytes"),
    "floats": (_floats, "three numbers like [0.5,0.5,0.5], or clip, imagenet, half"),
    "layers": (_layers, "None, a whole number, or a list of block numbers like [0,2]"),
    "range": (_range, "None, a number k (the last k blocks), or [a,b] (blocks a to b - 1)"),
}
