"""The configuration: the one function that merges and checks it. Its keys stand in schema.py.

    defaults < configs/data/DATA.yaml < configs/backbone/BACKBONE.yaml < configs/method/METHOD.yaml < KEY VALUE options

yacs stores, nests, freezes and dumps; what it would get wrong on the way in is done here: `lr 1` is a float, a key
whose default is None still has a type, a string is never evaluated, an unknown key names the nearest known one.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from utils.schema import ALIASES, KEYS, SCHEMA, Key

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OUTPUT = Path("output")


class ConfigError(Exception):
    """A wrong command line or configuration; the message names the key, what was found and what is possible."""


class Config(CfgNode):
    """yacs' node, whose frozen form cannot be changed in the ways of a dict either."""

    def _guarded(name: str):  # noqa: N805 (a helper of the class body)
        def method(self, *args, **kwargs):
            if self.__dict__.get(CfgNode.IMMUTABLE):
                raise AttributeError(f"the configuration is frozen: {name}{args} was refused")
            return getattr(dict, name)(self, *args, **kwargs)

        return method

    __setitem__, __delitem__, __ior__ = map(_guarded, ("__setitem__", "__delitem__", "__ior__"))
    update, setdefault, pop = map(_guarded, ("update", "setdefault", "pop"))
    popitem, clear = map(_guarded, ("popitem", "clear"))


# ---- loading ----


def load_config(data: str, backbone: str, method: str, options: list[str]) -> Config:
    """The frozen configuration of `-d data -b backbone -m method KEY VALUE ...`, checked, its output_dir resolved.

    Raises ConfigError.
    """
    values = {name: key.default for name, key in KEYS.items()}
    for room, name in (("data", data), ("backbone", backbone), ("method", method)):
        path = config_file(room, name)
        _merge(values, _flatten(yaml.safe_load(path.read_text()) or {}), where=f"{path.parent.name}/{path.name}: ")
    if len(options) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs, but '{options[-1]}' stands alone")
    for name in {"dataset", "backbone"} & set(options[::2]):
        raise ConfigError(f"{name} is chosen by {'-d' if name == 'dataset' else '-b'}, not by an option")
    before = dict(values)
    _merge(values, zip(options[::2], options[1::2], strict=True))
    check(values)
    values["output_dir"] = str(_run_directory(f"{data}_{backbone}_{method}", before, values))
    return _freeze(values)


def config_file(room: str, name: str) -> Path:
    """configs/ROOM/NAME.yaml; for an unknown name, a ConfigError with the choices."""
    choices = config_names(room)
    if name not in choices:
        flag = {"data": "-d", "backbone": "-b", "method": "-m"}[room]
        raise ConfigError(f"unknown {room} '{name}' in {flag}; choose from {', '.join(choices)}")
    return CONFIGS / room / f"{name}.yaml"


def config_names(room: str) -> list[str]:
    """The names that -d, -b or -m takes: the files of configs/data, configs/backbone or configs/method."""
    return sorted(path.stem for path in (CONFIGS / room).glob("*.yaml"))


def _flatten(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _merge(values: dict[str, Any], pairs: Iterable[tuple[str, Any]], where: str = "") -> None:
    for name, value in pairs:
        name = ALIASES.get(name, name)
        if name not in KEYS:
            near = difflib.get_close_matches(name, KEYS, 1, cutoff=0)[0]
            raise ConfigError(f"{where}unknown key '{name}'; did you mean '{near}'? --help lists all keys")
        values[name] = coerce(name, KEYS[name], value, where)


def coerce(name: str, key: Key, value: Any, where: str = "") -> Any:
    """`value`, text or already parsed, as the type of `key`; raises a ConfigError that says what would do."""
    if value is None or value in ("None", "none", "null"):
        if key.none or key.default is None:
            return None
        raise ConfigError(f"{where}{name} cannot be None; it takes {_wanted(key)}")
    try:
        parsed = _PARSERS[key.kind](value)
        numbers = parsed if isinstance(parsed, tuple) else (parsed,)
        valid = (not key.choices or parsed in key.choices) and (
            key.least is None or all(key.least <= number < float("inf") for number in numbers)
        )
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise ConfigError(f"{where}{name} takes {_wanted(key)}, found '{value}'")
    return parsed


def _wanted(key: Key) -> str:
    if key.choices:
        return f"one of {', '.join(key.choices)}" + (" or None" if key.none or key.default is None else "")
    kinds = {
        "bool": "True or False",
        "int": "a whole number",
        "float": "a number",
        "str": "a text",
        "floats": "three numbers like [0.5,0.5,0.5]",
        "layers": "None, a whole number, or a list of block numbers like [0,2]",
    }
    return kinds[key.kind] + (f" of at least {key.least}" if key.least is not None else "")


def _bool(value: Any) -> bool:
    return {"true": True, "false": False}[str(value).lower()]


def _int(value: Any) -> int:
    return _fail() if isinstance(value, bool) or str(value) != str(value).strip() else int(str(value))


def _float(value: Any) -> float:
    return _fail() if isinstance(value, bool) else float(value)


def _list(value: Any) -> list:
    return str(value).strip("[]() ").split(",") if isinstance(value, str) else list(value)


def _floats(value: Any) -> tuple[float, ...]:
    numbers = tuple(_float(part) for part in _list(value))
    return numbers if len(numbers) == 3 and all(0 <= number <= 1 for number in numbers) else _fail()


def _layers(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple)) or (isinstance(value, str) and re.search(r"[\[(,]", value)):
        return tuple(_int(str(part).strip()) for part in _list(value) if str(part).strip())
    return _int(value)


def _fail() -> Any:
    raise ValueError


_PARSERS = {"bool": _bool, "int": _int, "float": _float, "str": str, "floats": _floats, "layers": _layers}


def check(values: dict[str, Any]) -> None:
    """The rules between keys. Raises ConfigError."""
    tuned = [name for name, key in KEYS.items() if name.startswith("v.") and key.kind == "bool" and values[name]]
    if values["batch_size"] % values["accum_step"]:
        raise ConfigError(
            f"accum_step must divide batch_size, found accum_step {values['accum_step']} "
            f"and batch_size {values['batch_size']}; choose, say, accum_step {_divisor(values)}"
        )
    if values["zero_shot"] and (values["classifier"] or tuned):
        extra = values["classifier"] or tuned[0]
        raise ConfigError(f"zero_shot trains nothing, but {extra} is set; leave one of the two out")
    if not (values["zero_shot"] or values["classifier"] or tuned):
        raise ConfigError("nothing to train: set classifier, a method such as v.adaptformer True, or zero_shot True")
    if values["mean"] is None or values["std"] is None or min(values["std"]) <= 0:
        raise ConfigError(
            f"mean and std take three numbers each, std above 0; found {values['mean']} and {values['std']}"
        )
    if values["model_dir"] and not (values["test_only"] or values["test_train"]):
        raise ConfigError("model_dir names a run to test; add test_only True (or test_train True)")


def _divisor(values: dict[str, Any]) -> int:
    """The divisor of batch_size nearest to accum_step."""
    size, parts = values["batch_size"], values["accum_step"]
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(n - parts))


def _freeze(values: dict[str, Any]) -> Config:
    cfg = Config()
    for name, value in values.items():
        node, *rest = name.split(".")
        if rest:
            cfg.setdefault(node, Config())[rest[0]] = value
        else:
            cfg[node] = value
    cfg.freeze()
    return cfg


# ---- naming and showing ----


def _run_directory(name: str, before: dict[str, Any], values: dict[str, Any]) -> Path:
    """output/DATA_BACKBONE_METHOD_KEY_VALUE..., with the options that change training, in the schema's order."""
    if values["output_dir"] or values["model_dir"]:
        return OUTPUT / values["output_dir"] if values["output_dir"] else Path(values["model_dir"])
    for key, value in values.items():
        if KEYS[key].names_run and value != before[key]:
            value = "-".join(map(str, value)) if isinstance(value, tuple) else value
            name += f"_{key}_{value}"
    if _is_address(values["weights"]) and values["weights"] != before["weights"]:
        name += f"_weights_{values['weights']}"
    return OUTPUT / re.sub(r"[^\w.+@=-]+", "-", name)


def _is_address(weights: str | None) -> bool:
    """Published weights change the run and enter its name; the place of a file on disk does not."""
    return bool(weights) and weights.startswith("timm:")


def training_options(cfg: Config) -> dict[str, Any]:
    """The values, by key, of what changes training: two runs may continue one another only if these agree."""
    flat = dict(_flatten(cfg))
    changing = {name: flat[name] for name, key in KEYS.items() if key.names_run} | {"dataset": cfg.dataset}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changing.items()}


def help_text() -> str:
    """Every key with default and meaning, by group, from the schema itself."""
    lines = []
    for group, keys in SCHEMA.items():
        lines.append(f"\n{group}:")
        for name, key in keys.items():
            choices = f" [{'|'.join(key.choices)}]" if key.choices else ""
            lines.append(f"  {name:22}{str(key.default):18} {key.help}{choices}")
    return "\n".join(lines)
