"""Optimizers by name: `optimizer AdamW` on the command line chooses from OPTIMIZERS.

A row builds an optimizer of the trainable parameters, given the keywords lr, weight_decay and momentum. Its state is
saved and loaded generically; see utils/run/checkpoint.py.

On a GPU both optimizers here are torch's fused ones: a step is one kernel, which in fp16 checks on the device whether
the gradients are finite. For other optimizers torch's GradScaler checks that on the host, and waits in every step.
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
    """A class of torch.optim without the wrappers of its methods that import torch's compiler, which takes 2 s."""
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
        # torch 2.15 leaves momentum uninitialised if the first step is skipped, as in fp16
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
    """The `fused` of torch's optimizers: True on a GPU, None on a CPU, which leaves the choice to torch."""
    return all(parameter.device.type == "cuda" for parameter in parameters) or None


OPTIMIZERS: Table[Callable[..., Optimizer]] = Table(schema.OPTIMIZERS)
