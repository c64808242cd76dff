"""The zero-shot head of CLIP (Radford et al. 2021) and SigLIP (2303.15343): similarity to the texts of the classes."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.transformer import Zero
from models.heads.texts import CachedTextFeatures, TextEncoderFeatures


class TextSimilarity(nn.Module):
    """exp(logit_scale) <u(z + a_v(z)), u(t + a_t(t))> + logit_bias, u(x) = x / |x|, with the image feature z = f P + b
    and the text features t = g Q + c in the joint space. It has no trainable parameters unless a method adds them:
    `proj_tuning` trains P, Q, b and c, `clip_adapter` adds a_v and a_t.

    texts: computes g [C, text_dim]. image_projection: P [D, joint], or None if f [B, D] is in the joint space already.
    text_projection: Q [text_dim, joint], or None if g is. Biases b, c [joint] and logit_bias []: None = 0. The slots
    `image_adapter` and `text_adapter` are a_v and a_t.
    """

    kind = "head"
    image_projection: Tensor | None
    image_projection_bias: Tensor | None
    text_projection: Tensor | None
    text_projection_bias: Tensor | None
    image_adapter: nn.Module
    text_adapter: nn.Module

    def __init__(
        self,
        texts: TextEncoderFeatures | CachedTextFeatures,
        image_projection: Tensor | None,
        text_projection: Tensor | None,
        logit_scale: Tensor,
        *,
        image_projection_bias: Tensor | None = None,
        text_projection_bias: Tensor | None = None,
        logit_bias: Tensor | None = None,
    ):
        super().__init__()
        self.texts = texts
        self.scale = float(logit_scale.detach().exp())
        self.logit_bias = None if logit_bias is None else float(logit_bias.detach())
        for name, value in (
            ("image_projection", image_projection),
            ("image_projection_bias", image_projection_bias),
            ("text_projection", text_projection),
            ("text_projection_bias", text_projection_bias),
        ):
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
        images = project(features, self.image_projection, self.image_projection_bias)
        texts = project(self.texts(), self.text_projection, self.text_projection_bias)
        images = F.normalize(images + self.image_adapter(images), dim=-1)
        texts = F.normalize(texts + self.text_adapter(texts), dim=-1)
        logits = self.scale * F.linear(images, texts)
        return logits if self.logit_bias is None else logits + self.logit_bias


def project(x: Tensor, matrix: Tensor | None, bias: Tensor | None) -> Tensor:
    """x M + b; None is the identity, or no bias."""
    x = x if matrix is None else x @ matrix
    return x if bias is None else x + bias
