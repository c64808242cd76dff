"""The configuration: `load_config` merges, checks and freezes it. Its keys are in schema.py, their texts in help.py.

    defaults < configs/data/DATA.yaml < configs/backbone/BACKBONE.yaml < configs/method/METHOD.yaml < KEY VALUE options
    an address for a BACKBONE, such as timm:MODEL.TAG, has no file: utils/config/addresses.py
    LIFT's form, without -b: configs/model/MODEL.yaml in place of the method; it also names its backbone

yacs stores, nests, freezes and dumps. Parsing is our own: `lr 1` is a float, a key whose default is None still has a
type, a string is never evaluated, and the error for an unknown key names the nearest one.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from yacs.config import CfgNode

from utils.config.checking import check, warn_without_effect
from utils.config.deriving import resolve_normalisation, resolve_runs, resolve_seed
from utils.config.files import config_names, flatten, read_files
from utils.config.legacy_keys import LIFT_DEFAULTS, apply_lift_rules
from utils.config.merging import Layer, merge, pair_options
from utils.config.naming import OUTPUT, run_directory
from utils.config.parsing import parse_value
from utils.config.schema import KEYS, UNRECORDED
from utils.errors import ConfigError

__all__ = [
    "OUTPUT",
    "Config",
    "changed",
    "completed",
    "config_names",
    "load_config",
    "pair_options",
    "restored_config",
    "training_options",
]


def _unless_frozen(name: str) -> Callable[..., Any]:
    """dict's method `name`, which raises AttributeError on a frozen configuration."""

    def method(self: CfgNode, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__.get(CfgNode.IMMUTABLE):
            raise AttributeError(f"the configuration is frozen: {name}{args} was refused")
        return getattr(dict, name)(self, *args, **kwargs)

    return method


class Config(CfgNode):
    """yacs' node; once frozen, dict's methods cannot change it either."""


for _name in ("__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem", "clear"):
    setattr(Config, _name, _unless_frozen(_name))


def load_config(
    data: str, backbone: str | None, method: str, options: list[str], warn: Callable[[str], None] = lambda line: None
) -> Config:
    """The frozen configuration of `-d data -b backbone -m method KEY VALUE ...`, checked, its output_dir resolved.

    Without a backbone, `method` is a model of LIFT's form. `warn` gets a line for LIFT's names of keys, and for options
    without effect. Raises ConfigError.
    """
    _require_working_directory()

    # layers: defaults, files, command line
    layers = [Layer({name: key.default for name, key in KEYS.items()})]
    layers += [Layer(LIFT_DEFAULTS)] if backbone is None else []
    layers += [Layer(content, path) for path, content in read_files(data, backbone, method)]
    layers.append(Layer(_command_line(options)))

    # merge, without and with the command line
    before = merge(layers[:-1])
    values, _, given = merge(layers, warn)

    # values that follow from others
    if backbone is None:
        apply_lift_rules(values, given, warn)
    of_backbone = {key for key, layer in before.sources.items() if layer.path and layer.path.parent.name == "backbone"}
    resolve_normalisation(values, of_backbone, given)

    # rules between keys
    check(values)
    warn_without_effect(values, before.values, given, warn)

    # the run: its seed and its directory
    resolve_seed(values, warn)
    resolve_runs(values)
    name = "_".join(part for part in (data, backbone, method) if part)
    values["output_dir"] = str(run_directory(name, before.values, values, warn))
    return _frozen(values)


def _require_working_directory() -> None:
    """Raises a ConfigError if it was deleted: relative paths would fail, and libraries would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        message = f"the working directory is gone ({error.strerror}); change to a folder that exists"
        raise ConfigError(message, kind="no_working_directory") from error


def _command_line(options: list[str]) -> dict[str, str]:
    """The options by key. Raises ConfigError."""
    pairs = pair_options(options)
    for name, flag in (("dataset", "-d"), ("backbone", "-b")):
        if name in pairs:
            raise ConfigError(f"{name} is chosen by {flag}, not by an option", kind="not_an_option", key=name)
    return pairs


def _frozen(values: dict[str, Any]) -> Config:
    """The values as a configuration, nested by their dots, that cannot be changed."""
    cfg = Config()
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        node = cfg.setdefault(section, Config()) if section else cfg
        node[key] = value
    cfg.freeze()
    return cfg


def changed(cfg: Config, values: Mapping[str, Any]) -> Config:
    """A frozen copy of `cfg` with these values."""
    return _frozen(dict(flatten(cfg)) | dict(values))


def completed(cfg: Config, values: Mapping[str, Any]) -> Config:
    """A frozen copy of `cfg`, where each key of `values` that is None has the value there."""
    given = dict(flatten(cfg))
    return changed(cfg, {key: value for key, value in values.items() if given[key] is None})


def restored_config(recorded: Mapping[str, Any]) -> Config:
    """The frozen configuration of an earlier run, from its recorded values by key. Raises ConfigError.

    Keys of other versions are left out. Keys that are not recorded get their values of that time.
    """
    values = UNRECORDED | {key: parse_value(key, KEYS[key], value) for key, value in recorded.items() if key in KEYS}
    return _frozen(values)


def training_options(cfg: Config) -> dict[str, Any]:
    """The values, by key, that change training: a run may resume another one only if these agree."""
    flat = dict(flatten(cfg))
    changing = {name: flat[name] for name, key in KEYS.items() if key.affects_training} | {"dataset": cfg.dataset}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changing.items()}
