"""A run's model for new pictures: no data set is needed.

    model = load_run("output/RUN")
    for found in model.predict(["a.jpg", "b.png"]):
        print(found.path, found.classname, found.probability)

In models/, only this module and models/extractor.py read images (datasets/).
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.base import classes_fingerprint
from datasets.images import Images
from datasets.loading.crops import build_test_crops
from datasets.long_tail import group_of_class, shot_groups
from datasets.new_pictures import NewPictures
from models.extractor import Extractor, Log, build_extractor_of, build_loaded_backbone
from models.identity import build_identity
from models.model import build_model
from models.outputs import mean_logits, top_predictions
from models.weights.descriptions import describe_backbone
from models.weights.find import is_missing_file
from models.weights.lift import convert_upstream
from utils.adjustment import Adjustment, read_adjustment
from utils.config import Config, changed, completed
from utils.config.parsing import parse_value
from utils.config.schema import KEYS, METHODS
from utils.device.device import find_device
from utils.errors import ModelError
from utils.run import checkpoint
from utils.run.directory import RunDir
from utils.run.saved import PROPERTIES, SavedRun, read_run


class Ranked(NamedTuple):
    """One of the most probable classes of a picture. label: its number."""

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
class Predictor(Extractor):
    """A trained model that reads pictures as its test does.

    model: uint8 [B, 3, R, R] -> logits, float32 [B, C]. cfg: the run's configuration. shot_groups: of each class, []
    if they are not recorded.
    """

    saved: SavedRun
    cfg: Config
    shot_groups: list[str]
    adjustment: Adjustment = Adjustment()  # of the logits, for predictions

    @property
    def classnames(self) -> list[str]:
        """The class names, in the order of the logits."""
        return self.saved.classnames

    def with_ensembling(self) -> "Predictor":
        """The same model, with the crops of the run's configuration and tte True: five, unless it has others."""
        crops = build_test_crops(changed(self.cfg, {"tte": True}), self.model.tower.resolution)
        return dataclasses.replace(self, crops=crops)

    def zero_shot(self) -> "Predictor":
        """CLIP alone on the same classes. Raises ModelError if the backbone has no text tower."""
        off = {key: False for name in METHODS for key in (name, f"v.{name}", f"l.{name}") if key in KEYS}
        cfg = changed(self.cfg, off | {"zero_shot": True, "classifier": None, "prompt": "default"})
        saved = dataclasses.replace(self.saved, checkpoint=None, checksum=None, cfg=cfg)
        alone = build_predictor(cfg, saved, self.device, self.batch_size, self.num_workers)
        return dataclasses.replace(alone, crops=self.crops)

    @functools.cached_property
    def _added(self) -> "Predictor":
        return self.zero_shot()

    # ---- images ----

    def pictures(self, paths: Iterable[str | bytes | os.PathLike[str]]) -> NewPictures:
        """These files, read like the pictures of the run's test."""
        turned = self.cfg.dataset == "folder" if self.cfg.exif_orientation is None else self.cfg.exif_orientation
        return NewPictures([os.fsdecode(path) for path in paths], turned, self.cfg.bit_depth)

    @torch.inference_mode()
    def logits(
        self, images: Images, advance: Callable[[int], None] = lambda count: None, log: Log = warnings.warn
    ) -> np.ndarray:
        """The logits of n images, float32 [n, C]; means over the crops. advance: called with the size of each batch.

        NewPictures that cannot be read have the logits of a black image, and `images.problems()` has the reasons.
        """
        out = torch.zeros(len(images), len(self.classnames), device=self.device)
        parts = out.split(self.batch_size)
        for crops, rows in zip(self.read(images, log), parts, strict=False):  # without images: one part and no batch
            rows.copy_(self._logits(crops))
            advance(len(rows))
        return out.cpu().numpy()

    def predict(self, paths: Iterable[str | bytes | os.PathLike[str]], top: int = 5) -> list[Prediction]:
        """The predictions for picture files, in their order, with the `top` most probable classes of each."""
        return [found for batch in self.stream(self.pictures(paths), top) for found in batch]

    @torch.inference_mode()
    def stream(self, pictures: NewPictures, top: int = 5, log: Log = warnings.warn) -> Iterator[list[Prediction]]:
        """The predictions for pictures, a batch at a time: memory does not grow with their number."""
        k, start = min(top, len(self.classnames)), 0
        for crops in self.read(pictures, log):
            logits = self._adjusted(crops)
            classes, probabilities = (values.tolist() for values in top_predictions(logits, k))
            finite = logits.isfinite().all(1).tolist()
            yield [
                self._prediction(pictures, start + row, *values)
                for row, values in enumerate(zip(classes, probabilities, finite, strict=True))
            ]
            start += len(crops)

    def _adjusted(self, crops: Tensor) -> Tensor:
        """The adjusted logits of a batch, float32 [b, C]."""
        logits = self._logits(crops)
        if self.adjustment.is_identity:
            return logits
        added = self._added._logits(crops).cpu().numpy() if self.adjustment.zero_shot else None
        return torch.from_numpy(self.adjustment.scaled(logits.cpu().numpy(), added))

    def _logits(self, crops: Tensor) -> Tensor:
        """The logits of a batch, float32 [b, C]; means over its crops [b, K, 3, R, R]."""
        features = torch.stack([self.model.features(crop) for crop in crops.unbind(1)])
        return mean_logits(self.model.head, features)

    def _prediction(
        self, pictures: NewPictures, index: int, classes: list[int], probabilities: list[float], is_finite: bool
    ) -> Prediction:
        path, problem = pictures.path(index), pictures.problem(index)
        if problem is None and not is_finite:
            problem = "the model's output for it is not finite; try the precision fp32"
        if problem is not None:
            return Prediction(path, error=problem)
        pairs = zip(classes, probabilities, strict=True)
        return Prediction(path, tuple(Ranked(c, self.classnames[c], probability) for c, probability in pairs))


def load_run(
    directory: str | os.PathLike[str],
    device: str | torch.device | None = None,
    weights: str | os.PathLike[str] | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> Predictor:
    """The model of the run in `directory`, for new pictures. Raises CheckpointError, ModelError and ConfigError.

        load_run("output/RUN").predict(["a.jpg"])

    device: None = the GPU, or the CPU if there is none. weights: file or address of the backbone's weights, if they
    have moved since. precision: fp16, bf16, fp32 or int8; None = that of the run's test. batch_size: pictures that are
    computed at once; None = as in the run's test. num_workers: processes that read pictures; None = one per core.
    """
    saved = read_run(Path(directory))
    given = {"weights": None if weights is None else os.fspath(weights), "prec_test": precision}
    cfg = changed(saved.cfg, {key: value for key, value in given.items() if value is not None})
    if not weights and is_missing_file(cfg.weights):
        message = (
            f"the weights that the run in {directory} was trained with are not at {cfg.weights} any more; "
            "set their path: --weights FILE (from Python weights=FILE)"
        )
        raise ModelError(message, kind="moved_weights", path=cfg.weights, key="weights")
    adjustment = read_adjustment(RunDir(saved.directory).adjustment, len(saved.classnames), saved.checksum)
    predictor = build_predictor(cfg, saved, find_device(device), batch_size, num_workers)
    return dataclasses.replace(predictor, adjustment=adjustment)


def build_predictor(
    cfg: Config,
    saved: SavedRun,
    device: torch.device,
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> Predictor:
    """The model that `cfg` describes, with the tensors of the saved run. Raises CheckpointError and ModelError."""
    cfg = completed(cfg, _given_properties(cfg.backbone, cfg.weights, saved.settings))
    cfg, backbone, weights = build_loaded_backbone(cfg, device, texts=cfg.classifier is None)
    model = build_model(cfg, backbone, saved.classnames, start=False).to(device)
    identity = build_identity(cfg, model, backbone, weights, classes_fingerprint(saved.classnames))
    if saved.checkpoint:
        required, absent = identity.fits | identity.computed, identity.absent | saved.settings
        checkpoint.restore(model, saved.checkpoint, required, convert_upstream, absent)

    groups = saved.shot_groups
    if not groups and saved.counts:
        masks = shot_groups(np.array(saved.counts), cfg.many_threshold, cfg.few_threshold)
        groups = group_of_class(masks)
    extractor = build_extractor_of(cfg, model, backbone, weights, device, batch_size, num_workers)
    return Predictor(**vars(extractor), saved=saved, cfg=cfg, shot_groups=groups)


def _given_properties(backbone: str, weights: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded properties of the weights that the user set: their description lacks them or differs.

    The others come from the description, which may have another activation for each tower. Raises ConfigError.
    """
    known = describe_backbone(backbone, weights)
    config, mean, std = known.config, known.mean, known.std
    described: dict[str, Any] = {"mean": mean and list(mean), "std": std and list(std)}
    if config:
        described |= {"activation": config.activation, "heads": config.image.heads}
        described |= {"text_heads": config.text_heads}
    recorded = {key: settings.get(key) for key in PROPERTIES}
    return {key: parse_value(key, KEYS[key], v) for key, v in recorded.items() if v != described.get(key)}
