"""LIFT's names of keys (first released as PEL), which stay valid: each is read as keys of ours.

    python main.py -d cifar100_ir100 -m clip_vit_b16 adaptformer True micro_batch_size 32

The form without -b computes LIFT's way where the two papers differ: `LIFT_DEFAULTS` come before the files of configs/,
and `finish` applies LIFT's rules between keys.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from utils.config.schema import PRECISIONS, Key

SYNONYMS = {"tte_expand": "expand"}  # LIFT+'s own second names
VALUE_SYNONYMS = {  # LIFT's spellings of values
    "classifier": {"L2NormedClassifier": "L2NormClassifier", "LayerNormedClassifier": "LayerNormClassifier"},
}
LIFT_DEFAULTS: dict[str, Any] = {
    "variant": "lift",
    "interpolation": "bilinear",
    "classifier_init_images": None,
    "expand": 24,  # 21 in the models with patches of 14 pixels
    "shot_groups": "ir100",
}
FIRST_BLOCK = (0,)
PROMPT_TOKENS = 10  # VPT's, where vpt_len is None


class LiftKey(NamedTuple):
    """What a name of LIFT's takes, and `read(value, values)`: our keys and values for it, given all the others."""

    key: Key
    read: Callable[[Any, dict[str, Any]], dict[str, Any]]


def _flag(name: str) -> LiftKey:
    return LiftKey(Key(False, "bool", f"{name} True or False"), lambda on, values: {name: on})


def _renamed(name: str, kind: str, **limits: float) -> LiftKey:
    return LiftKey(Key(None, kind, name, **limits), lambda value, values: {name: value})


def _unread(help: str) -> LiftKey:
    return LiftKey(Key(None, "str", f"nothing: {help}"), lambda value, values: {})


def _precision(value: str, values: dict) -> dict:
    return {"prec_train": value} | ({} if value == "amp" else {"prec_test": value})


def _accum_step(size: int | None, values: dict) -> dict:
    if size is None:
        return {"accum_step": None}
    if values["batch_size"] % size:
        raise ValueError(f"it must divide batch_size, which is {values['batch_size']}")
    return {"accum_step": values["batch_size"] // size}


INITS = {"text_feat": "semantic", "class_mean": "class_mean", "linear_probe": "linear_probing"}


def _head_init(value: str | None, values: dict) -> dict:
    if value in (None, "text_feat"):
        return {"classifier_init": INITS.get(value)}
    if value in INITS:
        return {"classifier_init": INITS[value], "classifier_init_images": None}
    shots = re.fullmatch(r"([1-9]\d*)_shot", value)
    if not shots:
        raise ValueError(f"it takes one of {', '.join(INITS)}, k_shot with a number k (10_shot), or None")
    return {"classifier_init": "class_mean", "classifier_init_images": int(shots[1])}


def _prompts(layers: tuple[int, ...] | None) -> LiftKey:
    """VPT's two forms: prompts in the first block, or in every one."""
    key = Key(False, "bool", f"v.pt in {'all blocks' if layers is None else 'the first block'}; vpt_len is 10")

    def read(on: bool, values: dict) -> dict:
        if on:
            return {"v.pt": True, "v.pt_layers": layers, "v.pt_len": values["v.pt_len"] or PROMPT_TOKENS}
        this_form = values["v.pt"] and (values["v.pt_layers"] == FIRST_BLOCK) == (layers == FIRST_BLOCK)
        return {"v.pt": False} if this_form else {}

    return LiftKey(key, read)


def _prompt_length(value: int | None, values: dict) -> dict:
    return {"v.pt_len": PROMPT_TOKENS if value is None else value}


def _width(value: int | None, values: dict) -> dict:
    return {f"v.{name}_dim": value for name in ("lora", "lora_mlp", "adapter", "adaptformer") if values[f"v.{name}"]}


def _ssf(place: str) -> LiftKey:
    """SSF on the Linears of the attention or of the MLP."""

    def read(on: bool, values: dict) -> dict:
        there = {"all": {"attn", "mlp"}}.get(values["v.ssf_loc"], {values["v.ssf_loc"]}) if values["v.ssf"] else set()
        there = there | {place} if on else there - {place}
        return {"v.ssf": True, "v.ssf_loc": there.pop() if len(there) == 1 else "all"} if there else {"v.ssf": False}

    return LiftKey(Key(False, "bool", f"v.ssf with v.ssf_loc {place}; both: all"), read)


# what `partial` limits; bias_tuning and ln_tuning take all blocks, vpt_shallow the first
PARTIAL = ("fft", "pt", "lora", "lora_mlp", "adapter", "adaptformer", "ssf", "ssf_ln", "aft")


def _partial(blocks: int | tuple[int, ...] | None, values: dict) -> dict:
    """None: all blocks; k: the last k; [a,b]: blocks a to b - 1."""
    if isinstance(blocks, tuple):
        blocks = tuple(range(*blocks)) or 0
    shallow = values["v.pt_layers"] == FIRST_BLOCK
    limited = [name for name in PARTIAL if values[f"v.{name}"] and not (name == "pt" and shallow)]
    return {f"v.{name}_layers": blocks for name in limited}


def _tte_mode(mode: str, values: dict) -> dict:
    if mode == "randaug":
        return {"tte_draws": 1}
    return {"tte_draws": None, "tte_crops": 10 if mode == "tencrop" else 5}


LIFT_KEYS: dict[str, LiftKey] = {  # in the order in which they are read
    "prec": LiftKey(Key(None, "str", "prec_train, and prec_test unless amp", ("amp", *PRECISIONS)), _precision),
    "micro_batch_size": LiftKey(Key(None, "int", "accum_step = batch_size / this", least=1), _accum_step),
    "scale": _renamed("classifier_scale", "float", least=0),
    "init_head": LiftKey(
        Key(None, "str", "classifier_init (text_feat, class_mean, linear_probe, k_shot), and classifier_init_images"),
        _head_init,
    ),
    "full_tuning": _flag("v.fft"),
    "bias_tuning": _flag("v.bitfit"),
    "ln_tuning": _flag("v.ln_tuning"),
    "bn_tuning": _flag("v.bn_tuning"),
    "vpt_shallow": _prompts(FIRST_BLOCK),
    "vpt_deep": _prompts(None),
    "vpt_len": LiftKey(Key(None, "int", "v.pt_len; None = 10", least=1), _prompt_length),
    "adapter": _flag("v.adapter"),
    "adaptformer": _flag("v.adaptformer"),
    "lora": _flag("v.lora"),
    "lora_mlp": _flag("v.lora_mlp"),
    "adapter_dim": LiftKey(Key(None, "int", "the width of whichever of these four is on", least=1), _width),
    "ssf_attn": _ssf("attn"),
    "ssf_mlp": _ssf("mlp"),
    "ssf_ln": _flag("v.ssf_ln"),
    "mask": _flag("v.aft"),
    "mask_ratio": _renamed("v.aft_ratio", "float", least=0, most=1),
    "mask_seed": LiftKey(Key(None, "int", "v.aft_seed; None = 0", least=0), lambda seed, _: {"v.aft_seed": seed or 0}),
    "partial": LiftKey(
        Key(None, "range", "the METHOD_layers of what is on: None = all, k = the last k, [a,b] = a to b - 1", least=0),
        _partial,
    ),
    "test_ensemble": _flag("tte"),
    "tte_mode": LiftKey(
        Key("fivecrop", "str", "tte_crops 5 or 10, or tte_draws randaug_times", ("fivecrop", "tencrop", "randaug")),
        _tte_mode,
    ),
    "randaug_times": LiftKey(
        Key(1, "int", "tte_draws, with tte_mode randaug", least=1),
        lambda times, values: {"tte_draws": times} if values["tte_draws"] else {},
    ),
    "imb_factor": _unread("LIFT never reads it, -d names the imbalance"),
    "adaptformer_scale": _unread("LIFT never reads it, the scale is learnt"),
}


def finish(values: dict[str, Any], given: Collection[str], warn: Callable[[str], None]) -> None:
    """LIFT's rules between keys, for the form without -b; `given`: the keys on the command line."""
    if not values["tte"]:
        if values["expand"] is not None and "expand" in given:
            warn("expand counts with tte True alone, as in LIFT; the one test crop is cut from resolution // 7 more")
        values["expand"] = None
    if values["zero_shot"] and values["prompt"] != "default":
        warn(f"prompt {values['prompt']} is not read by LIFT's zero-shot; the form with -b ... -m zs reads it")
        values["prompt"], values["prompt_file"] = "default", None
