"""The configuration: the one function that merges and checks it. Its keys stand in schema.py.

    defaults < configs/data/DATA.yaml < configs/backbone/BACKBONE.yaml < configs/method/METHOD.yaml < KEY VALUE options
    LIFT's form, without -b: configs/model/MODEL.yaml in place of the method, which names its backbone, too

yacs stores, nests, freezes and dumps; what it would get wrong on the way in is done here: `lr 1` is a float, a key
whose default is None still has a type, a string is never evaluated, an unknown key names the nearest known one.
"""

import difflib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from utils.coerce import NORMALISATIONS, ConfigError, coerce
from utils.lift_keys import LIFT_DEFAULTS, LIFT_KEYS, SYNONYMS, VALUE_SYNONYMS, finish
from utils.schema import KEYS, PEFT, SCHEMA

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OUTPUT = Path("output")
LONGEST_NAME = 200  # bytes of a run directory's name; file systems allow 255, and another run's name may follow
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

    Without a backbone, `method` is a model of LIFT's. `warn` gets a line for names of LIFT's, and for sizes of methods
    that are off. Raises ConfigError.
    """
    layers = [_Layer("", {name: key.default for name, key in KEYS.items()})]
    layers += [_Layer("", LIFT_DEFAULTS)] if backbone is None else []
    described = set()  # keys that the backbone's file sets, but for the weights of another file or option
    for path in _files(data, backbone, method):
        content = dict(_flatten(_read_yaml(path)))
        described = set(content) if path.parent.name == "backbone" else described - set(content)
        layers.append(_Layer(f"{path.parent.name}/{path.name}: ", content))
    if len(options) % 2:
        near = next((text for text in options if "=" in text), None)
        hint = f"; write '{near.replace('=', ' ', 1)}'" if near else ""
        raise ConfigError(f"options come as KEY VALUE pairs, but '{options[-1]}' stands alone{hint}")
    for name in {"dataset", "backbone"} & set(options[::2]):
        raise ConfigError(f"{name} is chosen by {'-d' if name == 'dataset' else '-b'}, not by an option")
    before, _ = _merge(layers)
    layers.append(_Layer("", _last_of_each(options)))
    values, given = _merge(layers, warn)
    if backbone is None:
        finish(values, given, warn)
    _describe_other_weights(values, described, given)
    check(values)
    for name in given:
        owner = _owner(name)
        if owner and not values[owner] and values[name] != before[name]:
            warn(f"{name} has no effect while {owner} is False")
    if values["tte"] and values["tte_draws"] and "expand" in given:
        warn("expand has no effect on tte_draws, which are cut from the whole image")
    if values["seed"] is None:
        values["seed"] = _draw_seed(values, warn)
    if values["model_dir"] and not os.path.isdir(values["model_dir"]) and (OUTPUT / values["model_dir"]).is_dir():
        values["model_dir"] = str(OUTPUT / values["model_dir"])
    name = "_".join(part for part in (data, backbone, method) if part)
    values["output_dir"] = str(_run_directory(name, before, values))
    return _freeze(values)


def _last_of_each(options: list[str]) -> dict[str, str]:
    """KEY VALUE pairs by key, in the order of what counts: of a key given twice, the last."""
    pairs: dict[str, str] = {}
    for name, value in zip(options[::2], options[1::2], strict=True):
        pairs.pop(name, None)
        pairs[name] = value
    return pairs


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
        lift = room == "method" and name in config_names("model")
        advice = "it is a model of LIFT's form, so leave -b out" if lift else f"choose from {', '.join(choices)}"
        raise ConfigError(f"unknown {room} '{name}' in {FLAGS[room]}; {advice}")
    return CONFIGS / room / f"{name}.yaml"


def config_names(room: str) -> list[str]:
    """The names that -d, -b or -m takes: the files of configs/data, backbone, method or (LIFT's form) model."""
    return sorted(path.stem for path in (CONFIGS / room).glob("*.yaml"))


def _flatten(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class _Layer(NamedTuple):
    """Keys and values of one file, or of the command line; later layers go before earlier ones."""

    where: str  # the file, for messages
    pairs: dict[str, Any]


def _merge(
    layers: list[_Layer], warn: Callable[[str], None] = lambda line: None
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
    if values["std"] is not None and min(values["std"]) <= 0:
        raise ConfigError(f"std takes three numbers above 0, found {values['std']}")
    _check_prompt(values)


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


def _check_prompt(values: dict[str, Any]) -> None:
    """Prompts other than the default are for texts that do not train. Raises ConfigError."""
    prompt = values["prompt"]
    if (prompt == "descriptor") != (values["prompt_file"] is not None):
        raise ConfigError(
            f"prompt descriptor reads its sentences from prompt_file FILE, and no other prompt does; "
            f"found prompt {prompt} and prompt_file {values['prompt_file']}"
        )
    semantic = values["classifier"] and values["classifier_init"] == "semantic"
    if prompt != "default" and not (values["zero_shot"] or semantic):
        raise ConfigError(
            f"prompt {prompt} is for zero_shot and for a classifier with classifier_init semantic; leave prompt out"
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
    if values["model_dir"] and (values["test_only"] or values["test_train"]):
        return Path(values["model_dir"])
    for key, value in values.items():
        from_weights = key in ("mean", "std") and value is None
        if KEYS[key].names_run and value != before[key] and not from_weights:
            value = _in_name(key, value)
            name += f"_{key}_{value}"
    for key in ("train_list", "classnames", "prompt_file"):
        if values[key] != before[key]:
            name += f"_{key}_{Path(values[key] or 'None').stem}"
    if _is_address(values["weights"]) and values["weights"] != before["weights"]:
        name += f"_weights_{values['weights']}"
    if values["model_dir"]:
        name += f"_from_{Path(values['model_dir']).name}"
    return OUTPUT / _short(re.sub(r"[^\w.+@=-]+", "-", name))


def _in_name(key: str, value: Any) -> Any:
    """The value of a key as a run directory's name shows it: of a known normalisation its name.

    [1], the block 1, ends in a dash; 1 is the last block. Prompts in block 0, VPT's usual form, are plain 0.
    """
    if key.endswith(".pt_layers") and value in (0, (0,)):
        return "none" if value == 0 else 0
    known = next((name for name, constants in NORMALISATIONS.items() if value in constants), None)
    if known or not isinstance(value, tuple):
        return known or value
    return f"{value[0]}-" if len(value) == 1 else "-".join(map(str, value))


def _short(name: str) -> str:
    """The name itself, or its beginning and a hash of it where it is longer than file systems allow."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}_{digest}"


def _is_address(weights: str | None) -> bool:
    """Published weights change the run and enter its name; the place of a file on disk does not."""
    return bool(weights) and weights.startswith(("timm:", "open_clip:"))


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
    defaults = ", ".join(f"{name} {value}" for name, value in LIFT_DEFAULTS.items())
    lines.append(f"\nLIFT's form (-m MODEL without -b) begins with {defaults}\nLIFT's names, read as:")
    lines += [f"  {name:24}{lift.key.help}" for name, lift in LIFT_KEYS.items()]
    return "\n".join(lines)
