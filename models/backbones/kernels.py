"""The computations of a block, written for speed where torch's own way is slow. docs/performance.md has the numbers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Of a linear as convolution. Below, it takes longer to reorder the weights than is gained.
FEWEST_ROWS = {torch.float32: 256, torch.bfloat16: 2048}
X86 = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: [..., in] -> [..., out].

    On an x86 CPU large products with weights that do not train are computed as a convolution of one pixel. It is the
    same sum, but oneDNN computes it: F.linear leaves float32 to MKL, which runs at a third of that rate on processors
    of AMD, and goes over the output twice more to add the bias in bf16.
    """
    trains = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    enough = x.ndim == 3 and len(x) * x.shape[1] >= FEWEST_ROWS.get(x.dtype, math.inf)
    if X86 and x.device.type == "cpu" and enough and not trains:
        pixels = x.unsqueeze(2).permute(0, 3, 1, 2)  # [B, in, 1, N]
        return _FrozenPixels.apply(pixels, weight, bias).permute(0, 2, 3, 1).squeeze(2)
    return F.linear(x, weight, bias)


class _FrozenPixels(torch.autograd.Function):
    """[B, in, 1, N] -> [B, out, 1, N]. Keeps nothing but the weight: torch's own convolution keeps its input, too."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(x, weight[:, :, None, None], bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return F.conv2d(grad, ctx.saved_tensors[0].t()[:, :, None, None]), None, None


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt d) v: [B, heads, M, d], [B, heads, N, d] twice -> [B, heads, M, d].

    By torch's fused kernel, which wants 4-D tensors: given 3-D ones it is silently left on some devices. In bf16 on a
    CPU by two products: that kernel takes 2 to 5 times as long there, as it leaves oneDNN's products of bf16 unused.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if causal:
        scores = scores + scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    return scores.softmax(-1) @ v


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation that OpenAI trained CLIP with."""
    return _QuickGELU.apply(x)


class _QuickGELU(torch.autograd.Function):
    """silu(1.702 x) / 1.702, whose derivative is silu'(1.702 x): no factor is left, and one tensor is kept for it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = 1.702 * x
        ctx.save_for_backward(x)
        return F.silu(x).div_(1.702)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(grad, *ctx.saved_tensors)
