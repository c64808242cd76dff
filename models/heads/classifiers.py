"""Heads: from an image feature [B, D] to logits [B, C], in float32.

Every head accepts a scale and a variant, so that one call builds any of them. Only the cosine head uses the scale, and
only the initial values of the linear head depend on the variant.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """A head with a weight [C, D], whose rows start uniform(-1, 1), scaled to unit length."""

    weight: nn.Parameter

    def __init__(self, num_classes: int, dim: int, scale: float = 1.0, variant: str = "lift+"):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, dim).uniform_(-1, 1), dim=-1))

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor | None) -> None:
        """Sets the initial values: weight [C, D], and a bias [C] in a head that has one; None leaves it at zero."""
        self.weight.copy_(weight)


class LinearClassifier(Head):
    """W f + b; b starts at zero. In LIFT, W starts at N(0, 2 / D) instead of at rows of unit length."""

    def __init__(self, num_classes: int, dim: int, scale: float = 1.0, variant: str = "lift+"):
        super().__init__(num_classes, dim)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        if variant == "lift":
            nn.init.normal_(self.weight, std=(2 / dim) ** 0.5)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor | None) -> None:
        super().start_from(weight, bias)
        if bias is not None:
            self.bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class CosineClassifier(Head):
    """`classifier_scale` * <f / |f|, W_c / |W_c|>."""

    def __init__(self, num_classes: int, dim: int, scale: float, variant: str = "lift+"):
        super().__init__(num_classes, dim)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class L2NormClassifier(Head):
    """<f, W_c / |W_c|>."""

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, F.normalize(self.weight, dim=-1))


class LayerNormClassifier(Head):
    """<LN(f), W_c / |W_c|>, LN without weight and bias, eps 1e-12."""

    def forward(self, features: Tensor) -> Tensor:
        features = F.layer_norm(features, features.shape[-1:], eps=1e-12)
        return F.linear(features, F.normalize(self.weight, dim=-1))
