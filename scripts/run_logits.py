"""The logits of an earlier run: from its files if they are of its checkpoint, or computed."""

import argparse
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from run_images import count_trained_on, load_model, own_images, with_options

from datasets import build_data
from datasets.base import SPLITS, DataSet, ImageList
from datasets.long_tail import shot_groups
from models.predictor import Predictor
from utils import terminal
from utils.errors import CheckpointError, ConfigError, DataError, ModelError
from utils.evaluators import ClassInfo
from utils.run import results
from utils.run.directory import RunDir
from utils.run.mode import Mode
from utils.run.results import same_images
from utils.run.saved import read_run


class Images(NamedTuple):
    """Logits, float32 [n, C], and labels, int64 [n], of images. split: of the run; None for another file.

    zero_shot: the logits of the zero-shot model, if needed.
    """

    split: str | None
    logits: np.ndarray
    labels: np.ndarray
    zero_shot: np.ndarray | None = None

    @property
    def words(self) -> str:
        """The images in words."""
        return f"{len(self.labels):,} {SPLITS.get(self.split or '', 'other')} images"


class Run:
    """A run to adjust: its records, and its logits, from its files or computed."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.saved = read_run(args.run)
        self.directory = RunDir(args.run)
        self.record = self.directory.training_record(self.saved.checkpoint)
        self.cfg = with_options(self.saved.cfg, args)
        if not self.saved.counts:
            message = (
                f"{args.run} does not record its class counts; test it once with test_only True model_dir {args.run}"
            )
            raise CheckpointError(message, kind="unrecorded_run", path=args.run)

    @property
    def counts(self) -> np.ndarray:
        """Training images of each class, int64 [C]."""
        return np.array(self.saved.counts, np.int64)

    @functools.cached_property
    def classes(self) -> ClassInfo:
        """The classes with their shot groups."""
        groups = shot_groups(self.counts, self.cfg.many_threshold, self.cfg.few_threshold)
        if recorded := self.saved.shot_groups:
            groups = {name: np.array([group == name for group in recorded]) for name in groups}
        return ClassInfo(self.saved.classnames, self.counts, groups)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The model of the run."""
        return load_model(self.cfg, self.saved, self.args)

    @functools.cached_property
    def zero_shot(self) -> Predictor:
        """Zero-shot CLIP. Raises ModelError."""
        try:
            return self.predictor.zero_shot()
        except ModelError as error:
            if error.kind != "no_text_tower":
                raise
            message = f"--gla adds zero-shot CLIP, and {self.cfg.backbone} has no text tower; leave --gla out"
            raise ModelError(message, kind="no_text_tower") from error

    # ---- logits ----

    def images(self, split: str, with_zero_shot: bool) -> Images:
        """The images of a split; logits from the run's files if they are of its checkpoint. Raises UserErrors."""
        found = None if with_zero_shot else self._saved_logits(split)
        if found is not None:
            return found
        data = build_data(self.cfg, validation=split == "val")
        images = own_images(data, split, self.record.fingerprints)
        if split == "val":
            self._check_validation(data, images)
        zero_shot = self._compute(self.zero_shot, images.images, split) if with_zero_shot else None
        return Images(split, self._compute(self.predictor, images.images, split), images.labels, zero_shot)

    def _check_validation(self, data: DataSet, images: ImageList) -> None:
        """Raises a ConfigError for the test images, and logs the number of images that the run was trained on."""
        if same_images(images.fingerprint(data.root), data.test.fingerprint(data.root)):
            message = (
                f"the validation images of {data.name} are its test images, to which nothing may be fitted; "
                "fit on others: --on train"
            )
            raise ConfigError(message, kind="fits_on_test")
        if count := count_trained_on(images, data, self.record.images):
            terminal.say(f"warning   the run was trained on {count:,} of the {len(images):,} validation images")

    def _compute(self, predictor: Predictor, images: Any, split: str) -> np.ndarray:
        with terminal.progress(len(images), SPLITS[split]) as bar:
            logits = predictor.logits(images, bar.update, terminal.say)
        if not np.isfinite(logits).all():
            message = (
                f"the logits of the {SPLITS[split]} images are not finite; test the run first, which names the image"
            )
            raise FloatingPointError(message)
        return logits

    def _saved_logits(self, split: str) -> Images | None:
        """The images in the run's own file of logits; None if it has none of its checkpoint and its images."""
        mode = Mode(trains=False, split=split)
        path = self.directory.logits(mode)
        writers = [results.read(self.directory.results(each)) for each in (mode, Mode())]
        written = [content for content in writers if content.get("logits") == path.name]
        about = results.logits_about(path)
        if not (written and about and "fingerprint" in about):
            return None
        recorded, found = self.record.fingerprints, about["fingerprint"]
        is_test = split != "test" and same_images(found, recorded.get("test"))
        same = same_images(found, recorded.get(split, found)) and not is_test
        if written[0].get("checkpoint") != self.saved.checksum or not same:
            return None
        return read_logits(path, len(self.saved.classnames), split)

    def given_images(self, path: Path) -> Images:
        """The images in the file of --logits. Raises ConfigError for test images."""
        about = results.logits_about(path)
        if about is None or "fingerprint" not in about:
            message = f"{path} is not a file of logits that records its images; write one with save_logits True"
            raise ConfigError(message, kind="not_logits", path=path)
        self.require_not_test(about["fingerprint"], path)
        split = next(
            (s for s in ("train", "val") if same_images(about["fingerprint"], self.record.fingerprints.get(s))), None
        )
        return read_logits(path, len(self.saved.classnames), split)

    def require_not_test(self, fingerprint: str, path: Path) -> None:
        """Raises a ConfigError for the test images of the run, or if these are unknown. path: of the logits."""
        tested = self.record.fingerprints.get("test")
        if tested is None:
            message = f"{self.args.run} does not record its test images, so they cannot be excluded; add --on"
            raise ConfigError(message, kind="unknown_test_images", path=path)
        if same_images(fingerprint, tested):
            message = f"{path} has the test images of the run, to which nothing may be fitted; fit on others: --on"
            raise ConfigError(message, kind="fits_on_test", path=path)


def read_logits(path: Path, num_classes: int, split: str | None) -> Images:
    """Logits and labels of a file that `results.logits_about` accepts. Raises DataError for others."""
    try:
        with np.load(path) as file:
            logits, labels = file["logits"], file["labels"]
        fits = logits.ndim == 2 and logits.shape == (len(labels), num_classes) and labels.ndim == 1 and len(labels)
        if not (fits and logits.dtype == np.float32 and labels.dtype == np.int64 and np.isfinite(logits).all()):
            raise ValueError("other shapes")
        if not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError("other classes")
    except (OSError, ValueError, KeyError, EOFError, MemoryError) as error:
        message = (
            f"{path} is damaged, or its logits are not of {num_classes:,} classes; write it again (save_logits True)"
        )
        raise DataError(message, kind="damaged_logits", path=path) from error
    return Images(split, logits, labels)
