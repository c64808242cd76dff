"""The image tower: a Vision Transformer (Dosovitskiy et al. 2021) in all its forms, described by a ViTConfig."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.pooling import Pooling
from models.backbones.rotation import Rotary, Rotation
from models.backbones.tower import ImageTower
from models.backbones.transformer import ACTIVATIONS, Block, LayerNorm, normal_parameter

DINOV2_RESOLUTION = 518


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """An image tower. The defaults are those of timm's plain ViT.

    activation, heads: None if they are not known yet, as a tower's tensors do not determine them.
    positions: learnt positions of "all" tokens, of the "patches" alone, or "none".
    attention_norm, mlp_norm: a norm before the attention's projection, and one before fc2.
    final_norm: of the "tokens" before pooling, of the "feature" after it, or "none".
    """

    dim: int
    depth: int  # blocks
    patch: int  # side of a patch, pixels
    resolution: int  # side of an image, pixels
    heads: int | None = None
    activation: str | None = None  # a name of ACTIVATIONS
    hidden: int | None = None  # width of the MLP; None: four times dim
    eps: float = 1e-6
    patch_bias: bool = True
    class_token: bool = True
    registers: int = 0  # learnt tokens after the class token
    positions: str = "all"
    norm_pre: bool = False  # a norm before the first block
    gated: bool = False  # the MLP
    attention_norm: bool = False
    mlp_norm: bool = False
    rotation: Rotation | None = None
    pooling: Pooling = Pooling()
    final_norm: str = "feature"

    kind = "ViT"
    whole_cells = False  # the pixels beyond the last patch are not read

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return self.resolution // self.patch

    @property
    def cell(self) -> int:
        """Side of an image's cell in the grid, pixels."""
        return self.patch

    @property
    def num_first(self) -> int:
        """Tokens before the patches."""
        return self.class_token + self.registers

    @property
    def num_positions(self) -> int:
        """Tokens with a learnt position."""
        return {"all": self.side**2 + self.num_first, "patches": self.side**2, "none": 0}[self.positions]

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that the tensors determine; the resolution, where they have positions."""
        sizes = {name: getattr(self, name) for name in ("dim", "depth", "patch", "registers", "hidden")}
        return sizes if self.positions == "none" else sizes | {"resolution": self.resolution}

    @property
    def computed(self) -> dict[str, Any]:
        """The properties that the tensors do not determine, beside activation and heads."""
        names = ("eps", "rotation", "pooling", "final_norm")
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names}

    @property
    def is_unmistakable(self) -> bool:
        """Whether no other known architecture has its tensors.

        CLIP's ViTs and the plain ones of timm exist with several activations, heads and normalisations.
        """
        return self.is_known_by_resolution or self._has_rare_parts

    @property
    def is_known_by_resolution(self) -> bool:
        """Whether only the resolution distinguishes its tensors from others: DINOv2's have positions for 518 pixels."""
        return self.positions != "none" and self.resolution == DINOV2_RESOLUTION and not self._has_rare_parts

    @property
    def _has_rare_parts(self) -> bool:
        return bool(self.registers or self.rotation or self.pooling.kind == "attention")

    @property
    def norms_pooled(self) -> bool:
        """Whether the last norm is of a feature that is not the class token."""
        return self.final_norm == "feature" and self.pooling.kind != "token"

    def at(self, resolution: int) -> "ViTConfig":
        return dataclasses.replace(self, resolution=resolution)

    def with_choices(self, activation: str | None, heads: int) -> "ViTConfig":
        return dataclasses.replace(self, activation=activation, heads=heads)

    def with_class_token(self) -> "ViTConfig":
        return dataclasses.replace(self, pooling=Pooling(), final_norm="feature")

    def build(self) -> "VisionTransformer":
        return VisionTransformer(self)


class VisionTransformer(ImageTower):
    """Images [B, 3, resolution, resolution], normalised -> features [B, dim].

    The tower runs in the precision of its patch embedding.
    """

    kind = "transformer"

    def __init__(self, config: ViTConfig):
        super().__init__()
        c = self.config = config
        if c.heads is None or c.activation is None:
            raise ValueError("the config of a tower needs its heads and its activation")
        self.dim, self.resolution, self.patch, self.num_first = c.dim, c.resolution, c.patch, c.num_first
        self.heads = c.heads
        self.patch_embed = nn.Conv2d(3, c.dim, c.patch, stride=c.patch, bias=c.patch_bias)
        self.class_token = normal_parameter(c.dim**-0.5, c.dim) if c.class_token else None
        self.registers = normal_parameter(c.dim**-0.5, c.registers, c.dim) if c.registers else None
        self.positional_embedding = normal_parameter(c.dim**-0.5, c.num_positions, c.dim) if c.num_positions else None
        self.norm_pre = LayerNorm(c.dim, eps=c.eps) if c.norm_pre else nn.Identity()
        self.blocks = nn.Sequential(*(self._block() for _ in range(c.depth)))
        if c.rotation:
            rotary = Rotary(c.rotation, c.side, c.dim // self.heads)
            for block in self.blocks:
                block.attn.rotate = rotary
        self.pooling = c.pooling.build(c.dim, c.num_first, c.side**2, c.eps)
        self.norm = nn.Identity() if c.final_norm == "none" else LayerNorm(c.dim, eps=c.eps)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm_pre(self.embed(images))
        *blocks, last = self.blocks
        for block in blocks:
            x = self.run_block(block, x)
        # class-token pooling reads no other token of the last block
        x = self.run_block(last, x, first_only=self.config.pooling.kind == "token")
        return self.pooling(self.norm(x)) if self.config.final_norm == "tokens" else self.norm(self.pooling(x))

    def embed(self, images: Tensor) -> Tensor:
        """The tokens before the first norm: class token, registers, patches, with their positions. [B, N, D]."""
        x = self.patch_embed(images.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        positions = self.positional_embedding
        if positions is not None and self.config.positions == "patches":
            x = x + positions
        first = [
            token.view(-1, self.dim).expand(x.shape[0], -1, -1)
            for token in (self.class_token, self.registers)
            if token is not None
        ]
        x = torch.cat([*first, x], dim=1)
        return x + positions if positions is not None and self.config.positions == "all" else x

    @property
    def num_tokens(self) -> int:
        """Tokens of an image, without those of fine-tuning methods."""
        return self.num_first + self.config.side**2

    def _block(self) -> Block:
        c = self.config
        block = Block(c.dim, self.heads, ACTIVATIONS[str(c.activation)](), c.eps, hidden=c.hidden, gated=c.gated)
        if c.attention_norm:
            block.attn.inner = LayerNorm(c.dim, eps=c.eps)
        if c.mlp_norm:
            block.mlp.inner = LayerNorm(c.hidden or 4 * c.dim, eps=c.eps)
        return block


def resample_positions(positions: Tensor, num_first: int, side: int) -> Tensor:
    """Learnt positions [num_first + n^2, D] for a grid of side x side patches: antialiased bicubic, as timm does.

    The positions of the first tokens stay. float32 in, float32 out.
    """
    first, patches = positions[:num_first], positions[num_first:]
    old = round(len(patches) ** 0.5)
    if old == side:
        return positions
    grid = patches.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    return torch.cat([first, grid.permute(0, 2, 3, 1).flatten(0, 2)])
