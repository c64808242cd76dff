"""From text, or what YAML made of it, to the value of a key: of its type, within its limits, never evaluated."""

import os
import re
from collections.abc import Callable
from typing import Any

from utils.config.schema import Key
from utils.errors import ConfigError

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # mean and std of RGB in 0..1, by name
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def coerce(name: str, key: Key, value: Any, where: str = "") -> Any:
    """`value`, text or already parsed, as the type of `key`; raises a ConfigError that says what would do."""
    if value is None or value in ("None", "none", "null"):
        if key.none or key.default is None:
            return None
        raise ConfigError(f"{where}{name} cannot be None; it takes {_wanted(key)}")
    try:
        parsed = _PARSERS[key.kind](value)
        if key.kind == "floats" and isinstance(parsed, str):  # the name of a normalisation
            parsed = NORMALISATIONS[parsed][name == "std"]
        members = parsed if isinstance(parsed, tuple) else (parsed,)
        valid = (not key.choices or all(member in key.choices for member in members)) and (
            key.least is None or all(key.least <= number <= key.most and number < float("inf") for number in members)
        )
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise ConfigError(f"{where}{name} takes {_wanted(key)}, found '{value}'")
    return parsed


def _wanted(key: Key) -> str:
    if key.kind == "names":
        return f"names out of {', '.join(key.choices)}, with commas between them"
    if key.choices:
        return f"one of {', '.join(map(str, key.choices))}" + (" or None" if key.none or key.default is None else "")
    kinds = {
        "bool": "True or False",
        "int": "a whole number",
        "float": "a number",
        "str": "a text",
        "path": "a path",
        "floats": "three numbers like [0.5,0.5,0.5], or clip, imagenet, half",
        "layers": "None, a whole number, or a list of block numbers like [0,2]",
        "range": "None, a number k (the last k blocks), or [a,b] (blocks a to b - 1)",
    }
    limits = f" of at least {key.least}" if key.least is not None else ""
    return kinds[key.kind] + limits + (f" and at most {key.most}" if key.most < float("inf") else "")


def _bool(value: Any) -> bool:
    return {"true": True, "false": False}[str(value).lower()]


def _int(value: Any) -> int:
    return _fail() if isinstance(value, bool) or str(value) != str(value).strip() else int(str(value))


def _float(value: Any) -> float:
    return _fail() if isinstance(value, bool) else float(value)


def _path(value: Any) -> str:
    return os.path.expanduser(str(value))


def _list(value: Any) -> list:
    return str(value).strip("[]() ").split(",") if isinstance(value, str) else list(value)


def _floats(value: Any) -> tuple[float, ...] | str:
    if isinstance(value, str) and value in NORMALISATIONS:
        return value
    numbers = tuple(_float(part) for part in _list(value))
    return numbers if len(numbers) == 3 and all(0 <= number <= 1 for number in numbers) else _fail()


def _names(value: Any) -> tuple[str, ...]:
    names = [str(name).strip() for name in _list(value)]
    return tuple(dict.fromkeys(names)) if all(names) else _fail()


def _layers(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple)) or (isinstance(value, str) and re.search(r"[\[(,]", value)):
        return tuple(_int(str(part).strip()) for part in _list(value) if str(part).strip()) or 0
    return _int(value)


def _range(value: Any) -> int | tuple[int, ...]:
    if value in ([], ()) or str(value).strip() in ("[]", "()"):
        _fail()
    blocks = _layers(value)
    return _fail() if isinstance(blocks, tuple) and (len(blocks) != 2 or blocks[0] > blocks[1]) else blocks


def _fail() -> Any:
    raise ValueError


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": str,
    "names": _names,
    "path": _path,
    "floats": _floats,
    "layers": _layers,
    "range": _range,
}
