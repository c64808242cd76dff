"""The configuration: the one function that merges and checks it. Its keys stand in schema.py.

    defaults < configs/data/DATA.yaml < configs/backbone/BACKBONE.yaml < configs/method/METHOD.yaml < KEY VALUE options
    PEL's form, without -b: configs/model/MODEL.yaml in place of the method, and the backbone is the one that it names

yacs stores, nests, freezes and dumps; what it would get wrong on the way in is done here: `lr 1` is a float, a key
whose default is None still has a type, a string is never evaluated, an unknown key names the nearest known one.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from utils.coerce import ConfigError, coerce
from utils.pel_names import PEL_NAMES, SYNONYMS
from utils.schema import KEYS, PEFT, SCHEMA

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OUTPUT = Path("output")
FLAGS = {"data": "-d", "backbone": "-b", "method": "-m", "model": "-m"}


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


def load_config(
    data: str, backbone: str | None, method: str, options: list[str], warn: Callable[[str], None] = lambda line: None
) -> Config:
    """The frozen configuration of `-d data -b backbone -m method KEY VALUE ...`, checked, its output_dir resolved.

    Without a backbone, `method` is a model of PEL's. `warn` is told of names of PEL's, and of sizes of methods that
    are off. Raises ConfigError.
    """
    values = {name: key.default for name, key in KEYS.items()}
    for path in _files(data, backbone, method):
        _merge(values, _flatten(_read_yaml(path)), where=f"{path.parent.name}/{path.name}: ")
    if len(options) % 2:
        near = next((text for text in options if "=" in text), None)
        hint = f"; write '{near.replace('=', ' ', 1)}'" if near else ""
        raise ConfigError(f"options come as KEY VALUE pairs, but '{options[-1]}' stands alone{hint}")
    for name in {"dataset", "backbone"} & set(options[::2]):
        raise ConfigError(f"{name} is chosen by {'-d' if name == 'dataset' else '-b'}, not by an option")
    before = dict(values)
    _merge(values, zip(options[::2], options[1::2], strict=True), warn=warn)
    check(values)
    for name in options[::2]:
        tower, _, key = name.partition(".")
        owner = next((m for m in PEFT if PEFT[m].kind == "bool" and key.startswith(f"{m}_")), None)
        if owner and not values[f"{tower}.{owner}"]:
            warn(f"{name} has no effect while {tower}.{owner} is False")
    if values["model_dir"] and not os.path.isdir(values["model_dir"]) and (OUTPUT / values["model_dir"]).is_dir():
        values["model_dir"] = str(OUTPUT / values["model_dir"])
    name = "_".join(part for part in (data, backbone, method) if part)
    values["output_dir"] = str(_run_directory(name, before, values))
    return _freeze(values)


def _files(data: str, backbone: str | None, method: str) -> list[Path]:
    """The files to merge, in order."""
    if backbone is not None:
        return [config_file("data", data), config_file("backbone", backbone), config_file("method", method)]
    if method in config_names("method") and method not in config_names("model"):
        raise ConfigError(f"-m {method} needs a backbone: -b {'|'.join(config_names('backbone'))}")
    model = config_file("model", method)
    return [config_file("data", data), config_file("backbone", _read_yaml(model)["backbone"]), model]


def _read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no 'key: value' lines, found '{content}'")
    room = {"data": "dataset", "backbone": "backbone", "model": "backbone"}.get(path.parent.name)
    if room and room not in content:
        raise ConfigError(f"{path} does not say which {room} it is for; add a line '{room}: NAME'")
    return content


def config_file(room: str, name: str) -> Path:
    """configs/ROOM/NAME.yaml; for an unknown name, a ConfigError with the choices."""
    choices = config_names(room)
    if name not in choices:
        pel = room == "method" and name in config_names("model")
        advice = "it is a model of PEL's form, so leave -b out" if pel else f"choose from {', '.join(choices)}"
        raise ConfigError(f"unknown {room} '{name}' in {FLAGS[room]}; {advice}")
    return CONFIGS / room / f"{name}.yaml"


def config_names(room: str) -> list[str]:
    """The names that -d, -b or -m takes: the files of configs/data, backbone, method or (PEL's form) model."""
    return sorted(path.stem for path in (CONFIGS / room).glob("*.yaml"))


def _flatten(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _merge(
    values: dict[str, Any],
    pairs: Iterable[tuple[str, Any]],
    where: str = "",
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Sets `values` by pairs of key and value; PEL's names last, as some of them depend on the other keys."""
    pel, given = {}, set()
    for name, value in pairs:
        name = SYNONYMS.get(name, name)
        given.add(name)
        if name in PEL_NAMES:
            pel[name] = coerce(name, PEL_NAMES[name].key, value, where)
        elif name in KEYS:
            values[name] = coerce(name, KEYS[name], value, where)
        else:
            near = difflib.get_close_matches(name, KEYS, 1, cutoff=0)[0]
            raise ConfigError(f"{where}unknown key '{name}'; did you mean '{near}'? --help lists all keys")
    for name in [name for name in PEL_NAMES if name in pel]:
        try:
            ours = PEL_NAMES[name].read(pel[name], values)
        except ValueError as error:
            raise ConfigError(f"{where}{name} {pel[name]}: {error}") from error
        for key, value in ours.items():
            value = coerce(key, KEYS[key], value, f"{where}{name} {pel[name]}: ")
            if key in given and value != values[key]:
                both = f"{name} {pel[name]} is {key} {value}, but {key} {values[key]} is given, too"
                raise ConfigError(f"{where}{both}; leave one of them out")
            values[key] = value
        read_as = ", ".join(f"{key} {value}" for key, value in ours.items()) or "nothing to do"
        warn(f"{name} {pel[name]} is PEL's name, read as: {read_as}")


def check(values: dict[str, Any]) -> None:
    """The rules between keys. Raises ConfigError."""
    if values["batch_size"] % (values["accum_step"] or 1):
        raise ConfigError(
            f"accum_step must divide batch_size, found accum_step {values['accum_step']} "
            f"and batch_size {values['batch_size']}; choose, say, accum_step {_divisor(values)}"
        )
    if values["loss_type"] == "LADE" and (values["accum_step"] != 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1):
        raise ConfigError(
            "loss_type LADE compares the images of a whole step, so it takes accum_step 1 and one process"
        )
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if values["v.bn_tuning"] and (values["accum_step"] != 1 or processes > 1):
        raise ConfigError(
            "v.bn_tuning normalises by the images of a whole step, so it takes accum_step 1 and one process; "
            f"found accum_step {values['accum_step']} and {processes} process{'es' if processes > 1 else ''}"
        )
    _check_what_trains(values)
    if values["mean"] is None or values["std"] is None or min(values["std"]) <= 0:
        raise ConfigError(
            f"mean and std take three numbers each, std above 0; found {values['mean']} and {values['std']}"
        )
    if values["model_dir"] and not (values["test_only"] or values["test_train"]):
        raise ConfigError("model_dir names a run to test; add test_only True (or test_train True)")


def _check_what_trains(values: dict[str, Any]) -> None:
    """Head, methods and text tower must fit together. Raises ConfigError."""
    switches = [name for name, key in KEYS.items() if key.kind == "bool" and values[name]]
    image = [name for name in switches if name.startswith("v.")]
    text = [name for name in switches if name.startswith("l.") or name in ("coop", "proj_tuning", "clip_adapter")]
    classifier = values["classifier"]
    if values["zero_shot"] and (classifier or image or text):
        extra = classifier or (image + text)[0]
        raise ConfigError(f"zero_shot trains nothing, but {extra} is set; leave one of the two out")
    if classifier and text:
        raise ConfigError(
            f"{text[0]} works on the class names' text features, which {classifier} does not read; "
            f"set classifier None, or leave {text[0]} out"
        )
    if not (values["zero_shot"] or classifier or image or text):
        raise ConfigError("nothing to train: set classifier, a method such as v.adaptformer True, or zero_shot True")
    if values["coop_init"] and (values["coop_ctx_len"], values["coop_cls_pos"]) != (4, "end"):
        raise ConfigError(
            "coop_init photo is the context of 'a photo of a NAME.', so it takes coop_ctx_len 4 and coop_cls_pos end; "
            f"found {values['coop_ctx_len']} and {values['coop_cls_pos']}"
        )


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
    if values["output_dir"]:
        return OUTPUT / values["output_dir"].removeprefix(f"{OUTPUT}/")
    if values["model_dir"]:
        return Path(values["model_dir"])
    for key, value in values.items():
        if KEYS[key].names_run and value != before[key]:
            value = "-".join(map(str, value)) if isinstance(value, tuple) else value
            name += f"_{key}_{value}"
    for key in ("train_list", "classnames"):
        if values[key] != before[key]:
            name += f"_{key}_{Path(values[key] or 'None').stem}"
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
            choices = f" [{'|'.join(map(str, key.choices))}]" if key.choices else ""
            lines.append(f"  {name:24}{str(key.default):18} {key.help}{choices}")
    lines.append("\nPEL's names, read as:")
    lines += [f"  {name:24}{pel.key.help}" for name, pel in PEL_NAMES.items()]
    return "\n".join(lines)
