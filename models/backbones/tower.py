"""The base classes of the towers: all that the rest of the program relies on in any of them."""

import torch
from torch import nn


class Tower(nn.Module):
    """Maps its input to features [B, dim].

    Attaching fine-tuning methods (models/peft) sets `variant`, the paper whose starting values they have, and
    `attached`, the numbers of the blocks of each method.
    """

    dim: int
    variant: str
    attached: dict[str, list[int]]

    def set_precision(self, dtype: torch.dtype) -> None:
        """Computes in `dtype` from now on; does nothing in a tower that reads its precision from its weights."""


class ImageTower(Tower):
    """Maps normalised images [B, 3, resolution, resolution] to features [B, dim]."""

    resolution: int
