"""Optimizers by name: `optimizer AdamW` on the command line chooses from OPTIMIZERS.

A row builds an optimizer of the trainable parameters, given the keywords lr, weight_decay and momentum. Its state is
saved and loaded generically; see utils/run/checkpoint.py.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from utils.config import schema
from utils.tables import Table


def sgd(parameters: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float) -> Optimizer:
    """SGD with momentum; weight decay is added to the gradient."""
    return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)


def adamw(parameters: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float) -> Optimizer:
    """AdamW with betas (0.9, 0.999) and decoupled weight decay (Loshchilov and Hutter 2019); momentum is not used."""
    return torch.optim.AdamW(parameters, lr, betas=(0.9, 0.999), weight_decay=weight_decay)


OPTIMIZERS: Table[Callable[..., Optimizer]] = Table(schema.OPTIMIZERS)
