"""From the tokens of an image, [B, N, D], to its feature, [B, D].

A fine-tuning method may have inserted learnt tokens between the tower's first tokens (the class token and the
registers) and the patches. Each pooling drops them.
"""

import dataclasses

import torch
from torch import Tensor, nn

from models.backbones import kernels
from models.backbones.transformer import ACTIVATIONS, LayerNorm, Linear, Mlp


@dataclasses.dataclass(frozen=True)
class Pooling:
    """kind: "token" (the class token), "mean" (of the patches) or "attention".

    Attention pooling has heads, the hidden width and the activation of its MLP, and attends to the first tokens, too,
    or not.
    """

    kind: str = "token"
    heads: int = 0
    hidden: int = 0
    activation: str = "gelu"
    first_tokens: bool = False

    def build(self, dim: int, num_first: int, num_patches: int, eps: float) -> nn.Module:
        """The module. num_first: tokens before the patches."""
        if self.kind == "token":
            return ClassToken()
        if self.kind == "mean":
            return Mean(num_patches)
        return AttentionPooling(self, dim, num_first if self.first_tokens else 0, num_patches, eps)


class ClassToken(nn.Module):
    """The first token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class Mean(nn.Module):
    """The mean of the patches, which are the last tokens."""

    def __init__(self, num_patches: int):
        super().__init__()
        self.num_patches = num_patches

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -self.num_patches :].mean(1)


class AttentionPooling(nn.Module):
    """h + mlp(norm(h)), h the output of one learnt query that attends to the tokens (Zhai et al. 2022, 2106.04560)."""

    def __init__(self, pooling: Pooling, dim: int, num_first: int, num_patches: int, eps: float):
        super().__init__()
        self.heads, self.num_first, self.num_patches = pooling.heads, num_first, num_patches
        self.latent = nn.Parameter(torch.zeros(dim))
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        self.norm = LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, pooling.hidden, ACTIVATIONS[pooling.activation]())

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.num_first + self.num_patches:
            x = torch.cat([x[:, : self.num_first], x[:, -self.num_patches :]], dim=1)
        q = self.q(self.latent.to(x.dtype)).view(1, self.heads, 1, -1).expand(x.shape[0], -1, -1, -1)
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = self.proj(kernels.attend(q, k, v).transpose(1, 2).flatten(2))
        return (h + self.mlp(self.norm(h))).squeeze(1)
