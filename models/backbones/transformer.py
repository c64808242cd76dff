"""The transformer block that every tower is made of, image and text.

A block is pre-norm: x + attention(norm1(x)), then x + mlp(norm2(x)). Architectures differ in optional parts: a rotation
of queries and keys by the patches' positions, a norm before the attention's projection, a gated MLP, a norm between the
MLP's Linears. LayerScale is folded into `proj` and `fc2`, and absent biases are zeros (models/weights/folding.py).

The rest of the project relies on two conventions:

* Every layer computes in the precision of its input. A frozen weight is stored in that precision, so its cast is
  free; a trainable weight is stored in float32 and cast where it is used, so its gradient arrives in float32.
* A block has two slots, `prompt` and `side`, for fine-tuning methods. Empty slots cost nothing. A method that wraps a
  layer stores it as `wrapped`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import kernels
from models.backbones.int8 import Int8Linear


class Linear(nn.Linear):
    """x W^T + b, then an activation if one is given, in the precision of x. [..., in] -> [..., out].

    int8: if set, computes the product where no gradient is needed (models/precision.py). in_parts: a method computes
    with `weight` and trainable entries itself, and this forward is not called.
    """

    int8: Int8Linear | None = None
    in_parts = False

    def forward(self, x: Tensor, activation: nn.Module | None = None) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.int8 is not None and kernels.fast() and not torch.is_grad_enabled():
            x = self.int8(x, bias)
            return x if activation is None else activation(x)
        return kernels.linear(x, self.weight.to(x.dtype), bias, activation)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm that computes in the precision of its input (its statistics are float32 in any case)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation that OpenAI trained CLIP with."""

    def forward(self, x: Tensor) -> Tensor:
        return kernels.quick_gelu(x)


class Zero(nn.Module):
    """An empty parallel slot: adds zero."""

    def forward(self, x: Tensor) -> int:
        return 0


class NoRotation(nn.Module):
    """An empty rotation slot: queries and keys are unchanged."""

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "quick_gelu": QuickGELU,
    "gelu": nn.GELU,
    "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
}


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017). [B, N, D] -> [B, N, D], or [B, 1, D] with `first_only`.

    `rotate` is applied to queries and keys, [B, heads, N, D / heads] each, `inner` to the attended values before the
    projection.
    """

    def __init__(self, dim: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv: nn.Module = Linear(dim, 3 * dim)
        self.rotate: nn.Module = NoRotation()
        self.inner: nn.Module = nn.Identity()
        self.proj: nn.Module = Linear(dim, dim)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.rotate(q, k)
        if first_only:
            q = q[:, :, :1]
        x = kernels.attend(q, k, v, self.causal)
        return self.proj(self.inner(x.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """fc2(inner(act(fc1(x)))), `hidden` wide between the Linears. [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, hidden: int, activation: nn.Module):
        super().__init__()
        self.fc1: nn.Module = Linear(dim, hidden)
        self.act = activation
        self.inner: nn.Module = nn.Identity()
        self.fc2: nn.Module = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.inner(self.activated(x)))

    def activated(self, x: Tensor) -> Tensor:
        """act(fc1(x)), in one pass if no method wraps fc1."""
        return self.fc1(x, self.act) if isinstance(self.fc1, Linear) else self.act(self.fc1(x))


class GatedMlp(Mlp):
    """fc2(inner(act(gate) * value)), [gate | value] = fc1(x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int, activation: nn.Module):
        super().__init__(dim, hidden, activation)
        self.fc1 = Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.inner(self.act(gate) * value))


class Block(nn.Module):
    """Pre-norm transformer block. [B, N, D] -> [B, N, D], or another N where `prompt` changes the tokens.

    `prompt` is a slot in series before the attention, `side` one in parallel to the MLP. With `first_only` the block
    returns its first token alone, [B, 1, D]: all tokens are attended to, but only one is computed further.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        activation: nn.Module,
        eps: float = 1e-5,
        causal: bool = False,
        hidden: int | None = None,  # width between the MLP's Linears; None: four times dim
        gated: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.prompt: nn.Module = nn.Identity()
        self.norm1: nn.Module = LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, causal)
        self.norm2: nn.Module = LayerNorm(dim, eps=eps)
        self.mlp: nn.Module = (GatedMlp if gated else Mlp)(dim, hidden or 4 * dim, activation)
        self.side: nn.Module = Zero()

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        x = self.prompt(x)
        attended = self.attn(self.norm1(x), first_only)
        x = (x[:, :1] if first_only else x) + attended
        return x + self.mlp(self.norm2(x)) + self.side(x)


def normal_parameter(std: float, *shape: int) -> nn.Parameter:
    """Drawn from N(0, std^2); not on the meta device, where that would import the whole compiler (1 s)."""
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(std=std))


def linears(block: Block, kind: str = "all") -> Iterator[tuple[nn.Module, str, Linear]]:
    """The Linears of a block's `attn`, `mlp` or `all`: (module, attribute, Linear), however wrapped they are.

    The module's attribute is the Linear itself, or the outermost module that wraps it.
    """
    for name, attributes in (("attn", ("qkv", "proj")), ("mlp", ("fc1", "fc2"))):
        parent = _unwrapped(getattr(block, name))
        for attribute in attributes if kind in (name, "all") else ():
            yield parent, attribute, cast(Linear, _unwrapped(getattr(parent, attribute)))


def _unwrapped(module: nn.Module) -> nn.Module:
    while isinstance(wrapped := getattr(module, "wrapped", None), nn.Module):
        module = wrapped
    return module
