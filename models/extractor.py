"""An image encoder that reads pictures as a test does: images in, features out.

extractor = build_extractor(load_config("folder", "clip_vit_b16", "zs", []), find_device(None))
features = extractor.features(ImagePaths(["a.jpg", "b.png"]))
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.images import ImageList, Images
from datasets.loading.crops import AnyTestCrops, build_test_crops
from datasets.loading.loader import TEST_BATCH, Loader
from datasets.loading.sampler import sequential_batches
from datasets.loading.workers import default_workers
from models.backbones.backbone import Backbone
from models.features import cached_features
from models.model import Model, build_backbone, described_values
from models.precision import FrozenWeights
from models.weights.load import Weights
from utils.cache import TensorCache
from utils.config import Config, changed, completed
from utils.device.device import make_deterministic, prepare_cpu
from utils.device.environment import environment
from utils.device.precision import pick_precision
from utils.files import sha256_of_code
from utils.text import visible

Log = Callable[[str], None]  # called with a line about slow readers or little memory
NO_CACHE = TensorCache("features", False, lambda line: None)


@dataclasses.dataclass(frozen=True)
class Extractor:
    """model: its tower computes features, uint8 [B, 3, R, R] -> float32 [B, D]. weights_key: a key of its frozen
    weights and their use, for the cache of features. crops: of a picture. batch_size: pictures in a batch; the same
    pictures in the same batches have the same bits as in a test. num_workers: processes that read; None = one per
    core. worker_timeout: seconds; see Loader.
    """

    model: Model
    weights: Weights
    weights_key: str
    crops: AnyTestCrops
    batch_size: int
    precision: torch.dtype
    device: torch.device
    num_workers: int | None
    worker_timeout: float | None

    @torch.inference_mode()
    def features(
        self,
        images: Images,
        cache: TensorCache = NO_CACHE,
        advance: Callable[[int], None] = lambda count: None,
        log: Log = warnings.warn,
    ) -> np.ndarray:
        """The image features that a head reads: float32 [n, K, D] of the K crops of each of n images.

        cache: stores the features of a frozen tower. advance: called with the size of each batch. Raises
        FloatingPointError if a feature is not finite.
        """
        indices = np.arange(len(images))
        sizes = [len(batch) for batch in sequential_batches(indices, self.batch_size)]
        out = torch.zeros(len(images), self.crops.count, self.model.tower.dim)

        def key() -> dict[str, Any]:
            return feature_key(self.weights_key, images, indices, self.crops, environment(self.device, 1))

        batches = self.read(images, log)
        features, _ = cached_features(self.model, batches, sizes, self.crops.count, cache, key)
        parts = out.split(self.batch_size)
        for batch, rows in zip(features, parts, strict=False):  # without images: one part and no batch
            rows.copy_(batch.transpose(0, 1))
            advance(len(rows))
        if len(bad := np.flatnonzero(~out.isfinite().all(2).all(1).numpy())):
            first = visible(images.describe(int(bad[0])))
            raise FloatingPointError(
                f"the features of {len(bad):,} of {len(images):,} images are not finite (the first is {first}); "
                "try the precision fp32"
            )
        return out.numpy()

    def read(self, images: Images, log: Log) -> Iterator[Tensor]:
        """The crops of each batch of images, uint8 [b, K, 3, R, R], on the device."""
        unlabelled = ImageList(images, np.zeros(len(images), np.int64))
        batches = sequential_batches(np.arange(len(images)), self.batch_size)
        workers = default_workers(unlabelled) if self.num_workers is None else self.num_workers
        workers = min(workers, len(batches))  # each reads a batch by itself
        for crops, _ in Loader(unlabelled, self.crops, batches, self.device, workers, self.worker_timeout, log):
            yield crops


def feature_key(
    weights_key: str, images: Images, indices: np.ndarray, crops: AnyTestCrops, machine: dict[str, Any]
) -> dict[str, Any]:
    """The key of cached features of images[indices], beside the model: see models/features.py.

    machine: the environment of the run (utils/device/environment.py).
    """
    return text_key(weights_key, machine) | {
        "images": images.digest(indices.tolist()),
        "exif_orientation": images.exif_orientation,
        "bit_depth": images.bit_depth,
        "crops": repr(crops),
    }


def text_key(weights_key: str, machine: dict[str, Any]) -> dict[str, Any]:
    """The key of cached features of class texts, beside the texts: see models/features.py."""
    root = Path(__file__).parents[1]
    code = sha256_of_code(root / "models", root / "datasets")
    return {"weights": weights_key, "environment": machine, "code": code}


def weights_key(weights: Weights, backbone: Backbone) -> str:
    """A key of frozen weights and their use: the file's hash and the config, as activation and heads are not in it."""
    return f"{weights.sha256} {backbone.config}"


def build_loaded_backbone(cfg: Config, device: torch.device, texts: bool) -> tuple[Config, Backbone, Weights]:
    """The backbone that `cfg` describes, on the device; and `cfg` with the values that its weights determine.

    texts: whether to build its text tower. Raises ModelError.
    """
    if cfg.deterministic:
        make_deterministic()
    cfg = completed(cfg, described_values(cfg))
    backbone, weights = build_backbone(cfg, texts)
    prepare_cpu(sum(parameter.numel() for parameter in backbone.image.parameters()))
    return cfg, backbone.to(device), weights


def build_extractor(
    cfg: Config, device: torch.device, batch_size: int | None = None, num_workers: int | None = None
) -> Extractor:
    """The bare image tower that `cfg` names, with one crop of an image. Raises ModelError."""
    cfg, backbone, weights = build_loaded_backbone(cfg, device, texts=False)
    model = Model(backbone.image, nn.Identity(), *backbone.normalisation).requires_grad_(False).to(device)
    return build_extractor_of(cfg, model, backbone, weights, device, batch_size, num_workers)


def build_extractor_of(
    cfg: Config,
    model: Model,
    backbone: Backbone,
    weights: Weights,
    device: torch.device,
    batch_size: int | None,
    num_workers: int | None,
) -> Extractor:
    """A loaded model, in the precision of a test, with one crop of an image."""
    dtype, _ = pick_precision(cfg.prec_test, device)
    FrozenWeights(model, dtype)
    return Extractor(
        model=model.eval(),
        weights=weights,
        weights_key=weights_key(weights, backbone),
        crops=build_test_crops(changed(cfg, {"tte": False}), backbone.image.resolution),
        batch_size=batch_size or max(cfg.batch_size, TEST_BATCH),
        precision=dtype,
        device=device,
        num_workers=num_workers,
        worker_timeout=cfg.worker_timeout,
    )
