"""Merges layers of keys and values: defaults, the files of configs/, the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from utils.config.legacy_keys import LIFT_KEYS, SYNONYMS, VALUE_SYNONYMS
from utils.config.parsing import parse_value
from utils.config.schema import KEYS
from utils.config.suggestions import nearest_key
from utils.errors import ConfigError, amended
from utils.text import shortened


class Layer(NamedTuple):
    """Keys and values of one source; those of later layers replace those of earlier ones."""

    pairs: dict[str, Any]
    path: Path | None = None  # the file of configs/; None for defaults and for the command line

    @property
    def source(self) -> str:
        """The file as the start of an error message; empty without a file."""
        return f"{self.path.parent.name}/{self.path.name}: " if self.path else ""


class Merged(NamedTuple):
    """The result of `merge`."""

    values: dict[str, Any]  # of every key
    sources: dict[str, Layer]  # the layer that sets each key by its own name
    given: list[str]  # the keys that the last layer sets, by their own or LIFT's names, in its order


def pair_options(options: list[str]) -> dict[str, str]:
    """KEY VALUE texts as a dict. A repeated key has its first position and its last value. Raises ConfigError."""
    if len(options) % 2:
        assignment = next((text for text in options if "=" in text), None)
        hint = f"; write '{assignment.replace('=', ' ', 1)}'" if assignment else ""
        message = f"options come as KEY VALUE pairs, but '{options[-1]}' has no value{hint}"
        raise ConfigError(message, kind="missing_value", key=options[-1])
    names = [SYNONYMS.get(name, name) for name in options[::2]]
    return dict(zip(names, options[1::2], strict=True))


def merge(layers: list[Layer], warn: Callable[[str], None] = lambda line: None) -> Merged:
    """Merges the layers. Raises ConfigError.

    LIFT's names are converted last, over all layers, as some depend on other keys. `warn` gets a line with the
    conversions of the last layer.
    """
    values: dict[str, Any] = {}
    ranks: dict[str, int] = {}  # key: number of the layer that sets it
    legacy: dict[str, tuple[int, Any]] = {}  # LIFT's name: number of the layer that sets it, value

    # keys by their own names
    for rank, layer in enumerate(layers):
        with amended(layer.source, path=layer.path):
            for name, value in layer.pairs.items():
                name = SYNONYMS.get(name, name)
                if name in VALUE_SYNONYMS:
                    value = VALUE_SYNONYMS[name].get(str(value), value)
                if name in LIFT_KEYS:
                    legacy[name] = rank, parse_value(name, LIFT_KEYS[name].key, value)
                else:
                    values[name] = parse_value(name, KEYS[_known(name)], value)
                    ranks[name] = rank
    last = len(layers) - 1
    given = [name for name, rank in ranks.items() if rank == last]

    # LIFT's names, in the order of their table
    read = []
    for name in [name for name in LIFT_KEYS if name in legacy]:
        rank, value = legacy[name]
        with amended(layers[rank].source, path=layers[rank].path):
            meaning = _read_lift_key(name, value, values)
            _require_no_other(name, value, {key: v for key, v in meaning.items() if ranks[key] == rank}, values)
        meaning = {key: v for key, v in meaning.items() if ranks[key] <= rank}
        values.update(meaning)
        if rank == last:
            given += [key for key in meaning if key not in given]
            shown = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else value
            read.append((f"{name} {shown}", meaning))
    if read:
        warn("LIFT's names were read: " + "; ".join(f"{name} as {_in_words(each, values)}" for name, each in read))
    return Merged(values, {key: layers[rank] for key, rank in ranks.items()}, given)


def _known(name: str) -> str:
    """The name, if it is a key. Raises a ConfigError, with the nearest key if there is one."""
    if name not in KEYS:
        nearest = nearest_key(name, [*KEYS, *LIFT_KEYS])
        hint = f"did you mean '{nearest}'? " if nearest else ""
        message = f"unknown key '{shortened(name)}'; {hint}--help all lists all keys"
        raise ConfigError(message, kind="unknown_key", key=name)
    return name


# ---- LIFT's names ----


def _read_lift_key(name: str, value: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The keys and values that a LIFT name sets. Raises ConfigError."""
    try:
        meaning = LIFT_KEYS[name].read(value, values)
        return {key: parse_value(key, KEYS[key], each) for key, each in meaning.items()}
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{name} {shortened(str(value))}: {error}", kind="wrong_value", key=name) from error


def _require_no_other(name: str, value: Any, meaning: dict[str, Any], values: dict[str, Any]) -> None:
    """Raises a ConfigError if a layer sets a key to two values, by its own name and by LIFT's name."""
    for key, each in meaning.items():
        if each != values[key]:
            message = f"{name} {value} means {key} {each}, but {key} {values[key]} is set, too; leave one of them out"
            raise ConfigError(message, kind="contradicting_keys", key=name)


def _in_words(meaning: dict[str, Any], values: dict[str, Any]) -> str:
    """The keys and values that a LIFT name set, without those that a later name replaced, in words."""
    return ", ".join(f"{key} {value}" for key, value in meaning.items() if values[key] == value) or "no key"
