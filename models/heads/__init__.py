"""Heads, from an image feature to logits, and their first weights."""

from collections.abc import Callable

from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.heads.classifiers import CosineClassifier, L2NormClassifier, LayerNormClassifier, LinearClassifier
from models.heads.init import Features, class_mean, linear_probing, semantic

HEADS: dict[str, type[nn.Module]] = {
    "LinearClassifier": LinearClassifier,
    "CosineClassifier": CosineClassifier,
    "L2NormClassifier": L2NormClassifier,
    "LayerNormClassifier": LayerNormClassifier,
}
HEAD_INITS: dict[str, Callable[[Backbone, list[str], Features], Tensor]] = {
    "semantic": semantic,
    "class_mean": class_mean,
    "linear_probing": linear_probing,
}
