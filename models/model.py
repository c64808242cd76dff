"""The model of a run: a frozen backbone, the fine-tuning methods in it, and a head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models import peft
from models.backbones import find_source
from models.backbones.backbone import Backbone
from models.backbones.tower import ImageTower
from models.heads import HEAD_INITS, HEADS
from models.heads.classifiers import Head
from models.heads.init import Features, no_features
from models.heads.prompts import class_texts
from models.heads.text_similarity import TextSimilarity
from models.heads.texts import CachedTextFeatures, TextEncoderFeatures
from models.weights.descriptions import Description, describe_backbone
from models.weights.load import Weights, load_backbone
from utils.errors import ModelError


class Model(nn.Module):
    """Images, uint8 [B, 3, R, R] -> logits, float32 [B, C]. The tower has its own precision, the head float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: ImageTower, head: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.tower, self.head = tower, head
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def create(
        cls,
        backbone: Backbone,
        classnames: list[str],
        head: str | None = "CosineClassifier",
        methods: Mapping[str, Any] | None = None,
        text_methods: Mapping[str, Any] | None = None,
        *,
        head_scale: float = 25.0,
        head_init: str | None = "semantic",
        features: Features = no_features,
        prompt: str = "default",
        prompt_file: str | None = None,
        variant: str = "lift+",
        seed: int = 0,
    ) -> "Model":
        """A model of `backbone` for these classes. It owns the backbone afterwards: the methods change the image tower.

            Model.create(backbone, ["cat", "dog"], "CosineClassifier", {"adaptformer": {"dim": 8}})

        head: a name of HEADS, or None for the similarity to the classes' texts.
        methods: of the image tower and, without a head, of CLIP's own head, with their options by name (models/peft).
        text_methods: of the text tower, without a head.
        head_scale: of the cosine head's logits. head_init: a name of HEAD_INITS, or None for random initial weights.
        features: () -> features [n, D] and labels [n] of training images, for the inits that start from them. It is
            called before anything is attached.
        prompt, prompt_file: the texts of the classes (models/heads/prompts.py).
        variant: the paper whose initial values, draws and default sizes are used, "lift+" or "lift". seed: of the
            initial values.
        Raises ModelError.
        """
        methods, text_methods = peft.choose(methods or {}), peft.choose(text_methods or {})
        for_head = {name: options for name, options in methods.items() if name in peft.HEAD_METHODS}
        for option, name, table in (("head", head, HEADS), ("head_init", head_init, HEAD_INITS)):
            if name is not None and name not in table:
                raise ModelError(f"unknown {option} '{name}'; choose from {', '.join(table)}", kind=f"unknown_{option}")
        if head is not None and (for_head or text_methods):
            extra = next(iter(for_head | text_methods))
            raise ModelError(f"{extra} changes the classes' texts, which {head} does not read", kind="unread_texts")
        mean, std = backbone.normalisation

        torch.manual_seed(seed)
        backbone.requires_grad_(False)
        module: Head | TextSimilarity
        if head is None:
            module = _text_similarity(backbone, classnames, for_head, text_methods, prompt, prompt_file, variant)
        else:
            module = HEADS[head](len(classnames), backbone.image.dim, scale=head_scale, variant=variant)
            if head_init is not None:
                texts = class_texts(classnames, prompt, prompt_file)
                first = HEAD_INITS[head_init](backbone, classnames, features, texts)
                module.start_from(first.weight, first.bias)
        for_tower = {name: options for name, options in methods.items() if name not in for_head}
        peft.attach(backbone.image, for_tower, len(classnames), variant)
        return cls(backbone.image, module, mean, std)

    def features(self, images: Tensor) -> Tensor:
        """The tower's feature of each image, float32 [B, D]."""
        return self.tower((images.float() - self.mean) / self.std).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _text_similarity(
    backbone: Backbone,
    classnames: list[str],
    methods: Mapping[str, Any],
    text_methods: Mapping[str, Any],
    prompt: str,
    prompt_file: str | None,
    variant: str,
) -> TextSimilarity:
    """CLIP's own head with its methods. The texts are encoded here, once, if they have no trainable parameters."""
    if backbone.text is None:
        raise ModelError(
            "this backbone has no text tower, so it needs a classifier with classifier_init class_mean (or None); "
            "set one, or choose a CLIP backbone",
            kind="no_text_tower",
        )
    of_texts: TextEncoderFeatures | CachedTextFeatures
    if prompt != "default":
        if text_methods or any("texts" in peft.METHODS[name].targets for name in methods):
            raise ModelError(f"prompt {prompt} is for frozen texts only", kind="prompt_of_trained_texts")
        of_texts = CachedTextFeatures(backbone.encode_texts(classnames, class_texts(classnames, prompt, prompt_file)))
        text_projection, text_projection_bias = None, None
    else:
        texts = TextEncoderFeatures(backbone.text, backbone.tokenizer, classnames)
        peft.attach_to_head(texts, methods)
        backbone.require_words(classnames, texts.read_tokens)
        texts.to(texts.tower.token_embedding.weight.device)
        peft.attach(texts.tower, text_methods, len(classnames), variant)
        of_texts = texts.cached_if_frozen()
        text_projection, text_projection_bias = backbone.text_projection, backbone.text_projection_bias
    head = TextSimilarity(
        of_texts,
        backbone.image_projection,
        text_projection,
        backbone.logit_scale,
        image_projection_bias=backbone.image_projection_bias,
        text_projection_bias=text_projection_bias,
        logit_bias=backbone.logit_bias,
    )
    peft.attach_to_head(head, methods)
    return head


def described_values(cfg) -> dict[str, Any]:
    """The values, from the description of the weights, of keys that are None. Raises ModelError."""
    known = describe_backbone(cfg.backbone, cfg.weights)
    if known.config and known.config.text is None:
        _require_no_texts(cfg.backbone, cfg.classifier, cfg.classifier_init)
    return {"interpolation": known.interpolation or "bicubic", "resize": known.resize or "shortest"}


def _require_no_texts(name: str, classifier: str | None, classifier_init: str | None) -> None:
    """Raises ModelError, before a download, for a head that reads texts if there is no text tower."""
    remedy = "add classifier_init class_mean (or None)"
    if classifier is None:
        message = f"{name} has no text tower, so class names are not read; choose a method with a classifier"
        raise ModelError(f"{message}, such as lift+, and {remedy}", kind="no_text_tower", key="classifier")
    if classifier_init == "semantic":
        message = f"{name} has no text tower, so the head cannot start from the class names; {remedy}"
        raise ModelError(message, kind="no_text_tower", key="classifier_init")


def build_backbone(cfg, texts: bool = True) -> tuple[Backbone, Weights]:
    """The backbone of `cfg`, and the source of its weights; see load_backbone. Raises ModelError."""
    given = Description(
        activation=cfg.activation, heads=cfg.heads, text_heads=cfg.text_heads, mean=cfg.mean, std=cfg.std
    )
    backbone, weights = load_backbone(cfg.backbone, cfg.weights, given, cfg.resolution, texts)
    row = find_source(cfg.backbone)
    if row and row.seen and cfg.dataset.startswith(row.seen) and not cfg.weights:
        caution = (
            f"warning: {cfg.backbone} may have been trained on test images of {row.seen}, "
            "so the accuracy may not be that on new images"
        )
        weights = weights._replace(notes=(*weights.notes, caution))
    return backbone, weights


def build_model(
    cfg, backbone: Backbone, classnames: list[str], features: Features = no_features, start: bool = True
) -> Model:
    """The model that `cfg` describes; see Model.create. start: False leaves out its classifier_init, for loading."""
    return Model.create(
        backbone,
        classnames,
        head=cfg.classifier,
        methods=peft.methods_from_keys(cfg.v) | peft.methods_from_keys(cfg),
        text_methods=peft.methods_from_keys(cfg.l),
        head_scale=cfg.classifier_scale,
        head_init=cfg.classifier_init if start else None,
        features=features,
        prompt=cfg.prompt,
        prompt_file=cfg.prompt_file,
        variant=cfg.variant,
        seed=cfg.seed,
    )


def count_parameters(model: Model) -> dict[str, int]:
    """Numbers of parameters: all, trainable, trainable in the towers and the prompts (peft), trainable in the head."""

    def trainable(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    total = sum(p.numel() for p in model.parameters())
    texts = trainable(model.head.texts) if isinstance(model.head, TextSimilarity) else 0
    peft = trainable(model.tower) + texts
    return {"total": total, "trained": trainable(model), "peft": peft, "head": trainable(model) - peft}
