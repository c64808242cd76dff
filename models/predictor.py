"""A run's model for new pictures: no data set is needed.

    model = load_run("output/RUN")
    for found in model.predict(["a.jpg", "b.png"]):
        print(found.path, found.classname, found.probability)

This is the one module of models/ that knows how images are read (datasets/).
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets.base import classes_fingerprint
from datasets.images import ImageList, Images
from datasets.loading.crops import AnyTestCrops, build_test_crops
from datasets.loading.loader import TEST_BATCH, Loader
from datasets.loading.sampler import sequential_batches
from datasets.long_tail import group_of_class, shot_groups
from datasets.new_pictures import NewPictures
from models.identity import build_identity
from models.model import Model, build_backbone, build_model, described_values
from models.outputs import mean_logits, top_predictions
from models.precision import FrozenWeights
from models.weights.lift import convert_upstream
from models.weights.load import Weights
from utils.config import Config, changed, completed
from utils.config.schema import KEYS, METHODS
from utils.device.device import prepare_cpu
from utils.device.precision import pick_precision
from utils.run import checkpoint
from utils.run.saved import SavedRun, read_run


class Ranked(NamedTuple):
    """A class for a picture. label: its number."""

    label: int
    classname: str
    probability: float


class Prediction(NamedTuple):
    """The prediction for a picture. top: its most probable classes, the first one being the prediction.

    error: why the picture could not be read; top is empty then.
    """

    path: str
    top: tuple[Ranked, ...] = ()
    error: str | None = None

    @property
    def classname(self) -> str | None:
        """The name of the predicted class."""
        return self.top[0].classname if self.top else None

    @property
    def label(self) -> int | None:
        """The number of the predicted class."""
        return self.top[0].label if self.top else None

    @property
    def probability(self) -> float | None:
        """The probability of the predicted class."""
        return self.top[0].probability if self.top else None


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model, and what it takes to read pictures as its test does.

    model: uint8 [B, 3, R, R] -> logits, float32 [B, C]. cfg: the run's configuration. shot_groups: of each class, []
    where they are not recorded. crops: of a picture. batch_size: pictures in a batch; the same pictures in the same
    batches get the same bits as in a test.
    """

    model: Model
    saved: SavedRun
    cfg: Config
    weights: Weights
    shot_groups: list[str]
    crops: AnyTestCrops
    batch_size: int
    precision: torch.dtype
    device: torch.device
    num_workers: int | None = None  # processes that read pictures; None = one a core

    @property
    def classnames(self) -> list[str]:
        """The class names, in the order of the logits."""
        return self.saved.classnames

    def with_ensembling(self) -> "Predictor":
        """The same model, with five crops of a picture."""
        crops = build_test_crops(changed(self.cfg, {"tte": True, "expand": None}), self.model.tower.resolution)
        return dataclasses.replace(self, crops=crops)

    def zero_shot(self) -> "Predictor":
        """CLIP alone on the same classes. Raises ModelError where the backbone has no text tower."""
        off = {key: False for name in METHODS for key in (name, f"v.{name}", f"l.{name}") if key in KEYS}
        cfg = changed(self.cfg, off | {"zero_shot": True, "classifier": None, "prompt": "default"})
        saved = dataclasses.replace(self.saved, checkpoint=None, checksum=None, cfg=cfg)
        return build_predictor(cfg, saved, self.device, self.batch_size, self.num_workers)

    # ---- new pictures ----

    def pictures(self, paths: Sequence[str | os.PathLike[str]]) -> NewPictures:
        """These files, to be read as the pictures of the run's test were."""
        turned = self.cfg.dataset == "folder" if self.cfg.exif_orientation is None else self.cfg.exif_orientation
        return NewPictures([os.fspath(path) for path in paths], turned, self.cfg.bit_depth)

    @torch.inference_mode()
    def logits(
        self,
        images: Images,
        advance: Callable[[int], None] = lambda count: None,
        log: Callable[[str], None] = warnings.warn,
    ) -> np.ndarray:
        """The logits of n images, float32 [n, C]; means over the crops. advance: called with the size of each batch."""
        count = len(images)
        unlabelled = ImageList(images, np.zeros(count, np.int64))
        batches = sequential_batches(np.arange(count), self.batch_size)
        loader = Loader(unlabelled, self.crops, batches, self.device, self.num_workers, self.cfg.worker_timeout, log)
        out = torch.zeros(count, len(self.classnames), device=self.device)
        for (crops, _), rows in zip(loader, out.split(self.batch_size), strict=False):
            features = torch.stack([self.model.features(crop) for crop in crops.unbind(1)])
            rows.copy_(mean_logits(self.model.head, features))
            advance(len(rows))
        return out.cpu().numpy()

    def predict(self, paths: Sequence[str | os.PathLike[str]], top: int = 5) -> list[Prediction]:
        """The predictions for picture files, in their order, with the `top` most probable classes of each."""
        pictures = self.pictures(paths)
        logits = self.logits(pictures)
        return self.predictions(pictures, logits, top)

    def predictions(self, pictures: NewPictures, logits: np.ndarray, top: int = 5) -> list[Prediction]:
        """The predictions for pictures whose logits, float32 [n, C], were computed."""
        problems = pictures.problems()
        classes, probabilities = top_predictions(torch.from_numpy(logits), min(top, len(self.classnames)))
        found = []
        for index, path in enumerate(pictures.paths):
            if index in problems:
                found.append(Prediction(path, error=problems[index]))
                continue
            pairs = zip(classes[index].tolist(), probabilities[index].tolist(), strict=True)
            ranked = tuple(Ranked(c, self.classnames[c], probability) for c, probability in pairs)
            found.append(Prediction(path, ranked))
        return found


def load_run(
    directory: str | os.PathLike[str],
    device: str | torch.device | None = None,
    weights: str | None = None,
    precision: str | None = None,
) -> Predictor:
    """The model of the run in `directory`, for new pictures. Raises CheckpointError and ModelError.

        load_run("output/RUN").predict(["a.jpg"])

    device: None = the GPU, or the CPU where there is none. weights: file or address of the backbone's weights, where
    they are elsewhere now. precision: fp16, bf16 or fp32; None = that of the run's test.
    """
    saved = read_run(Path(directory))
    given = {"weights": weights, "prec_test": precision}
    cfg = changed(saved.cfg, {key: value for key, value in given.items() if value is not None})
    return build_predictor(cfg, saved, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def build_predictor(
    cfg: Config,
    saved: SavedRun,
    device: torch.device,
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> Predictor:
    """The model that `cfg` describes, with the tensors of the saved run. Raises CheckpointError and ModelError."""
    cfg = completed(cfg, described_values(cfg))
    backbone, weights = build_backbone(cfg)
    resolution = backbone.image.resolution
    prepare_cpu(sum(parameter.numel() for parameter in backbone.image.parameters()))
    backbone.to(device)
    model = build_model(cfg, backbone, saved.classnames, start=False).to(device)

    # ---- tensors ----
    identity = build_identity(cfg, model, backbone, weights, classes_fingerprint(saved.classnames))
    if saved.checkpoint:
        required, absent = identity.fits | identity.computed, identity.absent | saved.settings
        checkpoint.restore(model, saved.checkpoint, required, convert_upstream, absent)
    dtype, _ = pick_precision(cfg.prec_test, device)
    FrozenWeights(model, dtype)
    model.eval()

    groups = saved.shot_groups
    if not groups and saved.counts:
        masks = shot_groups(np.array(saved.counts), cfg.many_threshold, cfg.few_threshold)
        groups = group_of_class(masks)
    return Predictor(
        model,
        saved,
        cfg,
        weights,
        groups,
        build_test_crops(changed(cfg, {"tte": False}), resolution),
        batch_size or max(cfg.batch_size, TEST_BATCH),
        dtype,
        device,
        num_workers,
    )
