"""The identity of a run's model: a checkpoint fits a model of the same identity."""

from typing import Any, NamedTuple

from models.backbones.backbone import Backbone
from models.peft.aft import entries_fingerprint
from models.weights.load import Weights
from utils.run.checkpoint import ENTRIES


class Identity(NamedTuple):
    """fits: what a checkpoint must have been trained with. computed: how logits follow from its tensors, too, which a
    test must share, and a training that starts from it need not. absent: what files of earlier versions mean, which
    lack these keys.
    """

    fits: dict[str, Any]
    computed: dict[str, Any]
    absent: dict[str, Any]


def build_identity(cfg, model, backbone: Backbone, weights: Weights, classes: str) -> Identity:
    """The identity of a model of `backbone`. classes: fingerprint of the class names."""
    mean, std = backbone.normalisation
    towers = ("activation", "heads", "text_heads")
    described = {"mean": list(mean), "std": list(std)} | {key: getattr(backbone.geometry, key) for key in towers}
    fits = {"backbone": cfg.backbone, "weights": weights.sha256, "classes": classes} | described
    if (entries := entries_fingerprint(model)) is not None:
        fits[ENTRIES] = entries
    computed = {key: cfg[key] for key in ("classifier", "classifier_scale", "coop_cls_pos")}
    # towers of earlier versions had one activation, and heads of one width
    usual = {key: getattr(backbone.geometry.usual, key) for key in towers}
    return Identity(fits, computed, described | computed | usual)
