"""Features of images and of class texts, from the user's cache if a frozen encoder has computed them before.

The cache has the features of the centre crops that class_mean and linear_probing start from, those of the test crops
of a run with a frozen image encoder (zs, lp, coop, clip_adapter, proj_tuning), and those of the texts that a head
starts from. Training crops differ in every epoch.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.backbone import Backbone
from models.model import Model
from models.precision import precisions
from utils.cache import LARGEST_BYTES, TensorCache

# images x crops x parameters of the encoder, above which the cache is faster: 233 images with ViT-B/16, 8 TFLOP
LEAST_WORK = 2e10
# class texts x parameters of their encoder, likewise: 130 texts with CLIP's ViT-B/16, 0.2 TFLOP
LEAST_TEXT_WORK = 5e9


def cached_features(
    model: Model,
    batches: Iterable[Tensor],
    batch_sizes: Sequence[int],
    num_crops: int,
    cache: TensorCache,
    key: Callable[[], dict[str, Any]],
) -> tuple[Iterator[Tensor], bool]:
    """The features [K, b, D] of each batch of crops [b, K, 3, R, R], and whether they come from the cache.

    batches: not read if the cache has the features. batch_sizes: b of each batch. num_crops: K.
    key: called if the cache is used; returns everything that the features depend on besides the model's precision
    and normalisation and the batch size: weights, images, crops, device, versions, code; see TensorCache.
    """
    computed = (torch.stack([model.features(crop) for crop in crops.unbind(1)]) for crops in batches)
    shape = (num_crops, sum(batch_sizes), model.tower.dim)
    if not (cache.enabled and _worth_caching(model.tower, shape)):
        return computed, False
    full_key = key() | {
        "precisions": precisions(model.tower),
        "mean, std": [model.mean.tolist(), model.std.tolist()],
        "batch": batch_sizes[0],
        "shape": shape,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    features = cache.fetch(full_key, shape)
    if features is None:
        return cache.stream(full_key, shape, computed, dim=1), False
    path, device = cache.path(full_key), model.mean.device
    cache.log(f"features  of {shape[1]:,} images come from {path}; feature_cache False computes them")
    return (part.to(device) for part in features.split(list(batch_sizes), dim=1)), True


def cached_text_features(
    cache: TensorCache,
    key: Callable[[], dict[str, Any]],
    backbone: Backbone,
    tokens: Tensor,
    counts: Tensor,
    features: Callable[[], Tensor],
) -> Tensor:
    """The features of class texts, float32 [C, joint], computed by `features` if the cache does not have them.

    key: as of cached_features. tokens: ids [n, N] of n texts. counts: the number of texts of each class, [C].
    """
    parameters = list(backbone.text.parameters()) if backbone.text else []
    work = len(tokens) * sum(parameter.numel() for parameter in parameters)
    if not backbone.text or not cache.enabled or work < LEAST_TEXT_WORK:
        return features()
    full_key = key() | {
        "texts": hashlib.sha256(tokens.numpy().tobytes() + counts.numpy().tobytes()).hexdigest(),
        "precisions": precisions(backbone.text),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    found = cache.fetch(full_key, (len(counts), backbone.config.joint))
    if found is None:
        computed = features()
        cache.store(full_key, computed)
        return computed
    path = cache.path(full_key)
    cache.log(f"features  of the texts of {len(counts):,} classes come from {path}; feature_cache False computes them")
    return found.to(parameters[0].device)


def _worth_caching(tower: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether features of this shape [K, n, D] are the same in the next run, slow to compute, and not too large."""
    num_crops, num_images, dim = shape
    parameters = list(tower.parameters())
    frozen = not any(parameter.requires_grad for parameter in parameters)
    work = num_crops * num_images * sum(parameter.numel() for parameter in parameters)
    return frozen and work >= LEAST_WORK and 4 * num_crops * num_images * dim <= LARGEST_BYTES
