"""The image tower: a Vision Transformer (Dosovitskiy et al. 2021), in CLIP's form or in timm's."""

import torch
from torch import Tensor, nn

from models.transformer import Block, LayerNorm, QuickGELU, normal_parameter

HEAD_DIM = 64  # every published ViT of ours has heads 64 wide


class VisionTransformer(nn.Module):
    """Images [B, 3, resolution, resolution], normalised -> the class token after the last norm, [B, dim].

    CLIP's form (`clip=True`) has a norm before the first block, no bias at the patches and the quick GELU; timm's has
    neither norm, a bias, and the exact GELU with eps 1e-6. The tower runs in the precision of its patch embedding.
    """

    def __init__(self, dim: int, depth: int, patch: int, resolution: int, clip: bool):
        super().__init__()
        self.dim, self.resolution = dim, resolution
        eps = 1e-5 if clip else 1e-6
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch, bias=not clip)
        self.class_token = normal_parameter(dim**-0.5, dim)
        self.positional_embedding = normal_parameter(dim**-0.5, (resolution // patch) ** 2 + 1, dim)
        self.norm_pre = LayerNorm(dim) if clip else nn.Identity()
        self.blocks = nn.Sequential(
            *(Block(dim, max(dim // HEAD_DIM, 1), QuickGELU() if clip else nn.GELU(), eps) for _ in range(depth))
        )
        self.norm = LayerNorm(dim, eps=eps)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.norm_pre(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.norm(last(x, first_only=True)[:, 0])  # nothing reads its other tokens
