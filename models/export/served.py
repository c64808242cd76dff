"""The module that is exported: a run's model with normalisation, adjustment and softmax inside."""

import copy

import torch
from torch import Tensor, nn

from models.heads.text_similarity import TextSimilarity
from models.heads.texts import CachedTextFeatures
from models.model import Model
from models.precision import FrozenWeights
from utils.adjustment import Adjustment


class Served(nn.Module):
    """Images, uint8 [B, 3, R, R] -> logits and probabilities, float32 [B, C] each.

    logits = scale * z + bias + z_zs, probabilities = softmax(logits / temperature), by the adjustment; z: the model's
    logits, z_zs: those of `zero_shot`, where it is given.
    """

    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, model: Model, adjustment: Adjustment, zero_shot: Model | None = None):
        super().__init__()
        self.model, self.zero_shot, self.temperature = model, zero_shot, adjustment.temperature
        for name, values in (("scale", adjustment.scale), ("bias", adjustment.bias)):
            self.register_buffer(name, None if values is None else torch.from_numpy(values).float(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        if self.scale is not None:
            logits = logits * self.scale
        if self.bias is not None:
            logits = logits + self.bias
        if self.zero_shot is not None:
            logits = logits + self.zero_shot(images)
        return logits, (logits / self.temperature).softmax(-1)


@torch.no_grad()
def frozen_copy(model: Model, dtype: torch.dtype) -> Model:
    """A copy on the CPU for export: all is frozen, text features are constants, the tower is stored in `dtype`.

    The head stays in float32, as in training.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False).cpu()
    if isinstance(model.head, TextSimilarity):
        model.head.texts = CachedTextFeatures(model.head.texts())
    FrozenWeights(model.tower, dtype)
    return model
