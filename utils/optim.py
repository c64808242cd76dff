"""Optimizers by name: `optimizer AdamW` on the command line chooses from OPTIMIZERS.

A row builds an optimizer of the trainable parameters, given the keywords lr, weight_decay and momentum. Its state is
saved and loaded generically; see utils/run/checkpoint.py.

On a GPU both optimizers here are torch's fused ones: a step is one kernel, and in fp16 it reads on the device whether
the gradients are finite. With any other optimizer, torch's GradScaler waits for the device in every step to ask that.
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
    parameters = list(parameters)
    fused = _are_on_gpu(parameters)
    optimizer = without_compiler(torch.optim.SGD)(
        parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=fused
    )
    if fused and momentum:
        # torch 2.15 begins with uninitialised momentum, and leaves it so if the first step is skipped, as in fp16
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adamw(parameters: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float) -> Optimizer:
    """AdamW with betas (0.9, 0.999) and decoupled weight decay (Loshchilov and Hutter 2019, arXiv
    1711.05101); momentum is not used."""
    parameters = list(parameters)
    fused = _are_on_gpu(parameters)
    return without_compiler(torch.optim.AdamW)(
        parameters, lr, betas=(0.9, 0.999), weight_decay=weight_decay, fused=fused
    )


def _are_on_gpu(parameters: list[Tensor]) -> bool | None:
    """The `fused` of torch's optimizers: True on a GPU, None on a CPU, where it leaves the choice to torch."""
    return all(parameter.device.type == "cuda" for parameter in parameters) or None


OPTIMIZERS: Table[Callable[..., Optimizer]] = Table(schema.OPTIMIZERS)
