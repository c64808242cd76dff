"""LoRA (Hu et al. 2022, arXiv 2106.09685) on queries and values.

    q <- q + (1/r) (x A_q) B_q,   v <- v + (1/r) (x A_v) B_v,   x the output of the block's first norm

A [d, r] is uniform in +-1/sqrt(r) (kaiming-uniform over its fan-in, which is r in both papers' runs) and B zero, so a
fresh LoRA changes nothing. Default r (`dim`): 2^floor(log2(C / 4L)); in LIFT 2^floor(log2(C / 2L)), where L counts all
blocks of the tower.
"""

import torch
from torch import Tensor, nn

from models.backbones.transformer import Block, Linear
from models.peft.method import Method, Site, SizedOptions


class LowRank(nn.Module):
    """[..., in] -> [..., out] through `rank` dimensions, divided by `rank`; zero at first."""

    def __init__(self, dim_in: int, dim_out: int, rank: int):
        super().__init__()
        self.rank = rank
        self.down = Linear(dim_in, rank, bias=False)  # A transposed
        self.up = Linear(rank, dim_out, bias=False)  # B transposed
        nn.init.uniform_(self.down.weight, -(rank**-0.5), rank**-0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) / self.rank

    @property
    def matrix(self) -> Tensor:
        """The update of a Linear's weight, (1/r) (A B)^T, [out, in]."""
        return self.up.weight @ self.down.weight / self.rank


class LoraQKV(nn.Module):
    """Wraps the qkv Linear of an attention: [B, N, D] -> [B, N, 3 D]."""

    def __init__(self, qkv: nn.Module, dim: int, rank: int):
        super().__init__()
        self.dim = dim
        self.wrapped = qkv
        self.q = LowRank(dim, dim, rank)
        self.v = LowRank(dim, dim, rank)

    def forward(self, x: Tensor) -> Tensor:
        return _AddToEnds.apply(self.wrapped(x), self.q(x), self.v(x))

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """W_q + (1/r) (A_q B_q)^T, W_k, W_v + (1/r) (A_v B_v)^T."""
        q, k, v = weight.split(self.dim)
        return torch.cat([q + self.q.matrix, k, v + self.v.matrix]), bias


class _AddToEnds(torch.autograd.Function):
    """Adds q to the first columns of qkv and v to its last ones, in place. [..., 3 D], [..., D] twice -> [..., 3 D].

    The gradients are views of that of the result. Autograd's own, of the two slices, are copies of all of it.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, q: Tensor, v: Tensor) -> Tensor:
        ctx.mark_dirty(qkv)
        ctx.dim = q.shape[-1]
        qkv[..., : ctx.dim] += q
        qkv[..., -ctx.dim :] += v
        return qkv

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return grad, grad[..., : ctx.dim], grad[..., -ctx.dim :]


def attach(site: Site[Block], options: SizedOptions) -> None:
    """Wraps the qkv Linear of every block."""
    rank = default_rank(site) if options.dim is None else options.dim
    for block in site.blocks:
        block.attn.qkv = LoraQKV(block.attn.qkv, block.dim, rank)


def default_rank(site: Site[Block]) -> int:
    """The default rank, here and in `lora_mlp`."""
    return site.default_size(share=2 if site.variant == "lift" else 4)


METHOD = Method(attach, SizedOptions, folds=True)
