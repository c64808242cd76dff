"""The fine-tuning methods: a table, in the order in which they are attached to a tower.

A method is one file with `attach(blocks, size)`, one row here, and one in utils/schema.py. It stands in a block's slots
or wraps one of its Linears, and what it leaves with requires_grad is what trains: there is no other mark.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from models.backbone import ModelError
from models.peft import adaptformer, bitfit, fft, lora, pt
from models.transformer import Block


class Method(NamedTuple):
    """`attach(blocks, size)` changes the blocks in place; `size` is None for a method without one.

    `size_key` is the size's key in the configuration; `share` gives its automatic value, see `automatic_size`.
    """

    attach: Callable[[Sequence[Block], int | None], None]
    size_key: str | None = None
    share: int = 1


METHODS: dict[str, Method] = {
    "fft": Method(fft.attach),
    "bitfit": Method(bitfit.attach),
    "pt": Method(pt.attach, "pt_len", share=1),
    "lora": Method(lora.attach, "lora_dim", share=4),
    "adaptformer": Method(adaptformer.attach, "adaptformer_dim", share=2),
}


def attach(tower: nn.Module, options: dict, num_classes: int) -> None:
    """Freezes `tower` and attaches every method that `options` switches on, in the order of METHODS.

    options: {method: bool, method_layers: None | int | list, size_key: None | int}, as under `v.` in the configuration.
    """
    tower.requires_grad_(False)
    for name, method in METHODS.items():
        if not options.get(name):
            continue
        indices = select_layers(len(tower.blocks), options.get(f"{name}_layers"), name)
        size = options.get(method.size_key) if method.size_key else None
        if method.size_key and size is None and indices:
            size = automatic_size(num_classes, len(indices), method.share)
        method.attach([tower.blocks[i] for i in indices], size)


def select_layers(depth: int, layers: int | Sequence[int] | None, name: str = "method") -> list[int]:
    """The block numbers that `layers` means: None = all, k = the last k, a list = those. Raises ModelError."""
    if layers is None:
        return list(range(depth))
    last = isinstance(layers, int)
    if not 0 <= layers <= depth if last else any(index not in range(depth) for index in layers):
        raise ModelError(f"{name}_layers {layers} does not fit: the tower has {depth} blocks, numbered from 0")
    return list(range(depth - layers, depth)) if last else sorted(set(layers))


def automatic_size(num_classes: int, num_layers: int, share: int) -> int:
    """2^floor(log2(C / (share * layers))), at least 1: a task with more classes gets wider modules."""
    return 1 << max((num_classes // (share * num_layers)).bit_length() - 1, 0)
