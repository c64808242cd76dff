"""The fine-tuning methods: a table, in the order in which they are attached.

A new method is one file, models/peft/NAME.py, that ends in `METHOD = Method(attach, Options)`, and one row, NAME, in
the METHODS of utils/config/schema.py, which has its keys: the switch NAME, and NAME_OPTION for each field of Options.

A method fills a slot of the block or wraps one of its layers. Whatever has requires_grad afterwards is trained.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from models.backbones.tower import Tower
from models.peft.method import BlockOptions, Method, Site
from utils.config import schema
from utils.errors import ModelError

METHODS: dict[str, Method] = {name: importlib.import_module(f"models.peft.{name}").METHOD for name in schema.METHODS}
HEAD_METHODS = schema.methods_of("head")  # of CLIP's own head


def attach(tower: Tower, methods: Mapping[str, Any], num_classes: int, variant: str = "lift+") -> None:
    """Freezes `tower` and attaches `methods` to it, in the order of the table.

    methods: by name, the options as a dict or as the method's Options: {"adaptformer": {"dim": 8, "layers": [0, 1]}}.
    variant: the paper whose initial values, draws and default sizes are used, "lift+" or "lift".
    Sets tower.variant and tower.attached, {name: numbers of its blocks}, which the names in LIFT's checkpoints depend
    on (models/weights/lift.py). Raises ModelError, before anything is changed.
    """
    chosen = choose(methods)
    # LIFT treats the whole network of a ResNet as one block, with stem and pooling
    blocks = [tower.net] if tower.kind == "resnet" and variant == "lift" else list(tower.blocks)
    for name in chosen:
        _require_target(name, tower)
    attached = {name: _layers(tower, len(blocks), name, options) for name, options in chosen.items()}
    tower.requires_grad_(False)
    tower.variant, tower.attached = variant, attached
    for name, options in chosen.items():
        if attached[name]:
            site: Site[Any] = Site(tower, [blocks[i] for i in attached[name]], num_classes, variant)
            METHODS[name].attach(site, options)


def attach_to_head(module: nn.Module, methods: Mapping[str, Any]) -> None:
    """Attaches to CLIP's head, or to its texts, those of `methods` that accept such a module. Raises ModelError."""
    for name, options in choose(methods).items():
        if module.kind in METHODS[name].targets:
            METHODS[name].attach(module, options)


def choose(methods: Mapping[str, Any]) -> dict[str, Any]:
    """The Options of `methods` by name, in the order of the table. Raises ModelError for an unknown name or option."""
    for name in methods:
        if name not in METHODS:
            raise ModelError(f"unknown method '{name}'; choose from {', '.join(METHODS)}", kind="unknown_method")
    return {name: _options(name, methods[name]) for name in METHODS if name in methods}


def methods_from_keys(keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The methods that configuration keys switch on: {"lora": True, "lora_dim": 4} -> {"lora": {"dim": 4}}."""
    return {
        name: {option: keys[f"{name}_{option}"] for option in _names(name) if f"{name}_{option}" in keys}
        for name in METHODS
        if keys.get(name)
    }


def _names(name: str) -> list[str]:
    return [field.name for field in dataclasses.fields(METHODS[name].Options)]


def _options(name: str, given: Any) -> Any:
    """The Options of a method, from a dict or as they are. Raises ModelError for an unknown option."""
    if not isinstance(given, Mapping):
        return given
    for option in given:
        if option not in _names(name):
            known = ", ".join(_names(name)) or "none"
            raise ModelError(f"{name} has no option '{option}'; its options: {known}", kind="unknown_option")
    return METHODS[name].Options(**given)


def _require_target(name: str, tower: Tower) -> None:
    """Raises ModelError if the method does not accept this kind of tower."""
    if tower.kind in METHODS[name].targets:
        return
    kind, other = ("ResNet", "transformer") if tower.kind == "resnet" else ("transformer", "ResNet")
    known = ", ".join(name for name, method in METHODS.items() if tower.kind in method.targets)
    needed = "CLIP's own head" if name in HEAD_METHODS else f"a {other}"
    raise ModelError(f"{name} needs {needed}; a {kind} accepts {known}, or a head alone", kind="method_of_other_tower")


def _layers(tower: Tower, depth: int, name: str, options: Any) -> list[int]:
    """The numbers of the blocks that the method attaches to. Raises ModelError."""
    layers = options.layers if isinstance(options, BlockOptions) else None
    if layers is not None and tower.kind == "resnet":
        message = f"{name}_layers counts the blocks of a transformer; leave it out for a ResNet"
        raise ModelError(message, kind="layers_of_a_resnet", key=f"{name}_layers")
    return select_layers(depth, layers, name)


def select_layers(depth: int, layers: int | Sequence[int] | None, name: str = "method") -> list[int]:
    """The block numbers for `layers`: None = all, k = the last k, a list = those. Raises ModelError."""
    if layers is None:
        return list(range(depth))
    numbers = list(range(depth - layers, depth)) if isinstance(layers, int) else sorted(set(layers))
    if numbers != [number for number in numbers if 0 <= number < depth] or (isinstance(layers, int) and layers < 0):
        message = f"{name}_layers {layers} does not fit: the tower has {depth} blocks, numbered from 0"
        raise ModelError(message, kind="layers_out_of_range", key=f"{name}_layers")
    return numbers
