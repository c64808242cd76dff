"""The three computations of a block, each with its plain line of torch and a faster form of the same.

`fast` alone decides whether the faster forms may be used. docs/performance.md has the numbers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Minimum rows for the convolution path; below it, reordering the weights costs more than it saves.
MIN_ROWS = {torch.float32: 256, torch.bfloat16: 2048}
X86 = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()


def fast() -> bool:
    """Whether faster forms may replace torch's own: not in a graph that is exported, for any batch and device."""
    return not (torch.compiler.is_exporting() or torch.jit.is_tracing())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: [..., in] -> [..., out]."""
    if not (fast() and _pays_as_convolution(x, weight, bias)):
        return F.linear(x, weight, bias)
    pixels = x.unsqueeze(2).permute(0, 3, 1, 2)  # [B, in, 1, N]
    return _FrozenPixels.apply(pixels, weight, bias).permute(0, 2, 3, 1).squeeze(2)


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


def _pays_as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a large product on an x86 CPU with weights that do not train.

    oneDNN computes a convolution of one pixel, which is the same sum. F.linear leaves float32 to MKL, which runs at a
    third of that rate on processors of AMD, and in bf16 passes over the output twice more to add the bias.
    """
    if not X86 or x.device.type != "cpu" or x.ndim != 3:
        return False
    trains = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    return not trains and x.shape[0] * x.shape[1] >= MIN_ROWS.get(x.dtype, math.inf)


class _FrozenPixels(torch.autograd.Function):
    """[B, in, 1, N] -> [B, out, 1, N]. Saves the weight alone for backward; torch's own saves its input, too."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(x, weight[:, :, None, None], bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return F.conv2d(grad, ctx.saved_tensors[0].t()[:, :, None, None]), None, None


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
