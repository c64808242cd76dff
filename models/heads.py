"""Heads: from an image feature [B, D] to logits [B, C], in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Head(nn.Module):
    """The weight [C, D] of a head; without an initialisation, rows uniform(-1, 1) scaled to unit length."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, dim).uniform_(-1, 1), dim=-1))


class LinearClassifier(_Head):
    """W f + b; b starts at zero. `scale` is not used."""

    def __init__(self, num_classes: int, dim: int, scale: float = 1.0):
        super().__init__(num_classes, dim)
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class CosineClassifier(_Head):
    """scale * <f / |f|, W_c / |W_c|>."""

    def __init__(self, num_classes: int, dim: int, scale: float):
        super().__init__(num_classes, dim)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class TextSimilarity(nn.Module):
    """CLIP's own head (Radford et al. 2021): exp(logit_scale) * <f P / |f P|, t_c>; nothing in it trains.

    projection: P [D, joint]; text_features: t [C, joint], unit length; logit_scale: scalar.
    """

    def __init__(self, projection: Tensor, text_features: Tensor, logit_scale: Tensor):
        super().__init__()
        self.register_buffer("projection", projection.detach().float(), persistent=False)
        self.register_buffer("text_features", text_features.float(), persistent=False)
        self.scale = float(logit_scale.detach().exp())

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features @ self.projection, dim=-1), self.text_features)


HEADS: dict[str, type[nn.Module]] = {
    "LinearClassifier": LinearClassifier,
    "CosineClassifier": CosineClassifier,
}
