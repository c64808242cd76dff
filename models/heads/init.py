"""Initial values of a head, from texts of the classes or from training features.

Each function has as arguments the bare backbone, the class names, `features`, and the texts of each class.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.backbone import Backbone
from models.heads import logistic
from utils.errors import ModelError

Features = Callable[[], tuple[Tensor, Tensor]]  # () -> the backbone's features [n, D] float32 and labels [n] int64
Texts = list[list[str]]  # one or more of each class
PATIENCE_SECONDS = 60.0  # for scikit-learn's logistic regression, by logistic.sklearn_seconds


class FirstValues(NamedTuple):
    """Weights of a head [C, D], rows of unit length, and biases [C] for a head that has them; None = zeros."""

    weight: Tensor
    bias: Tensor | None = None


def no_features() -> tuple[Tensor, Tensor]:
    """The `features` of a caller that has none. Raises ModelError."""
    message = "this head_init starts from training features; pass features, or choose another"
    raise ModelError(message, kind="no_features")


@torch.no_grad()
def semantic(backbone: Backbone, classnames: list[str], features: Features, texts: Texts | None = None) -> FirstValues:
    """The text feature t of each class, mapped back to the image feature space by the image projection P: w = t P^T,
    divided by |w|. Without a P, as in CLIP's ResNets and SigLIP 2, w = t. Where the projection has a bias b, as in PE
    and EVA02-CLIP, a `LinearClassifier` starts with the bias <t, b> / |w|.

    texts: see models/heads/prompts.py; None = "a photo of a {name}."
    bias: the similarity of t to the projected image feature, <t, f P + b>, is <w, f> + <t, b>. The other heads have no
    bias: their logits depend on directions, to which the length of f P belongs and a constant does not.
    """
    rows = backbone.encode_texts(classnames, texts) if texts else backbone.encode_classnames(classnames)
    bias = backbone.image_projection_bias
    products = None if bias is None else rows @ bias.float()
    if backbone.image_projection is not None:
        rows = rows @ backbone.image_projection.float().T
    return FirstValues(F.normalize(rows, dim=-1), None if products is None else products / rows.norm(dim=-1))


@torch.no_grad()
def class_mean(
    backbone: Backbone, classnames: list[str], features: Features, texts: Texts | None = None
) -> FirstValues:
    """The mean feature of the training images of each class, divided by its length. Raises ModelError for a class
    without training images.
    """
    vectors, labels = features()
    counts = _images_per_class(labels, classnames)
    sums = vectors.new_zeros(len(classnames), vectors.shape[1]).index_add_(0, labels, vectors)
    return FirstValues(F.normalize(sums / counts[:, None], dim=-1))


@torch.no_grad()
def linear_probing(
    backbone: Backbone, classnames: list[str], features: Features, texts: Texts | None = None
) -> FirstValues:
    """The weights of scikit-learn's LogisticRegression on the same features, divided by their length: balanced class
    weights, at most 100 iterations. Where scikit-learn could take more than a minute, the same optimisation runs on the
    device (models/heads/logistic.py).

    Raises ModelError for a class without training images, and for a single class.
    """
    if len(classnames) == 1:
        message = (
            f"linear_probing needs at least two classes, found one, '{classnames[0]}'; "
            "set classifier_init class_mean, semantic or None"
        )
        raise ModelError(message, kind="single_class", key="classifier_init")
    vectors, labels = features()
    _images_per_class(labels, classnames)
    num_images, dim = vectors.shape
    slow = logistic.sklearn_seconds(num_images, dim, len(classnames)) > PATIENCE_SECONDS
    weight = logistic.fit(vectors, labels, len(classnames)) if slow else _sklearn_probe(vectors, labels)
    if len(classnames) == 2:  # scikit-learn returns the row of class 1 only
        weight = torch.cat([-weight, weight])
    return FirstValues(F.normalize(weight, dim=-1))


def _sklearn_probe(vectors: Tensor, labels: Tensor) -> Tensor:
    """scikit-learn's coefficients, [C, D], or [1, D] for two classes, computed on the CPU."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(class_weight="balanced", max_iter=logistic.ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are the definition, converged or not
        probe.fit(vectors.cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(probe.coef_).to(vectors)


def _images_per_class(labels: Tensor, classnames: list[str]) -> Tensor:
    """The number of `labels` of each class, [C]. Raises ModelError for a class without any."""
    counts = torch.bincount(labels, minlength=len(classnames))
    if not counts.all():
        name = classnames[int(counts.argmin())]
        message = (
            f"class '{name}' has no training image, so its head cannot start from training features; "
            "set classifier_init semantic or None"
        )
        raise ModelError(message, kind="class_without_images", key="classifier_init")
    return counts
