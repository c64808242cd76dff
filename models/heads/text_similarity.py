"""CLIP's own head (Radford et al. 2021): the similarity of an image to the texts of the classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.backbones.transformer import Zero
from models.heads.prompts import class_texts
from models.heads.texts import FixedTexts, build_texts
from models.peft import attach
from models.peft.adapter import Bottleneck


class TextSimilarity(nn.Module):
    """exp(logit_scale) <u(f P + a_v(f P)), u(g Q + a_t(g Q))>, u(x) = x / |x|; features [B, D] -> logits [B, C].

    texts: gives g [C, text_dim]; image_projection: P [D, joint], or None where f is in the joint space already;
    text_projection: Q [text_dim, joint], or None where g is; tune: P and Q train; width: of the two CLIP-Adapters a_v
    and a_t (Gao et al. 2021, arXiv 2110.04544), or None for none. Nothing else in it trains.
    """

    def __init__(
        self,
        texts: nn.Module,
        image_projection: Tensor | None,
        text_projection: Tensor | None,
        logit_scale: Tensor,
        tune: bool = False,
        width: int | None = None,
    ):
        super().__init__()
        self.texts = texts
        self.scale = float(logit_scale.detach().exp())
        for name, value in (("image_projection", image_projection), ("text_projection", text_projection)):
            value = None if value is None else value.detach().float().clone()
            if tune and value is not None:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)
        self.image_adapter, self.text_adapter = Zero(), Zero()
        if width:
            joint = text_projection.shape[1]
            self.image_adapter, self.text_adapter = Bottleneck(joint, width), Bottleneck(joint, width)

    def forward(self, features: Tensor) -> Tensor:
        images = features if self.image_projection is None else features @ self.image_projection
        texts = self.texts() if self.text_projection is None else self.texts() @ self.text_projection
        images = F.normalize(images + self.image_adapter(images), dim=-1)
        texts = F.normalize(texts + self.text_adapter(texts), dim=-1)
        return self.scale * F.linear(images, texts)


def build_text_similarity(cfg, backbone: Backbone, classnames: list[str]) -> TextSimilarity:
    """The head of a run without a classifier. Where nothing in the texts trains, they are encoded here, once."""
    if cfg.prompt != "default":  # for zero-shot alone: utils.config.check
        features = backbone.encode_texts(classnames, class_texts(classnames, cfg.prompt, cfg.prompt_file))
        return TextSimilarity(FixedTexts(features), backbone.image_projection, None, backbone.logit_scale)
    texts: nn.Module = build_texts(cfg, backbone, classnames).to(backbone.text_projection.device)
    attach(backbone.text, cfg.l, len(classnames), variant=cfg.variant)
    if not any(parameter.requires_grad for parameter in texts.parameters()):
        with torch.no_grad():
            texts = FixedTexts(texts.encode())
    width = cfg.clip_adapter_dim if cfg.clip_adapter else None
    projections = backbone.image_projection, backbone.text_projection
    return TextSimilarity(texts, *projections, backbone.logit_scale, tune=cfg.proj_tuning, width=width)
