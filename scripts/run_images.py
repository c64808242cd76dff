"""The images of a run for scripts that evaluate it again, verified by the fingerprints of their lists."""

import argparse
from collections.abc import Mapping
from typing import Any

from datasets import overlap
from datasets.base import SPLITS, DataSet
from datasets.images import ImageList
from models.predictor import Predictor, build_predictor
from utils.config import Config, changed
from utils.config.parsing import parse_value
from utils.config.schema import KEYS
from utils.device.device import find_device
from utils.errors import DataError
from utils.run.results import same_images
from utils.run.saved import SavedRun


def with_options(cfg: Config, args: argparse.Namespace) -> Config:
    """The configuration of a run with the options of a command. Raises ConfigError."""
    given = {"root": args.root, "weights": args.weights, "prec_test": args.precision}
    values = {key: parse_value(key, KEYS[key], value) for key, value in given.items() if value is not None}
    return changed(cfg, values)


def load_model(cfg: Config, run: SavedRun, args: argparse.Namespace) -> Predictor:
    """The model of a run, with the options of a command. Raises UserErrors."""
    return build_predictor(cfg, run, find_device(args.device), args.batch_size, args.num_workers)


def own_images(data: DataSet, split: str, fingerprints: Mapping[str, str]) -> ImageList:
    """The list "train", "val" or "test". Raises DataError if it is not the one that the run recorded."""
    images = data.split(split)
    recorded = fingerprints.get(split)
    if recorded is not None and not same_images(recorded, images.fingerprint(data.root)):
        message = (
            f"the {SPLITS[split]} images of {data.name} are not those of the run; name the folder of the run's images: "
            "--root FOLDER"
        )
        raise DataError(message, kind="other_images")
    return images


def count_trained_on(images: ImageList, data: DataSet, records: list[dict[str, Any]] | None) -> int:
    """The number of images that are in the records of a checkpoint's training images; 0 if that is unknown."""
    return overlap.count_shared(images, data.root, records or [overlap.UNKNOWN]) or 0
