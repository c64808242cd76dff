"""CLIP's own head (Radford et al. 2021): the similarity of an image to the texts of the classes."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.transformer import Zero
from models.heads.texts import CachedTextFeatures, TextEncoderFeatures


class TextSimilarity(nn.Module):
    """exp(logit_scale) <u(f P + a_v(f P)), u(g Q + a_t(g Q))>, u(x) = x / |x|; features [B, D] -> logits [B, C].

    texts: computes g [C, text_dim]. image_projection: P [D, joint], or None if f is in the joint space already.
    text_projection: Q [text_dim, joint], or None if g is. The slots `image_adapter` and `text_adapter` are a_v and a_t.
    Nothing in it trains by itself.
    """

    kind = "head"
    image_projection: Tensor | None
    text_projection: Tensor | None
    image_adapter: nn.Module
    text_adapter: nn.Module

    def __init__(
        self,
        texts: TextEncoderFeatures | CachedTextFeatures,
        image_projection: Tensor | None,
        text_projection: Tensor | None,
        logit_scale: Tensor,
    ):
        super().__init__()
        self.texts = texts
        self.scale = float(logit_scale.detach().exp())
        for name, value in (("image_projection", image_projection), ("text_projection", text_projection)):
            value = None if value is None else value.detach().float().clone()
            self.register_buffer(name, value, persistent=False)
        self.image_adapter, self.text_adapter = Zero(), Zero()

    @property
    def joint_dim(self) -> int:
        """Width of the joint space."""
        if self.text_projection is not None:
            return self.text_projection.shape[1]
        return self.texts().shape[1]

    def forward(self, features: Tensor) -> Tensor:
        images = features if self.image_projection is None else features @ self.image_projection
        texts = self.texts() if self.text_projection is None else self.texts() @ self.text_projection
        images = F.normalize(images + self.image_adapter(images), dim=-1)
        texts = F.normalize(texts + self.text_adapter(texts), dim=-1)
        return self.scale * F.linear(images, texts)
