"""The configuration: the one function that merges and checks it. Its keys are in schema.py.

    defaults < configs/data/DATA.yaml < configs/backbone/BACKBONE.yaml < configs/method/METHOD.yaml < KEY VALUE options
    LIFT's form, without -b: configs/model/MODEL.yaml in place of the method, which also names its backbone

yacs stores, nests, freezes and dumps; parsing is ours: `lr 1` is a float, a key whose default is None still has a type,
a string is never evaluated, an unknown key names the nearest known one.
"""

import os
import secrets
from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode

from utils.config.checking import check
from utils.config.files import config_names, flatten, read_files
from utils.config.lift_keys import LIFT_DEFAULTS, LIFT_KEYS, finish
from utils.config.merging import Layer, last_of_each, merge
from utils.config.naming import OUTPUT, run_directory
from utils.config.parsing import NORMALISATIONS
from utils.config.schema import KEYS, LOSSES, PEFT, SCHEMA
from utils.errors import ConfigError

__all__ = ["OUTPUT", "Config", "config_names", "help_text", "load_config", "training_options"]


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


def load_config(
    data: str, backbone: str | None, method: str, options: list[str], warn: Callable[[str], None] = lambda line: None
) -> Config:
    """The frozen configuration of `-d data -b backbone -m method KEY VALUE ...`, checked, its output_dir resolved.

    Without a backbone, `method` is a model of LIFT's. `warn` gets a line for names of LIFT's, and for options of
    methods and losses that are not used. Raises ConfigError.
    """
    layers = [Layer("", {name: key.default for name, key in KEYS.items()})]
    layers += [Layer("", LIFT_DEFAULTS)] if backbone is None else []
    described = set()  # keys that the backbone's file sets, but for the weights of another file or option
    for path, content in read_files(data, backbone, method):
        described = set(content) if path.parent.name == "backbone" else described - set(content)
        layers.append(Layer(f"{path.parent.name}/{path.name}: ", content))
    if len(options) % 2:
        near = next((text for text in options if "=" in text), None)
        hint = f"; write '{near.replace('=', ' ', 1)}'" if near else ""
        raise ConfigError(f"options come as KEY VALUE pairs, but '{options[-1]}' stands alone{hint}")
    for name in {"dataset", "backbone"} & set(options[::2]):
        raise ConfigError(f"{name} is chosen by {'-d' if name == 'dataset' else '-b'}, not by an option")
    before, _ = merge(layers)
    layers.append(Layer("", last_of_each(options)))
    values, given = merge(layers, warn)
    if backbone is None:
        finish(values, given, warn)
    _describe_other_weights(values, described, given)
    check(values)
    for name in given:
        reason = _no_effect(name, values)
        if reason and values[name] != before[name]:
            warn(f"{name} has no effect while {reason}")
    if values["tte"] and values["tte_draws"] and "expand" in given:
        warn("expand has no effect on tte_draws, which are cut from the whole image")
    if values["seed"] is None:
        values["seed"] = _draw_seed(values, warn)
    if values["model_dir"] and not os.path.isdir(values["model_dir"]) and (OUTPUT / values["model_dir"]).is_dir():
        values["model_dir"] = str(OUTPUT / values["model_dir"])
    name = "_".join(part for part in (data, backbone, method) if part)
    values["output_dir"] = str(run_directory(name, before, values))
    return _freeze(values)


def _describe_other_weights(values: dict[str, Any], described: set[str], given: dict[str, None]) -> None:
    """Leaves mean and std to the description of the weights, where they were those of the backbone's own weights.

    described: the keys that the backbone's file alone sets; given: those of the command line. The mean of a known
    normalisation brings its std, and the reverse.
    """
    if values["weights"] and "weights" not in described:
        for key in {"mean", "std"} & described - set(given):
            values[key] = None
    for constants in NORMALISATIONS.values():
        pair = dict(zip(("mean", "std"), constants, strict=True))
        for key, other in (("mean", "std"), ("std", "mean")):
            if values[key] == pair[key] and (values[other] is None or (key in given and other not in given)):
                values[other] = pair[other]


def _no_effect(name: str, values: dict[str, Any]) -> str | None:
    """Why an option of a method or of a loss is not read: "v.lora is False", "loss_type is CE"; None if it is."""
    owner = _owner(name)
    if owner and not values[owner]:
        return f"{owner} is False"
    loss = next((loss for loss, keys in LOSSES.items() if name in keys), values["loss_type"])
    return None if loss == values["loss_type"] else f"loss_type is {values['loss_type']}"


def _owner(name: str) -> str | None:
    """The switch that an option of a method belongs to: v.lora_mlp of v.lora_mlp_dim; None for any other key."""
    tower, _, key = name.partition(".")
    methods = [m for m in PEFT if PEFT[m].kind == "bool"]
    owners = [m for m in methods if key.startswith(f"{m}_") and key not in methods]
    return f"{tower}.{max(owners, key=len)}" if owners else None


def _draw_seed(values: dict[str, Any], warn: Callable[[str], None]) -> int:
    testing = values["test_only"] or values["test_train"]
    if testing and not values["model_dir"]:
        raise ConfigError(
            "seed None is another seed each time, so no run can be found; give its seed, or model_dir DIR"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("seed None would draw another seed in each process; give a seed")
    seed = secrets.randbelow(2**31)
    warn(f"seed None: this run draws seed {seed}; 'seed {seed}' resumes, tests or repeats it")
    return seed


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


def training_options(cfg: Config) -> dict[str, Any]:
    """The values, by key, of what changes training: two runs may continue one another only if these agree."""
    flat = dict(flatten(cfg))
    changing = {name: flat[name] for name, key in KEYS.items() if key.names_run} | {"dataset": cfg.dataset}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changing.items()}


def help_text() -> str:
    """Every key with default and meaning, by group, from the schema itself."""
    lines = []
    for group, keys in SCHEMA.items():
        lines.append(f"\n{group}:")
        for name, key in keys.items():
            choices = f" [{'|'.join(map(str, key.choices))}]" if key.choices else ""
            lines.append(f"  {name:24}{str(key.default):18} {key.help}{choices}")
    defaults = ", ".join(f"{name} {value}" for name, value in LIFT_DEFAULTS.items())
    lines.append(f"\nLIFT's form (-m MODEL without -b) begins with {defaults}\nLIFT's names, read as:")
    lines += [f"  {name:24}{lift.key.help}" for name, lift in LIFT_KEYS.items()]
    return "\n".join(lines)
