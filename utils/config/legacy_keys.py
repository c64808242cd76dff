"""LIFT's names of keys, which stay valid: each is converted to keys of schema.py. LIFT was first released as PEL.

    python main.py -d cifar100_ir100 -m clip_vit_b16 adaptformer True micro_batch_size 32

The form without -b computes as LIFT does where the two papers differ: the files of configs/ override `LIFT_DEFAULTS`,
and `apply_lift_rules` applies LIFT's rules between keys.
"""

import math
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from utils.config.schema import PRECISIONS, Key, Kind

Values = dict[str, Any]  # by key
SYNONYMS = {"tte_expand": "expand"}  # LIFT+'s alternative names
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
    """A name of LIFT's."""

    key: Key  # its values; its help describes the conversion
    read: Callable[[Any, Values], Values]  # (value, values of all keys) -> keys of schema.py and values; or ValueError


def _flag(name: str) -> LiftKey:
    return LiftKey(Key(False, "bool", f"{name} True or False"), lambda on, values: {name: on})


def _renamed(name: str, kind: Kind, min: float, max: float = math.inf) -> LiftKey:
    return LiftKey(Key(None, kind, name, min=min, max=max), lambda value, values: {name: value})


def _unread(help: str) -> LiftKey:
    return LiftKey(Key(None, "str", f"no effect: {help}"), lambda value, values: {})


def _precision(value: str, values: Values) -> Values:
    return {"prec_train": value} | ({} if value == "amp" else {"prec_test": value})


def _accum_step(size: int | None, values: Values) -> Values:
    if size is None:
        return {"accum_step": None}
    if values["batch_size"] % size:
        raise ValueError(f"it must divide batch_size, which is {values['batch_size']}")
    return {"accum_step": values["batch_size"] // size}


INITS = {"text_feat": "semantic", "class_mean": "class_mean", "linear_probe": "linear_probing"}


def _head_init(value: str | None, values: Values) -> Values:
    if value is None:
        return {"classifier_init": None}
    if value == "text_feat":
        return {"classifier_init": INITS[value]}
    if value in INITS:
        return {"classifier_init": INITS[value], "classifier_init_images": None}
    shots = re.fullmatch(r"([1-9][0-9]{0,8})_shot", value)
    if not shots:
        raise ValueError(f"it must be one of {', '.join(INITS)}, k_shot with a number k (10_shot), or None")
    return {"classifier_init": "class_mean", "classifier_init_images": int(shots[1])}


def _prompts(layers: tuple[int, ...] | None) -> LiftKey:
    """VPT's two forms: prompts in the first block, or in all blocks."""
    key = Key(False, "bool", f"v.pt in {'all blocks' if layers is None else 'the first block'}; vpt_len is 10")

    def read(on: bool, values: Values) -> Values:
        if on:
            return {"v.pt": True, "v.pt_layers": layers, "v.pt_len": values["v.pt_len"] or PROMPT_TOKENS}
        this_form = values["v.pt"] and (values["v.pt_layers"] == FIRST_BLOCK) == (layers == FIRST_BLOCK)
        return {"v.pt": False} if this_form else {}

    return LiftKey(key, read)


def _width(value: int | None, values: Values) -> Values:
    return {f"v.{name}_dim": value for name in ("lora", "lora_mlp", "adapter", "adaptformer") if values[f"v.{name}"]}


def _ssf(linears: str) -> LiftKey:
    """SSF on the Linears of the attention (attn) or of the MLP (mlp)."""

    def read(on: bool, values: Values) -> Values:
        scaled = set()
        if values["v.ssf"]:
            scaled = {"attn", "mlp"} if values["v.ssf_loc"] == "all" else {values["v.ssf_loc"]}
        scaled = scaled | {linears} if on else scaled - {linears}
        if not scaled:
            return {"v.ssf": False}
        return {"v.ssf": True, "v.ssf_loc": scaled.pop() if len(scaled) == 1 else "all"}

    return LiftKey(Key(False, "bool", f"v.ssf with v.ssf_loc {linears}; all with both"), read)


# the methods that `partial` limits; bias_tuning and ln_tuning use all blocks, vpt_shallow the first
PARTIAL = ("fft", "pt", "lora", "lora_mlp", "adapter", "adaptformer", "ssf", "ssf_ln", "aft")


def _partial(blocks: int | tuple[int, ...] | None, values: Values) -> Values:
    """None: all blocks; k: the last k; [a,b]: blocks a to b - 1."""
    if isinstance(blocks, tuple):
        blocks = tuple(range(*blocks)) or 0
    shallow = values["v.pt_layers"] == FIRST_BLOCK
    limited = [name for name in PARTIAL if values[f"v.{name}"] and not (name == "pt" and shallow)]
    return {f"v.{name}_layers": blocks for name in limited}


def _tte_mode(mode: str, values: Values) -> Values:
    if mode == "randaug":
        return {"tte_draws": 1}
    return {"tte_draws": None, "tte_crops": 10 if mode == "tencrop" else 5}


LIFT_KEYS: dict[str, LiftKey] = {  # in the order in which they are read
    "prec": LiftKey(Key(None, "str", "prec_train, and prec_test unless amp", ("amp", *PRECISIONS)), _precision),
    "micro_batch_size": LiftKey(Key(None, "int", "accum_step = batch_size / this", min=1), _accum_step),
    "scale": _renamed("classifier_scale", "float", min=0),
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
    "vpt_len": LiftKey(
        Key(None, "int", "v.pt_len; None = 10", min=1),
        lambda length, values: {"v.pt_len": PROMPT_TOKENS if length is None else length},
    ),
    "adapter": _flag("v.adapter"),
    "adaptformer": _flag("v.adaptformer"),
    "lora": _flag("v.lora"),
    "lora_mlp": _flag("v.lora_mlp"),
    "adapter_dim": LiftKey(
        Key(None, "int", "v.METHOD_dim of the methods in use among lora, lora_mlp, adapter, adaptformer", min=1), _width
    ),
    "ssf_attn": _ssf("attn"),
    "ssf_mlp": _ssf("mlp"),
    "ssf_ln": _flag("v.ssf_ln"),
    "mask": _flag("v.aft"),
    "mask_ratio": _renamed("v.aft_ratio", "float", min=0, max=1),
    "mask_seed": LiftKey(Key(None, "int", "v.aft_seed; None = 0", min=0), lambda seed, _: {"v.aft_seed": seed or 0}),
    "partial": LiftKey(
        Key(
            None,
            "range",
            "v.METHOD_layers of the methods in use: None = all, k = the last k, [a,b] = a to b - 1",
            min=0,
        ),
        _partial,
    ),
    "test_ensemble": _flag("tte"),
    "tte_mode": LiftKey(
        Key("fivecrop", "str", "tte_crops 5 or 10, or tte_draws randaug_times", ("fivecrop", "tencrop", "randaug")),
        _tte_mode,
    ),
    "randaug_times": LiftKey(
        Key(1, "int", "tte_draws, with tte_mode randaug", min=1),
        lambda times, values: {"tte_draws": times} if values["tte_draws"] else {},
    ),
    "imb_factor": _unread("LIFT never reads it; -d sets the imbalance"),
    "adaptformer_scale": _unread("LIFT never reads it; the scale is learnt"),
}


def apply_lift_rules(values: Values, given: Collection[str], warn: Callable[[str], None]) -> None:
    """Applies LIFT's rules between keys, for the form without -b. given: the keys on the command line."""
    if not values["tte"]:
        if values["expand"] is not None and "expand" in given:
            warn(
                "expand has no effect without tte True, as in LIFT; images for a single crop are resized by resolution "
                "// 7 more"
            )
        values["expand"] = None
    if values["zero_shot"] and values["prompt"] != "default":
        warn(f"prompt {values['prompt']} has no effect on LIFT's zero-shot CLIP; the form with -b ... -m zs uses it")
        values["prompt"], values["prompt_file"] = "default", None
