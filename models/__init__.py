"""Builds the model of a run: a frozen backbone, what trains in it, and a head."""

import torch
from torch import Tensor, nn

from models import peft
from models.backbones.backbone import Backbone
from models.heads import HEAD_INITS, HEADS
from models.heads.init import Features
from models.heads.prompts import class_texts, prompt_notes
from models.heads.text_similarity import build_text_similarity
from models.peft.aft import entries_fingerprint
from models.weights.descriptions import Description
from models.weights.lift import convert_upstream
from models.weights.load import Weights, load_backbone
from utils.errors import ModelError

__all__ = [
    "Classifier",
    "ModelError",
    "build_backbone",
    "build_model",
    "convert_upstream",
    "count_parameters",
    "entries_fingerprint",
    "load_backbone",
    "prompt_notes",
]


class Classifier(nn.Module):
    """Images, uint8 [B, 3, R, R] -> logits, float32 [B, C]. The tower has its own precision, the head float32."""

    def __init__(self, tower: nn.Module, head: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.tower, self.head = tower, head
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """The tower's feature of each image, float32 [B, D]."""
        return self.tower((images.float() - self.mean) / self.std).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def build_backbone(cfg) -> tuple[Backbone, Weights]:
    """The backbone that `cfg` names, and where its weights are from. Raises ModelError."""
    given = Description(cfg.activation, cfg.heads, text_heads=cfg.text_heads, mean=cfg.mean, std=cfg.std)
    backbone, weights = load_backbone(cfg.backbone, cfg.weights, given)
    resolution = backbone.image.resolution
    if cfg.resolution not in (None, resolution):
        raise ModelError(
            f"resolution {cfg.resolution} does not fit {weights.path}, which is made for {resolution}; "
            "leave resolution out, or choose other weights"
        )
    return backbone, weights


def build_model(cfg, backbone: Backbone, classnames: list[str], features: Features, start: bool = True) -> Classifier:
    """The model that `cfg` describes. Its random parts are drawn from cfg.seed; its first state from the bare backbone.

    features: called where the head starts from training features, before anything is attached.
    start: False leaves out cfg.classifier_init, for a model that is about to be loaded.
    """
    torch.manual_seed(cfg.seed)
    backbone.requires_grad_(False)
    tower = backbone.image
    if cfg.classifier is None:
        head = build_text_similarity(cfg, backbone, classnames)
    else:
        head = HEADS[cfg.classifier](len(classnames), tower.dim, scale=cfg.classifier_scale, variant=cfg.variant)
        if start and cfg.classifier_init:
            options = {}
            if cfg.classifier_init == "semantic":
                options["texts"] = class_texts(classnames, cfg.prompt, cfg.prompt_file)
            weight = HEAD_INITS[cfg.classifier_init](backbone, classnames, features, **options)
            head.weight.data.copy_(weight)
    peft.attach(tower, cfg.v, len(classnames), variant=cfg.variant)
    return Classifier(tower, head, backbone.mean, backbone.std)


def count_parameters(model: Classifier) -> dict[str, int]:
    """Parameters in all, trained, trained in the towers and the prompts (peft) and in the head."""

    def trained(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    total = sum(p.numel() for p in model.parameters())
    peft = trained(model.tower) + trained(getattr(model.head, "texts", nn.Identity()))
    return {"total": total, "trained": trained(model), "peft": peft, "head": trained(model) - peft}
