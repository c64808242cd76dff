"""PEL's names of keys, which stay valid: each is read as keys of ours, and the command line says so in one line.

python main.py -d cifar100_ir100 -m clip_vit_b16_peft micro_batch_size 32 full_tuning False
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from utils.schema import PRECISIONS, Key

SYNONYMS = {"tte_expand": "expand"}  # LIFT+'s own second names, read without a word


class PelName(NamedTuple):
    """What a name of PEL's takes, and `read(value, values)`: our keys and values for it, given all the others."""

    key: Key
    read: Callable[[Any, dict[str, Any]], dict[str, Any]]


def _flag(name: str) -> PelName:
    return PelName(Key(False, "bool", f"{name} True or False"), lambda on, values: {name: on})


def _renamed(name: str, kind: str, least: float) -> PelName:
    return PelName(Key(None, kind, name, least=least), lambda value, values: {name: value})


def _precision(value: str, values: dict) -> dict:
    return {"prec_train": value} | ({} if value == "amp" else {"prec_test": value})


def _accum_step(size: int | None, values: dict) -> dict:
    if size is None:
        return {"accum_step": None}
    if values["batch_size"] % size:
        raise ValueError(f"it must divide batch_size, which is {values['batch_size']}")
    return {"accum_step": values["batch_size"] // size}


def _head_init(value: str | None, values: dict) -> dict:
    if value and value.endswith("_shot"):
        return {"classifier_init": "class_mean", "classifier_init_images": int(value.removesuffix("_shot"))}
    return {"classifier_init": {"text_feat": "semantic", "linear_probe": "linear_probing"}.get(value, value)}


def _prompts(layers: tuple[int, ...] | None) -> PelName:
    """VPT's two forms: prompts in the first block, or in every one."""
    key = Key(False, "bool", f"v.pt in {'all blocks' if layers is None else 'the first block'}")
    return PelName(key, lambda on, values: {"v.pt": True, "v.pt_layers": layers} if on else {})


def _width(value: int, values: dict) -> dict:
    sizes = {f"v.{name}_dim": value for name in ("lora", "adapter", "adaptformer") if values[f"v.{name}"]}
    if not sizes:
        raise ValueError("it is the width of adapter, adaptformer or lora, and none of them is on")
    return sizes


def _ssf(place: str, other: str) -> PelName:
    def read(on: bool, values: dict) -> dict:
        both = values["v.ssf"] and values["v.ssf_loc"] == other
        return {"v.ssf": True, "v.ssf_loc": "all" if both else place} if on else {}

    return PelName(Key(False, "bool", f"v.ssf with v.ssf_loc {place}; both: all"), read)


def _last_blocks(count: int | None, values: dict) -> dict:
    return {"v.fft": True, "v.fft_layers": count} if count else {}


INITS = ("text_feat", "class_mean", "linear_probe", "1_shot", "10_shot", "100_shot")
PEL_NAMES: dict[str, PelName] = {  # in the order in which they are read
    "prec": PelName(Key(None, "str", "prec_train, and prec_test unless amp", ("amp", *PRECISIONS)), _precision),
    "micro_batch_size": PelName(Key(None, "int", "accum_step = batch_size / this", least=1), _accum_step),
    "scale": _renamed("classifier_scale", "float", 0),
    "init_head": PelName(Key(None, "str", "classifier_init, and classifier_init_images", INITS), _head_init),
    "full_tuning": _flag("v.fft"),
    "bias_tuning": _flag("v.bitfit"),
    "ln_tuning": _flag("v.ln_tuning"),
    "vpt_shallow": _prompts((0,)),
    "vpt_deep": _prompts(None),
    "vpt_len": _renamed("v.pt_len", "int", 1),
    "adapter": _flag("v.adapter"),
    "adaptformer": _flag("v.adaptformer"),
    "lora": _flag("v.lora"),
    "adapter_dim": PelName(Key(None, "int", "the width of whichever of these three is on", least=1), _width),
    "ssf_attn": _ssf("attn", other="mlp"),
    "ssf_mlp": _ssf("mlp", other="attn"),
    "mask": _flag("v.aft"),
    "mask_ratio": PelName(Key(None, "float", "v.aft_ratio", least=0, most=1), lambda r, _: {"v.aft_ratio": r}),
    "partial": PelName(Key(None, "int", "v.fft with v.fft_layers: the last blocks", least=0), _last_blocks),
    "test_ensemble": _flag("tte"),
}
