"""The interface of every fine-tuning method: its options by name, and a function that attaches it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from torch import nn

from models.backbones.tower import Tower

AnyBlock = TypeVar("AnyBlock", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """Options of a method that attaches to blocks; each method adds its own.

    layers: numbers of the blocks. None = all, k = the last k, a list = those.
    """

    layers: int | Sequence[int] | None = None


@dataclasses.dataclass(frozen=True)
class SizedOptions(BlockOptions):
    """dim: width of a bottleneck or rank of an update; None = by the numbers of classes and blocks."""

    dim: int | None = None


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Options of a method that has none."""


@dataclasses.dataclass(frozen=True)
class Site(Generic[AnyBlock]):
    """Where a method attaches: these `blocks` of a tower.

    variant: the paper whose initial values, draws and default sizes are used, "lift+" (arXiv 2504.13282) or "lift"
    (arXiv 2309.10019).
    """

    tower: Tower
    blocks: Sequence[AnyBlock]
    num_classes: int
    variant: str = "lift+"

    @property
    def counted_blocks(self) -> int:
        """The number of blocks for default sizes: the method's, or in LIFT all blocks of the tower."""
        return len(self.tower.blocks) if self.variant == "lift" else len(self.blocks)

    def default_size(self, share: int) -> int:
        """The default width of a module; see the function of this name."""
        return default_size(self.num_classes, self.counted_blocks, share)


class Method(NamedTuple):
    """`attach(site, options)` changes the blocks of the site in place; whatever has requires_grad then is trained.

    A method of CLIP's own head is called as `attach(target, options)`, with a module of a kind in `targets`.

    Options: a frozen dataclass, whose fields are the options by name, with defaults.
    targets: the kinds of modules that the method accepts: "transformer" and "resnet" (towers), "head" (CLIP's own) and
    "texts" (its texts).
    folds: whether a tower with it is equal to a bare one with other weights. Then each module that it wraps around a
    layer has a function `fold` from the layer's weight and bias to those of one layer that computes the same; see
    models/peft/folding.py.
    """

    attach: Callable[[Any, Any], None]
    Options: type
    targets: tuple[str, ...] = ("transformer",)
    folds: bool = False


def default_size(num_classes: int, num_blocks: int, share: int) -> int:
    """2^floor(log2(C / (share * blocks))), at least 1: more classes get wider modules."""
    return 1 << max((num_classes // (share * num_blocks)).bit_length() - 1, 0)
