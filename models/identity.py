"""The identity of a run's model: a checkpoint fits a model of the same identity."""

from typing import Any, NamedTuple

from models.backbones.backbone import Backbone, BackboneConfig
from models.backbones.text import HEAD_DIM, TextConfig
from models.backbones.vit import ViTConfig
from models.peft.aft import entries_fingerprint
from models.weights.load import Weights
from utils.run.checkpoint import ARCHITECTURE, ENTRIES


class Identity(NamedTuple):
    """fits: the properties that a checkpoint must have been trained with. computed: those that logits also depend on;
    they must be equal in a test, and may differ in a training that starts from the checkpoint. absent: the values of
    the keys that files of earlier versions lack.
    """

    fits: dict[str, Any]
    computed: dict[str, Any]
    absent: dict[str, Any]


def build_identity(cfg, model, backbone: Backbone, weights: Weights, classes: str) -> Identity:
    """The identity of a model of `backbone`. classes: fingerprint of the class names."""
    mean, std = backbone.normalisation
    config = backbone.config
    described: dict[str, Any] = {"mean": list(mean), "std": list(std), "activation": config.activation}
    described |= {"heads": config.image.heads, "text_heads": config.text_heads}
    fits = {"backbone": cfg.backbone, "weights": weights.sha256, "classes": classes} | described
    if unusual := _unusual(config):
        fits[ARCHITECTURE] = unusual
    if (entries := entries_fingerprint(model)) is not None:
        fits[ENTRIES] = entries
    computed = {key: cfg[key] for key in ("classifier", "classifier_scale", "coop_cls_pos")}
    return Identity(fits, computed, described | computed | _of_earlier_versions(config))


def _unusual(config: BackboneConfig) -> dict[str, Any]:
    """The properties beyond the tensors in which a backbone differs from OpenAI's CLIP and timm's plain ViT."""
    texts = config.text.computed if config.text else {}
    found = config.image.computed | {f"text_{name}": value for name, value in texts.items()}
    usual = ViTConfig(1, 1, 1, 1, eps=1e-5 if config.text else 1e-6).computed
    usual |= {f"text_{name}": value for name, value in TextConfig(1, 1).computed.items()}
    return {name: value for name, value in found.items() if value != usual[name]}


def _of_earlier_versions(config: BackboneConfig) -> dict[str, Any]:
    """Towers of earlier versions had one activation, OpenAI's or timm's, and heads of one width."""
    is_clip, is_vit = config.text is not None, config.image.kind == "ViT"
    return {
        "activation": "quick_gelu" if is_clip else "gelu" if is_vit else None,
        "heads": max(config.image.dim // HEAD_DIM, 1) if is_vit else None,
        "text_heads": max(config.text.dim // HEAD_DIM, 1) if config.text else None,
    }
