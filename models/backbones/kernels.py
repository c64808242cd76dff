"""The three computations of a block, each in a line of plain torch and in a faster form.

`fast` alone decides whether the faster forms may be used. docs/performance_log.md has the numbers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Minimum rows for oneDNN's Linear; below it, reordering the weights costs more than it saves.
MIN_ROWS = {torch.float32: 256, torch.bfloat16: 2048}
X86 = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
# the operation that oneDNN applies to each value of a product before it is stored: (name, algorithm)
Fused = tuple[str, str]
NOTHING: Fused = ("none", "")


def fast() -> bool:
    """Whether faster forms may replace torch's own: not in a graph that is exported, for any batch and device."""
    return not (torch.compiler.is_exporting() or torch.jit.is_tracing())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> Tensor:
    """x W^T + b, then the activation: [..., in] -> [..., out]."""
    if not (fast() and _pays_in_onednn(x, weight, bias)):
        x = F.linear(x, weight, bias)
        return x if activation is None else activation(x)
    fused = None if torch.is_grad_enabled() else _fused(activation)  # backward needs the values before the activation
    if fused is not None:
        return _onednn_linear(x, weight, bias, *fused)
    x = _FrozenLinear.apply(x, weight, bias)
    return x if activation is None else activation(x)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt d) v: [B, heads, M, d], [B, heads, N, d] twice -> [B, heads, M, d].

    Torch's fused kernel takes 4-D tensors; on some devices 3-D ones silently fall back to a slow one.
    """
    if not (fast() and q.device.type == "cpu" and q.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return _attend_by_products(q, k, v, causal)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation that OpenAI trained CLIP with."""
    if not fast():
        return x * torch.sigmoid(1.702 * x)
    return _QuickGELU.apply(x)


# ---- the faster forms ----


def _pays_in_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a large product on an x86 CPU with frozen weights.

    F.linear uses MKL for float32, which is slower on AMD's processors, and passes over the output again to add the
    bias. oneDNN's Linear adds it, and computes an activation, while the values are in a register.
    """
    if not X86 or x.device.type != "cpu" or x.ndim != 3:
        return False
    trains = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    return not trains and x.shape[0] * x.shape[1] >= MIN_ROWS.get(x.dtype, math.inf)


class _FrozenLinear(torch.autograd.Function):
    """[B, N, in] -> [B, N, out]. Saves only the weight for backward; torch's own also saves its input."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn_linear(x, weight, bias, *NOTHING)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _onednn_linear(grad, ctx.saved_tensors[0].t(), None, *NOTHING), None, None


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str) -> Tensor:
    """[B, N, in] -> [B, N, out], not a view: a view could not be changed in place without copies."""
    out = _onednn_rows(x.flatten(0, 1), weight, bias, activation, algorithm)
    return torch.ops.aten._unsafe_view(out, (*x.shape[:2], len(weight)))


@torch.library.custom_op("lift_plus::onednn_linear", mutates_args=())
def _onednn_rows(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str) -> Tensor:
    """[rows, in] -> [rows, out]. A custom operator, as torch.compile accepts oneDNN's only with constant weights."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


@_onednn_rows.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _fused(activation: nn.Module | None) -> Fused | None:
    """oneDNN's form of the activation; None if oneDNN does not have it, or there is none."""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate
    return ("swish", "") if isinstance(activation, nn.SiLU) else None


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention as two products by oneDNN: for bf16 on a CPU, where the fused kernel takes 2 to 5 times as long."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if causal:
        scores = scores + scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    return scores.softmax(-1) @ v


class _QuickGELU(torch.autograd.Function):
    """silu(1.702 x) / 1.702, whose derivative is silu'(1.702 x): no factor is left, and one tensor is saved for it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = 1.702 * x
        ctx.save_for_backward(x)
        return F.silu(x).div_(1.702)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(grad, *ctx.saved_tensors)
