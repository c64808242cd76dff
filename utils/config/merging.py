"""Merges layers of keys and values: defaults, the files of configs/, the command line."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

from utils.config.lift_keys import LIFT_KEYS, SYNONYMS, VALUE_SYNONYMS
from utils.config.parsing import coerce
from utils.config.schema import KEYS
from utils.errors import ConfigError


class Layer(NamedTuple):
    """Keys and values of one file, or of the command line; later layers go before earlier ones."""

    where: str  # the file, for messages
    pairs: dict[str, Any]


def merge(
    layers: list[Layer], warn: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, Any], dict[str, None]]:
    """The values of all keys, and which of them the last layer sets, in its order.

    LIFT's names are read last, over all layers, as some depend on other keys. One line to `warn` tells how those of the
    last layer were read. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    lift: dict[str, tuple[int, Any]] = {}  # LIFT's names: number of the layer, value
    set_by: dict[str, int] = {}  # our keys: number of the layer
    for number, layer in enumerate(layers):
        for name, value in layer.pairs.items():
            name = SYNONYMS.get(name, name)
            value = VALUE_SYNONYMS.get(name, {}).get(str(value), value)
            if name in LIFT_KEYS:
                lift[name] = number, coerce(name, LIFT_KEYS[name].key, value, layer.where)
            elif name in KEYS:
                set_by[name] = number
                values[name] = coerce(name, KEYS[name], value, layer.where)
            else:
                near = difflib.get_close_matches(name, [*KEYS, *LIFT_KEYS], 1, cutoff=0)[0]
                raise ConfigError(f"{layer.where}unknown key '{name}'; did you mean '{near}'? --help lists all keys")
    last, read = len(layers) - 1, []
    given = {name: None for name, number in set_by.items() if number == last}
    for name in [name for name in LIFT_KEYS if name in lift]:
        number, value = lift[name]
        ours = _read_lift_key(name, value, values, layers[number].where)
        for key, each in ours.items():
            if set_by[key] == number and each != values[key]:
                both = f"it is {key} {each}, but {key} {values[key]} is given"
                raise ConfigError(f"{layers[number].where}{name} {value}: {both}; leave one of them out")
        ours = {key: each for key, each in ours.items() if set_by[key] <= number}
        values.update(ours)
        if number == last:
            given.update(dict.fromkeys(ours))
            read.append((f"{name} {_shown(value)}", ours))
    if read:
        warn("LIFT's names were read: " + "; ".join(f"{name} as {_meaning(ours, values)}" for name, ours in read))
    return values, given


def _read_lift_key(name: str, value: Any, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Our keys and values for one of LIFT's. Raises ConfigError."""
    where = f"{where}{name} {value}: "
    try:
        ours = LIFT_KEYS[name].read(value, values)
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from error
    return {key: coerce(key, KEYS[key], each, where) for key, each in ours.items()}


def _meaning(ours: dict[str, Any], values: dict[str, Any]) -> str:
    """What a name of LIFT's set, but for what a later one has set otherwise."""
    return ", ".join(f"{key} {value}" for key, value in ours.items() if values[key] == value) or "nothing of its own"


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def last_of_each(options: list[str]) -> dict[str, str]:
    """KEY VALUE pairs by key, in the order of what counts: of a key given twice, the last."""
    pairs: dict[str, str] = {}
    for name, value in zip(options[::2], options[1::2], strict=True):
        pairs.pop(name, None)
        pairs[name] = value
    return pairs
