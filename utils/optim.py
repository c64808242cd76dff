"""Optimizers by name: `optimizer AdamW` on the command line chooses from OPTIMIZERS.

A row builds an optimizer of the trainable parameters, given the keywords lr, weight_decay and momentum. Its state is
saved and loaded generically; see utils/run/checkpoint.py.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from utils.config import schema
from utils.tables import Table


def without_compiler(optimizer: type[Optimizer]) -> type[Any]:
    """A class of torch.optim whose methods do not import torch's compiler, which takes 2 s, to keep it out of them."""
    names = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    plain = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    plain["step"] = torch.no_grad()(plain["step"])  # as torch's own wrapper
    return type(optimizer.__name__, (optimizer,), plain)


def sgd(parameters: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float) -> Optimizer:
    """SGD with momentum; weight decay is added to the gradient."""
    return without_compiler(torch.optim.SGD)(parameters, lr, momentum=momentum, weight_decay=weight_decay)


def adamw(parameters: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float) -> Optimizer:
    """AdamW with betas (0.9, 0.999) and decoupled weight decay (Loshchilov and Hutter 2019); momentum is not used."""
    return without_compiler(torch.optim.AdamW)(parameters, lr, betas=(0.9, 0.999), weight_decay=weight_decay)


OPTIMIZERS: Table[Callable[..., Optimizer]] = Table(schema.OPTIMIZERS)
