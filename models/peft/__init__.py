"""The fine-tuning methods: a table, in the order in which they are attached to a tower.

A method is one file with `attach(blocks, *its own options)`, one row here, and one in utils/schema.py. It stands in a
block's slots or wraps one of its layers, and what it leaves with requires_grad is what trains: there is no other mark.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from models.backbone import ModelError
from models.peft import adapter, adaptformer, aft, bitfit, fft, ln_tuning, lora, pt, ssf
from models.resnet import ResNet
from models.transformer import Block


def automatic_size(share: int) -> Callable[[int, Sequence[Block]], int]:
    """(C, blocks) -> 2^floor(log2(C / (share * blocks))), at least 1: more classes get wider modules."""

    def size(num_classes: int, blocks: Sequence[Block]) -> int:
        return 1 << max((num_classes // (share * len(blocks))).bit_length() - 1, 0)

    return size


class Method(NamedTuple):
    """`attach(blocks, *options)` changes the blocks in place, `attach_resnet(tower, *options)` a ResNet if it can.

    own: the method's own options, whose keys in the configuration are METHOD_OPTION; the first may have an automatic
    value, `automatic(num_classes, blocks, *the other options)`.
    """

    attach: Callable[..., None]
    own: tuple[str, ...] = ()
    automatic: Callable[..., Any] | None = None
    attach_resnet: Callable[..., None] | None = None


METHODS: dict[str, Method] = {
    "fft": Method(fft.attach, attach_resnet=fft.attach_resnet),
    "bitfit": Method(bitfit.attach, attach_resnet=bitfit.attach_resnet),
    "ln_tuning": Method(ln_tuning.attach),
    "pt": Method(pt.attach, ("len",), automatic_size(share=1)),
    "lora": Method(lora.attach, ("dim",), automatic_size(share=4)),
    "adapter": Method(adapter.attach, ("dim",), automatic_size(share=2)),
    "adaptformer": Method(adaptformer.attach, ("dim",), automatic_size(share=2)),
    "ssf": Method(ssf.attach, ("loc",), attach_resnet=ssf.attach_resnet),
    "aft": Method(aft.attach, ("ratio", "loc", "seed"), aft.automatic_ratio),
}


def attach(tower: nn.Module, options: dict, num_classes: int) -> None:
    """Freezes `tower` and attaches every method that `options` switches on, in the order of METHODS.

    options: {METHOD: bool, METHOD_layers: None | int | list, METHOD_OPTION: value}, as under `v.` and `l.` in the
    configuration. Raises ModelError, before anything is attached.
    """
    chosen = [name for name in METHODS if options.get(name)]
    if isinstance(tower, ResNet):
        _check_resnet(chosen, options)
    layers = {} if isinstance(tower, ResNet) else {name: _blocks(tower, name, options) for name in chosen}
    tower.requires_grad_(False)
    for name in chosen:
        method = METHODS[name]
        own = [options.get(f"{name}_{option}") for option in method.own]
        if isinstance(tower, ResNet):
            method.attach_resnet(tower, *own)
        elif layers[name]:
            if method.automatic and own[0] is None:
                own[0] = method.automatic(num_classes, layers[name], *own[1:])
            method.attach(layers[name], *own)


def _check_resnet(chosen: list[str], options: dict) -> None:
    possible = [name for name, method in METHODS.items() if method.attach_resnet]
    for name in chosen:
        if name not in possible:
            raise ModelError(f"{name} needs a transformer; a ResNet takes {', '.join(possible)}, or a head alone")
        if options.get(f"{name}_layers") is not None:
            raise ModelError(f"{name}_layers counts the blocks of a transformer; leave it out for a ResNet")


def _blocks(tower: nn.Module, name: str, options: dict) -> list[Block]:
    return [tower.blocks[i] for i in select_layers(len(tower.blocks), options.get(f"{name}_layers"), name)]


def select_layers(depth: int, layers: int | Sequence[int] | None, name: str = "method") -> list[int]:
    """The block numbers that `layers` means: None = all, k = the last k, a list = those. Raises ModelError."""
    if layers is None:
        return list(range(depth))
    last = isinstance(layers, int)
    if not 0 <= layers <= depth if last else any(index not in range(depth) for index in layers):
        raise ModelError(f"{name}_layers {layers} does not fit: the tower has {depth} blocks, numbered from 0")
    return list(range(depth - layers, depth)) if last else sorted(set(layers))
