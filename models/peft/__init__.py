"""The fine-tuning methods: a table, in the order in which they are attached to a tower.

A method is one file with `attach(blocks, *its own options)`, one row here, and one in utils/schema.py. It fills a slot
of the block or wraps one of its layers, and whatever has requires_grad afterwards is trained: there is no other mark.

The two papers differ in some first values, draws and automatic sizes: METHODS and RESNET_METHODS are LIFT+'s (arXiv
2504.13282), LIFT and RESNET_LIFT those of LIFT (arXiv 2309.10019).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from models.backbones.resnet import ResNet
from models.backbones.transformer import Block
from models.peft import adapter, adaptformer, aft, bitfit, bn_tuning, fft, ln_tuning, lora, lora_mlp, pt, ssf, ssf_ln
from utils.errors import ModelError


def automatic_size(share: int) -> Callable[[int, Sequence[Block]], int]:
    """(C, blocks) -> 2^floor(log2(C / (share * blocks))), at least 1: more classes get wider modules."""

    def size(num_classes: int, blocks: Sequence[Block]) -> int:
        return 1 << max((num_classes // (share * len(blocks))).bit_length() - 1, 0)

    return size


class Method(NamedTuple):
    """`attach(blocks, *options)` changes the blocks in place; of a ResNet, `attach(tower, *options)` the tower.

    own: the method's own options, whose keys in the configuration are METHOD_OPTION; the first may have an automatic
    value, `automatic(num_classes, blocks, *the other options)`. The blocks that it counts are those of the method,
    or in LIFT's table all blocks of the tower.
    start: called after `attach` as `start(tower, blocks)`, it draws other first values.
    """

    attach: Callable[..., None]
    own: tuple[str, ...] = ()
    automatic: Callable[..., Any] | None = None
    start: Callable[[nn.Module, Sequence[Block]], None] | None = None


METHODS: dict[str, Method] = {
    "fft": Method(fft.attach),
    "bitfit": Method(bitfit.attach),
    "ln_tuning": Method(ln_tuning.attach),
    "pt": Method(pt.attach, ("len",), automatic_size(share=1)),
    "lora": Method(lora.attach, ("dim",), automatic_size(share=4)),
    "lora_mlp": Method(lora_mlp.attach, ("dim",), automatic_size(share=4)),
    "adapter": Method(adapter.attach, ("dim",), automatic_size(share=2)),
    "adaptformer": Method(adaptformer.attach, ("dim",), automatic_size(share=2)),
    "ssf": Method(ssf.attach, ("loc",)),
    "ssf_ln": Method(ssf_ln.attach),
    "aft": Method(aft.attach, ("ratio", "loc", "seed"), aft.automatic_ratio),
}
LIFT: dict[str, Method] = METHODS | {
    "pt": Method(pt.attach, ("len",), lambda num_classes, blocks: pt.LIFT_LENGTH, pt.start_uniform),
    "lora": METHODS["lora"]._replace(automatic=automatic_size(share=2)),
    "lora_mlp": METHODS["lora_mlp"]._replace(automatic=automatic_size(share=2)),
    "adapter": METHODS["adapter"]._replace(start=adapter.start_normal),
    "adaptformer": METHODS["adaptformer"]._replace(start=adaptformer.start_normal),
    "aft": Method(aft.attach_lift, ("ratio", "loc", "seed"), aft.automatic_ratio_lift),
}
RESNET_METHODS: dict[str, Method] = {
    "fft": Method(fft.attach_resnet),
    "bitfit": Method(bitfit.attach_resnet),
    "ssf": Method(ssf.attach_resnet, ("loc",)),
    "bn_tuning": Method(bn_tuning.attach),
}
RESNET_LIFT: dict[str, Method] = RESNET_METHODS | {
    "fft": Method(fft.attach_whole_resnet),
    "bitfit": Method(bitfit.attach_whole_resnet),
}
VARIANTS = {"lift+": (METHODS, RESNET_METHODS), "lift": (LIFT, RESNET_LIFT)}


def attach(tower: nn.Module, options: dict, num_classes: int, variant: str = "lift+") -> None:
    """Freezes `tower` and attaches every method that `options` switches on, in the order of the table.

    options: {METHOD: bool, METHOD_layers: None | int | list, METHOD_OPTION: value}, as under `v.` and `l.` in the
    configuration. variant: whose first values, draws and automatic sizes, "lift+" or "lift".
    The tower keeps `variant` and `attached`, {METHOD: the numbers of its blocks}, on which the names in a checkpoint
    of LIFT depend (models/lift_checkpoint.py). Raises ModelError, before anything is attached.
    """
    of_blocks, of_resnets = VARIANTS[variant]
    resnet = isinstance(tower, ResNet)
    methods = of_resnets if resnet else of_blocks
    _check([name for name in METHODS | RESNET_METHODS if options.get(name)], options, methods, resnet)
    chosen = [name for name in methods if options.get(name)]
    layers = {name: [] if resnet else _layers(tower, name, options) for name in chosen}
    tower.requires_grad_(False)
    tower.variant, tower.attached = variant, layers
    for name in chosen:
        method = methods[name]
        own = [options.get(f"{name}_{option}") for option in method.own]
        if resnet:
            method.attach(tower, *own)
        elif layers[name]:
            blocks = [tower.blocks[i] for i in layers[name]]
            if method.automatic and own[0] is None:
                counted = list(tower.blocks) if variant == "lift" else blocks
                own[0] = method.automatic(num_classes, counted, *own[1:])
            method.attach(blocks, *own)
            if method.start:
                method.start(tower, blocks)


def _check(chosen: list[str], options: dict, methods: dict[str, Method], resnet: bool) -> None:
    """Raises ModelError for a method that the tower cannot take."""
    for name in chosen:
        if name not in methods and resnet:
            raise ModelError(f"{name} needs a transformer; a ResNet takes {', '.join(methods)}, or a head alone")
        if name not in methods:
            raise ModelError(f"{name} needs a ResNet; a transformer takes {', '.join(methods)}, or a head alone")
        if resnet and options.get(f"{name}_layers") is not None:
            raise ModelError(f"{name}_layers counts the blocks of a transformer; leave it out for a ResNet")


def _layers(tower: nn.Module, name: str, options: dict) -> list[int]:
    return select_layers(len(tower.blocks), options.get(f"{name}_layers"), name)


def select_layers(depth: int, layers: int | Sequence[int] | None, name: str = "method") -> list[int]:
    """The block numbers that `layers` means: None = all, k = the last k, a list = those. Raises ModelError."""
    if layers is None:
        return list(range(depth))
    last = isinstance(layers, int)
    if not 0 <= layers <= depth if last else any(index not in range(depth) for index in layers):
        raise ModelError(f"{name}_layers {layers} does not fit: the tower has {depth} blocks, numbered from 0")
    return list(range(depth - layers, depth)) if last else sorted(set(layers))
