"""A backbone: an image tower and, in a CLIP, the text tower and the two projections into their joint space."""

import dataclasses
import math

import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.tokenizer import CONTEXT, ClipTokenizer, Tokenizer, class_prompts
from models.backbones.transformer import normal_parameter
from models.backbones.vit import HEAD_DIM, VisionTransformer
from utils.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The sizes of a backbone. `joint`, `text_dim` and `text_depth` are 0 for a backbone without a text tower."""

    dim: int  # width of the image tower's feature
    depth: int  # its number of blocks
    patch: int  # side of a patch, pixels; for a ResNet the stride of its last stage
    resolution: int  # side of an image, pixels
    joint: int = 0  # width of CLIP's joint space
    text_dim: int = 0  # width of the text tower
    text_depth: int = 0  # its number of blocks
    context: int = CONTEXT  # longest text, tokens
    stages: tuple[int, ...] = ()  # ResNets: blocks of each stage
    width: int = 0  # ResNets: channels of the first stage's 3 x 3 convolutions
    # not in the tensors; None: as in OpenAI's CLIP (quick GELU) or timm's ViT (exact GELU), heads 64 wide
    activation: str | None = None
    heads: int | None = None  # of the image tower
    text_heads: int | None = None

    @property
    def usual(self) -> "Geometry":
        """With the activation and heads of OpenAI's CLIP or timm's ViT, which are meant where the fields are None."""
        return dataclasses.replace(
            self,
            activation="quick_gelu" if self.clip else None if self.resnet else "gelu",
            heads=None if self.resnet else max(self.dim // HEAD_DIM, 1),
            text_heads=max(self.text_dim // HEAD_DIM, 1) if self.clip else None,
        )

    @property
    def clip(self) -> bool:
        return self.joint > 0

    @property
    def resnet(self) -> bool:
        return bool(self.stages)

    @property
    def family(self) -> str:
        """In words. Weights of one family fit, in any size, every backbone of it."""
        tower = "ResNet" if self.resnet else "ViT"
        return f"CLIP {tower}" if self.clip else f"{tower} without a text tower"


class Backbone(nn.Module):
    """`image` maps images [B, 3, R, R] to [B, dim]; `text`, where there is one, token ids [C, 77] to [C, text_dim].

    `tokenizer` makes the ids. `mean` and `std` are the normalisation of its images, RGB in 0..1; None where the caller
    has to choose them.

    A CLIP has `image_projection` [dim, joint] and `text_projection` [text_dim, joint], some with a bias [joint]. A CLIP
    ResNet has no image projection (None): its attention pool ends in one, so that its feature is in the joint space and
    dim = joint. `logit_bias` [] is what SigLIP adds to its logits, None for CLIP.
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

    def __init__(self, geometry: Geometry):
        super().__init__()
        g = self.geometry = geometry
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        if g.resnet:
            self.image = ResNet(g.stages, g.width, g.resolution, g.joint)
        else:
            self.image = VisionTransformer(g.dim, g.depth, g.patch, g.resolution, g.clip, g.activation, g.heads)
        self.text = self.image_projection = self.image_projection_bias = None
        self.text_projection = self.text_projection_bias = self.logit_bias = None
        self.tokenizer = ClipTokenizer(g.context)
        if g.clip:
            self.text = TextTransformer(
                TextConfig(g.text_dim, g.text_depth, g.context, heads=g.text_heads, activation=g.activation)
            )
            if not g.resnet:
                self.image_projection = normal_parameter(g.dim**-0.5, g.dim, g.joint)
            self.text_projection = normal_parameter(g.text_dim**-0.5, g.text_dim, g.joint)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

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

        # in batches of similar length, as each is cut at its longest text
        device = tower.token_embedding.weight.device
        ends = self.tokenizer.ends(tokens)
        order = ends.argsort()
        batches = zip(tokens[order].to(device).split(256), ends[order].to(device).split(256), strict=True)
        features = torch.cat([self._project_texts(tower(batch, end).float()) for batch, end in batches])
        features = nn.functional.normalize(features[order.argsort()], dim=-1)
        if len(features) == len(texts):
            return features

        # the mean of several texts of a class
        sums = features.new_zeros(len(texts), features.shape[1])
        sums.index_add_(0, class_of_text.to(features.device), features)
        return nn.functional.normalize(sums, dim=-1)

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
