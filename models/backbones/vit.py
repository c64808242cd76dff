"""The image tower: a Vision Transformer (Dosovitskiy et al. 2021), in CLIP's form or in timm's."""

import torch
from torch import Tensor, nn

from models.backbones.tower import ImageTower
from models.backbones.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter

HEAD_DIM = 64  # width of a head in OpenAI's towers, and in timm's up to ViT-L


class VisionTransformer(ImageTower):
    """Images [B, 3, resolution, resolution], normalised -> the class token after the last norm, [B, dim].

    CLIP's form (`clip=True`) has a norm before the first block, and no bias at the patches; timm's has no such norm, a
    bias, and norms with eps 1e-6. The tower runs in the precision of its patch embedding.
    activation: a name of ACTIVATIONS; None = OpenAI's quick GELU in CLIP's form, the exact GELU in timm's.
    heads: None = as many as are HEAD_DIM wide.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        patch: int,
        resolution: int,
        clip: bool,
        activation: str | None = None,
        heads: int | None = None,
    ):
        super().__init__()
        activation = activation or ("quick_gelu" if clip else "gelu")
        heads = heads or max(dim // HEAD_DIM, 1)
        self.dim, self.resolution, self.patch = dim, resolution, patch
        eps = 1e-5 if clip else 1e-6
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch, bias=not clip)
        self.class_token = normal_parameter(dim**-0.5, dim)
        self.positional_embedding = normal_parameter(dim**-0.5, (resolution // patch) ** 2 + 1, dim)
        self.norm_pre = LayerNorm(dim) if clip else nn.Identity()
        self.blocks = nn.Sequential(*(Block(dim, heads, ACTIVATIONS[activation](), eps) for _ in range(depth)))
        self.norm = LayerNorm(dim, eps=eps)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        class_tokens = self.class_token.expand(x.shape[0], 1, -1)
        x = torch.cat([class_tokens, x], dim=1) + self.positional_embedding
        x = self.norm_pre(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.norm(last(x, first_only=True)[:, 0])  # nothing reads its other tokens
