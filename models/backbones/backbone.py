"""A backbone: an image tower and, in a CLIP, the text tower and the two projections into their joint space."""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet, ResNetConfig
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.tokenizer import CONTEXT, ClipTokenizer, Tokenizer, class_prompts
from models.backbones.transformer import normal_parameter
from models.backbones.vit import VisionTransformer, ViTConfig
from utils.errors import ModelError

# (token ids [n, N] of n texts, the number of texts of each class [C], () -> features [C, joint]) -> these features
Recall = Callable[[Tensor, Tensor, Callable[[], Tensor]], Tensor]


def compute(tokens: Tensor, counts: Tensor, features: Callable[[], Tensor]) -> Tensor:
    """The features, computed."""
    return features()


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """The towers of a backbone and their joint space.

    joint: width of the joint space of images and texts, 0 without a text tower. image_projection and
    text_projection: whether a matrix projects a tower's feature into it; image_bias: whether the first has a bias.
    logit_bias: whether the similarities have one (SigLIP).
    """

    image: ViTConfig | ResNetConfig
    text: TextConfig | None = None
    joint: int = 0
    image_projection: bool = False
    text_projection: bool = True
    image_bias: bool = False
    logit_bias: bool = False

    @property
    def family(self) -> str:
        """The name of the family. Its weights, of any size, fit every backbone of the family."""
        return f"CLIP {self.image.kind}" if self.text else f"{self.image.kind} without a text tower"

    @property
    def activation(self) -> str | None:
        """The activation of the image tower, or of the text tower beside a ResNet."""
        return self.image.activation or (self.text.activation if self.text else None)

    @property
    def text_heads(self) -> int | None:
        """The heads of the text tower."""
        return self.text.heads if self.text else None


class Backbone(nn.Module):
    """`image` maps images [B, 3, R, R] to [B, dim]; `text`, where there is one, token ids [C, N] to [C, text_dim].

    `tokenizer` computes the ids. `mean` and `std` are the normalisation of its images, RGB in 0..1; None if the caller
    has to choose them. `recall` returns the features of texts, computed or from a cache.

    With a text tower: `image_projection` [dim, joint] and its bias [joint], None if the image feature is in the
    joint space already (a CLIP ResNet, SigLIP); `text_projection` [text_dim, joint] and its bias; `logit_scale`, a
    logarithm, and `logit_bias` [], which SigLIP adds to its logits, None for CLIP.
    """

    image: VisionTransformer | ResNet
    text: TextTransformer | None
    tokenizer: Tokenizer
    image_projection: nn.Parameter | None
    image_projection_bias: nn.Parameter | None
    text_projection: nn.Parameter | None
    text_projection_bias: nn.Parameter | None
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    def __init__(self, config: BackboneConfig):
        super().__init__()
        c = self.config = config
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        self.recall: Recall = compute
        self.image = c.image.build()
        self.text = self.image_projection = self.image_projection_bias = None
        self.text_projection = self.text_projection_bias = self.logit_bias = None
        self.tokenizer = ClipTokenizer(c.text.context if c.text else CONTEXT)
        if c.text is None:
            return
        self.text = TextTransformer(c.text)
        if c.image_projection:
            self.image_projection = normal_parameter(c.image.dim**-0.5, c.image.dim, c.joint)
        if c.image_bias:
            self.image_projection_bias = nn.Parameter(torch.zeros(c.joint))
        if c.text_projection:
            self.text_projection = normal_parameter(c.text.dim**-0.5, c.text.dim, c.joint)
        if c.text.projection_bias:
            self.text_projection_bias = nn.Parameter(torch.zeros(c.joint))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if c.logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(0.0))

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """mean and std. Raises ModelError if they are not set."""
        if self.mean is None or self.std is None:
            raise ModelError("the backbone has no mean and std of its images; set both", kind="no_normalisation")
        return self.mean, self.std

    def encode_classnames(self, classnames: list[str]) -> Tensor:
        """`encode_texts` of "a photo of a {name}.": unit length, float32 [C, joint]. Raises ModelError."""
        return self.encode_texts(classnames, [[text] for text in class_prompts(classnames)])

    @torch.no_grad()
    def encode_texts(self, classnames: list[str], texts: list[list[str]]) -> Tensor:
        """Features of each class's texts: their unit vectors' mean, of unit length again, float32 [C, joint].

        texts: one or more of each class. Raises ModelError, as `require_words` does.
        """
        tokens = self.tokenizer([text for of_class in texts for text in of_class])
        counts = torch.tensor([len(of_class) for of_class in texts])
        class_of_text = torch.arange(len(texts)).repeat_interleave(counts)
        tower = self.require_words([classnames[c] for c in class_of_text.tolist()], tokens)

        def features() -> Tensor:
            encoded = self._encode(tower, tokens)
            if len(encoded) == len(texts):
                return encoded
            sums = encoded.new_zeros(len(texts), encoded.shape[1])  # for the mean of several texts of a class
            sums.index_add_(0, class_of_text.to(encoded.device), encoded)
            return nn.functional.normalize(sums, dim=-1)

        return self.recall(tokens, counts, features)

    def _encode(self, tower: TextTransformer, tokens: Tensor) -> Tensor:
        """Features of texts, token ids [n, N]: unit length, float32 [n, joint]."""
        # in batches of similar length, as each is cut at its longest text
        device = tower.token_embedding.weight.device
        ends = self.tokenizer.ends(tokens)
        order = ends.argsort()
        batches = zip(tokens[order].to(device).split(256), ends[order].to(device).split(256), strict=True)
        features = torch.cat([self._project_texts(tower(batch, end).float()) for batch, end in batches])
        return nn.functional.normalize(features[order.argsort()], dim=-1)

    def _project_texts(self, features: Tensor) -> Tensor:
        """Features of the text tower in the joint space, [C, text_dim] -> [C, joint]."""
        if self.text_projection is not None:
            features = features @ self.text_projection.float()
        return features if self.text_projection_bias is None else features + self.text_projection_bias.float()

    def require_words(self, classnames: list[str], tokens: Tensor) -> TextTransformer:
        """The text tower. Raises ModelError without one, or if `tokens` contain one outside its vocabulary.

        tokens: int64 [C, N], of each class. Only a tower with a reduced vocabulary, or the tokenizer of another one,
        has tokens outside it; padding is not read.
        """
        if self.text is None:
            raise ModelError(
                "this backbone has no text tower, so class names cannot be read; "
                "choose a CLIP backbone, or a classifier with classifier_init class_mean (or None)",
                kind="no_text_tower",
            )
        known = self.text.token_embedding.weight.any(dim=1).cpu()
        if (largest := int(tokens.max())) >= len(known):
            raise ModelError(
                f"the tokenizer has a token {largest}, but the text tower has {len(known)} tokens, from 0; "
                "put the tokenizer.json of these weights beside them",
                kind="tokenizer_of_other_weights",
            )
        for name, known_tokens in zip(
            classnames, known[tokens] | (tokens == self.tokenizer.frame.padding), strict=True
        ):
            if not known_tokens.all():
                raise ModelError(
                    f"class '{name}' contains words outside the vocabulary of this backbone's text tower; "
                    "choose a backbone with the whole vocabulary, "
                    "or a classifier with classifier_init class_mean (or None)",
                    kind="unknown_word",
                )
        return self.text
