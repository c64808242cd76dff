"""First weights of a head, [C, D] with rows of unit length, from what the bare backbone knows of the classes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import Backbone, ModelError

Features = Callable[[], tuple[Tensor, Tensor]]  # () -> the backbone's features [n, D] float32 and labels [n] int64


def semantic(backbone: Backbone, classnames: list[str], features: Features) -> Tensor:
    """The text feature of each class name, carried back to the image feature: t P^T."""
    text_features = backbone.encode_classnames(classnames)
    return F.normalize(text_features @ backbone.image_projection.detach().float().T, dim=-1)


def class_mean(backbone: Backbone, classnames: list[str], features: Features) -> Tensor:
    """The mean training feature of each class. Raises ModelError for a class without training images."""
    vectors, labels = features()
    counts = torch.bincount(labels, minlength=len(classnames))
    if not counts.all():
        name = classnames[int(counts.argmin())]
        raise ModelError(
            f"class '{name}' has no training image, so its head cannot start from a mean; "
            "set classifier_init semantic or None"
        )
    sums = vectors.new_zeros(len(classnames), vectors.shape[1]).index_add_(0, labels, vectors)
    return F.normalize(sums / counts[:, None], dim=-1)


HEAD_INITS: dict[str, Callable[[Backbone, list[str], Features], Tensor]] = {
    "semantic": semantic,
    "class_mean": class_mean,
}
