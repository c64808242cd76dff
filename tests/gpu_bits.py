"""The gradients of one step, and whether two computations of them have the same bits.

tests/gpu/test_card.py computes the bits in a separate process, as cuBLAS reads its settings once, when it starts.
"""

import torch
from fake_gpu import NAMES, model_with
from torch import Tensor

from models.backbones import kernels
from models.losses import LOSSES
from models.peft import METHODS
from models.precision import FrozenWeights
from utils.run.checkpoint import trainable_tensors

Tensors = dict[str, Tensor]


def differing(device: str) -> list[str]:
    """The methods, and the precisions of attention, of which two passes over the same numbers differ in a bit."""
    passes = {method: lambda name=method: gradients(name, device, torch.bfloat16, count=64) for method in METHODS}
    passes |= {
        f"attention, {dtype}": lambda dtype=dtype: attention(device, dtype) for dtype in (torch.bfloat16, torch.float)
    }
    return [name for name, compute in passes.items() if not _same(compute(), compute())]


def gradients(
    method: str, device: str | torch.device, precision: torch.dtype = torch.float32, count: int = 6
) -> Tensors:
    """The gradients of the loss of a step of `count` images, by name, on the CPU. All numbers follow from a seed."""
    torch.manual_seed(0)
    model = model_with(method)
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():  # none is zero, and so no gradient
            parameter.add_(0.1 * torch.randn_like(parameter))
    FrozenWeights(model, precision)
    model.to(device).train()
    images = torch.randint(256, (count, 3, *[model.tower.resolution] * 2), dtype=torch.uint8)
    labels = torch.arange(count) % len(NAMES)
    loss = LOSSES["LA"](torch.tensor([9, 4, 1])).to(device)
    loss(model(images.to(device)), labels.to(device)).sum().backward()
    return {name: parameter.grad.cpu() for name, parameter in trainable_tensors(model).items()}


def attention(device: str | torch.device, dtype: torch.dtype) -> Tensors:
    """The gradients of attention over many tokens, so that several blocks of threads add to one number."""
    torch.manual_seed(0)
    parts = [torch.randn(4, 4, 600, 64).to(device, dtype).requires_grad_() for _ in range(3)]
    kernels.attend(*parts).float().square().sum().backward()
    return {name: part.grad.cpu() for name, part in zip("qkv", parts, strict=True)}


def _same(first: Tensors, second: Tensors) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)
