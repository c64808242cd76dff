"""Rotary positions of patches (Su et al. 2021, arXiv 2104.09864, in two dimensions): queries and keys are rotated.

A head's channels form d / 2 pairs. The first half of the pairs rotates by the patch's first coordinate, the others by
its second, each at d / 4 frequencies:

    angle = turn * coordinate * temperature^(-i / (d / 4)),   i = 0 .. d / 4 - 1

EVA-02 (arXiv 2303.11331) and PE (arXiv 2504.13181) count patches; a reference grid keeps their spacing at other
resolutions. DINOv3 (arXiv 2508.10104) uses the centres of the patches in a picture from -1 to 1, and turn = 2 pi.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Rotation:
    """How a tower's patches are rotated.

    centred: coordinates are those of the patches' centres, from -1 to 1; else they count patches from `offset`.
    reference: side of the grid, in patches, that counted coordinates are scaled to; None = the grid itself.
    columns_first: the first half of the pairs rotates by the column. halves: channel i is paired with i + d / 2, else
    neighbours are paired.
    """

    temperature: float
    centred: bool = False
    offset: float = 0.0
    reference: int | None = None
    columns_first: bool = False
    halves: bool = False

    def angles(self, side: int, head_dim: int) -> Tensor:
        """The angle of each pair, float32 [side^2, head_dim / 2], on the CPU, for a square grid of patches."""
        count = torch.arange(side, dtype=torch.float32, device="cpu")
        if self.centred:
            coordinates, turn = 2 * (count + 0.5 + self.offset) / side - 1, 2 * math.pi
        else:
            scale = self.reference / side if self.reference else 1.0
            coordinates, turn = (count + self.offset) * scale, 1.0
        exponents = torch.arange(head_dim // 4, dtype=torch.float32, device="cpu") / (head_dim // 4)
        frequencies = turn * self.temperature**-exponents
        rows, columns = coordinates.repeat_interleave(side), coordinates.repeat(side)
        axes = (columns, rows) if self.columns_first else (rows, columns)
        return torch.cat([axis[:, None] * frequencies for axis in axes], dim=1)


class Rotary(nn.Module):
    """Rotates queries and keys, [B, heads, N, d] each, of the last side^2 tokens; those before have no position.

    All blocks of a tower share one module. It has no saved state.
    """

    cos: Tensor  # float32 [side^2, d]
    sin: Tensor

    def __init__(self, rotation: Rotation, side: int, head_dim: int):
        super().__init__()
        self.halves = rotation.halves
        angles = rotation.angles(side, head_dim)
        angles = torch.cat([angles, angles], 1) if self.halves else angles.repeat_interleave(2, 1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.rotate(q), self.rotate(k)

    def rotate(self, x: Tensor) -> Tensor:
        """x cos + x' sin, where x' has the other channel of each pair, and the first one's sign changed."""
        patches = len(self.cos)
        before, x = x[:, :, :-patches], x[:, :, -patches:]
        if self.halves:
            first, second = x.chunk(2, dim=-1)
            other = torch.cat([-second, first], dim=-1)
        else:
            other = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        rotated = x * self.cos + other * self.sin  # in float32
        return torch.cat([before, rotated.to(before.dtype)], dim=2)
