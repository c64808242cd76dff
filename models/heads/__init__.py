"""Heads, from an image feature to logits, and their initial values."""

from collections.abc import Callable

from models.heads.classifiers import CosineClassifier, Head, L2NormClassifier, LayerNormClassifier, LinearClassifier
from models.heads.init import FirstValues, class_mean, linear_probing, semantic

HEADS: dict[str, type[Head]] = {
    "LinearClassifier": LinearClassifier,
    "CosineClassifier": CosineClassifier,
    "L2NormClassifier": L2NormClassifier,
    "LayerNormClassifier": LayerNormClassifier,
}
HEAD_INITS: dict[str, Callable[..., FirstValues]] = {
    "semantic": semantic,
    "class_mean": class_mean,
    "linear_probing": linear_probing,
}
