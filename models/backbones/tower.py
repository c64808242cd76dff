"""The base classes of the towers: the interface that the rest of the program relies on."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Tower(nn.Module):
    """Maps its input to features [B, dim].

    kind: "transformer" or "resnet"; a fine-tuning method accepts one or both. num_first: tokens of a transformer after
    which learnt ones are inserted. patch: side of an image's patches, pixels; None without patches.

    Attaching fine-tuning methods (models/peft) sets `variant`, the paper whose initial values they have, and
    `attached`, the numbers of the blocks of each method.
    """

    kind: str
    dim: int
    num_first: int = 1
    patch: int | None = None
    blocks: Any  # a sequence of modules; of a ResNet, the blocks of all stages
    stages: Any  # of a ResNet, sequences of its blocks
    variant: str
    attached: dict[str, list[int]]
    recomputes = False  # blocks in the backward pass: see models/checkpointing.py

    def run_block(self, block: nn.Module, x: Tensor, **options: Any) -> Tensor:
        """block(x, ...). With `recomputes` its gradients are those of a second computation, so x alone is saved.

        A block through which no gradient flows, such as those before the first trainable one, is computed once.
        """
        if not (self.recomputes and torch.is_grad_enabled()):
            return block(x, **options)
        if not (x.requires_grad or any(parameter.requires_grad for parameter in block.parameters())):
            return block(x, **options)
        return checkpoint(block, x, use_reentrant=False, **options)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Computes in `dtype` from now on; does nothing in a tower that reads its precision from its weights."""


class ImageTower(Tower):
    """Maps normalised images [B, 3, resolution, resolution] to features [B, dim]."""

    resolution: int

    @property
    def num_tokens(self) -> int:
        """Tokens of an image in a transformer, without those of fine-tuning methods."""
        raise NotImplementedError
