"""The formats of scripts/export.py: each writes a run's model into a folder and compares it with the run's."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torch import Tensor

from datasets import build_data
from datasets.loading.crops import TestCrops
from models import Predictor, build_backbone, load_run, peft
from models.export import merged, onnx, program
from models.export.comparison import Comparison, compare_probabilities, probabilities_of
from models.export.served import Served, frozen_copy
from models.weights.descriptions import describe_backbone, licence_of
from models.weights.find import OPEN_CLIP_JSON, TIMM_JSON
from models.weights.upstream import upstream_of
from utils import terminal
from utils.adjustment import Adjustment
from utils.device.environment import recorded_versions
from utils.device.precision import PRECISIONS
from utils.errors import ConfigError, DataError
from utils.files import atomic_folder, read_json, write_text
from utils.text import listed

ABOUT, CARD = "model.json", "README.md"
PROGRAM = "LIFT+"  # identifies a model.json of this program
# all files that exports write
FILES = {ABOUT, CARD, "model.onnx", "model.onnx.data", onnx.PROGRAM.name, "model.pt2", merged.HEAD}
FILES |= {"open_clip_model.safetensors", OPEN_CLIP_JSON, "model.safetensors", TIMM_JSON}
JSON_BYTES = 100_000_000
IMAGES = 32  # number of compared images


# ---- images to compare on ----


class Images(NamedTuple):
    """Images to compare on: pixels, uint8 [n, 3, R, R]. words: their number and kind. reason: for random ones."""

    pixels: Tensor
    words: str
    reason: str = ""


def images_of(predictor: Predictor) -> Images:
    """Some of the run's test images, cropped as in its test; random images if they cannot be read."""
    root = predictor.cfg.root
    try:
        if root is not None and not Path(root).is_dir():  # before a missing data set is downloaded
            raise DataError(f"{root} is not a folder", kind="no_root")
        images = build_data(predictor.cfg).test.images
        chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int)).tolist()
        crops = images.read_crops([(0, index) for index in chosen], predictor.crops)
        return Images(crops[:, 0].clone(), f"{len(chosen)} test images")
    except DataError as error:
        side = predictor.model.tower.resolution
        pixels = torch.randint(256, (IMAGES, 3, side, side), generator=torch.Generator().manual_seed(0))
        return Images(pixels.to(torch.uint8), f"{IMAGES} random images", f": the test images cannot be read ({error})")


# ---- formats: (predictor, images, precision, folder) -> the library that reads it, and comparisons ----


def export_onnx(predictor: Predictor, images: Images, precision: str, folder: Path) -> tuple[str, list[Comparison]]:
    """Writes model.onnx, and a program that runs it."""
    path = folder / "model.onnx"
    onnx.write(served(predictor, precision), images.pixels.shape[-1], path)
    shutil.copyfile(onnx.PROGRAM, folder / onnx.PROGRAM.name)
    found, expected = onnx.run(path, images.pixels, precision), run_probabilities(predictor, images)
    return "onnx", [compare_probabilities(found, expected, precision)]


def export_program(predictor: Predictor, images: Images, precision: str, folder: Path) -> tuple[str, list[Comparison]]:
    """Writes model.pt2."""
    path = folder / "model.pt2"
    program.write(served(predictor, precision), images.pixels.shape[-1], path)
    found, expected = program.run(path, images.pixels), run_probabilities(predictor, images)
    return "torch", [compare_probabilities(found, expected, precision)]


def export_merged(predictor: Predictor, images: Images, precision: str, folder: Path) -> tuple[str, list[Comparison]]:
    """Writes the backbone with the tensor names of timm or open_clip, and the head in a separate file."""
    cfg, model, crops = predictor.cfg, predictor.model, crops_of(predictor)
    backbone, _ = build_backbone(cfg)
    whole = merged.merge(model, backbone)
    upstream = upstream_of(backbone.config, describe_backbone(cfg.backbone, cfg.weights))
    about = upstream.content(backbone, crops.interpolation, crops.resize)
    merged.write(whole, model.head, upstream, about, PRECISIONS[precision], folder)
    return upstream.library, merged.compare(model, backbone, upstream, folder, images.pixels, precision)


EXPORTS: dict[str, Callable[[Predictor, Images, str, Path], tuple[str, list[Comparison]]]] = {
    "onnx": export_onnx,
    "torch": export_program,
    "merged": export_merged,
}


def crops_of(predictor: Predictor) -> TestCrops:
    """The run's crop of a test image, one at its centre."""
    return cast(TestCrops, predictor.crops)  # random crops are for tests with ensembling


def served(predictor: Predictor, precision: str) -> Served:
    """The exported module, with the run's adjustment."""
    dtype, adjustment = PRECISIONS[precision], predictor.adjustment
    zero_shot = frozen_copy(predictor.zero_shot().model, dtype) if adjustment.zero_shot else None
    return Served(frozen_copy(predictor.model, dtype), adjustment, zero_shot).eval()


def run_probabilities(predictor: Predictor, images: Images) -> np.ndarray:
    """The probabilities of the run's model in float32, [n, C]."""
    return probabilities_of(served(predictor, "fp32"), images.pixels)


# ---- the folder ----


def require_free(folder: Path) -> None:
    """Raises ConfigError if `folder` exists and is not an earlier export, or also has other files."""
    if folder.name in ("", ".."):
        raise ConfigError(f"{folder} has no name of its own; choose an --out with a name", kind="no_name", key="out")
    if not os.path.lexists(folder):
        return
    reason = "exists and is not an earlier export"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        names = {path.name for path in folder.iterdir()}
        is_export = bool(names) and read_json(folder / ABOUT, JSON_BYTES).get("program") == PROGRAM
        others = sorted(names - FILES)
        if not others and (is_export or not names):
            return
        if is_export:
            reason = f"also has files that are not of an earlier export, and would be lost ({listed(others)})"
    message = f"{folder} {reason}; choose another --out"
    raise ConfigError(message, kind="folder_exists", path=folder)


def export(
    run: Path,
    format: str,
    folder: Path,
    precision: str,
    weights: str | None,
    card: Callable[[dict[str, Any], dict[str, Any]], str],
) -> None:
    """Writes the model of a run into `folder` atomically. Raises UserErrors and Deviation.

    format: a key of EXPORTS. precision: of the stored weights. weights: of the backbone, if they have moved.
    card: (content of model.json, results of the run) -> the model card.
    """
    require_free(folder)
    if format == "onnx":
        onnx.require_packages()
    predictor = load_run(run, "cpu", weights, "fp32")
    images = images_of(predictor)
    terminal.say(f"comparing on {images.words}{images.reason}")
    with atomic_folder(folder) as partial:
        library, comparisons = EXPORTS[format](predictor, images, precision, partial)
        for comparison in comparisons:
            terminal.say(str(comparison.require()))
        about: dict[str, Any] = {"program": PROGRAM, "format": format, "library": library, "precision": precision}
        about |= describe(predictor) | {"checked_on": images.words}
        about["comparisons"] = [dataclasses.asdict(comparison) for comparison in comparisons]
        write_text(partial / ABOUT, json.dumps(about, indent=1) + "\n")
        write_text(partial / CARD, card(about, predictor.saved.results))
    if format == "merged" and about["adjustment"]:
        terminal.say("note: the run's adjustment of its logits is in model.json, not in the merged weights")


def describe(predictor: Predictor) -> dict[str, Any]:
    """The entries of model.json about the run."""
    cfg, crops, saved, weights = predictor.cfg, crops_of(predictor), predictor.saved, predictor.weights
    model, adjustment, pictures = predictor.model, predictor.adjustment, predictor.pictures([])
    known = licence_of(cfg.backbone) if weights.published else describe_backbone(cfg.backbone, cfg.weights).licence
    parts = {"image tower": cfg.v, "text tower": cfg.l, "head": cfg}
    methods = {part: peft.methods_from_keys(keys) for part, keys in parts.items()}
    return {
        "run": saved.directory.resolve().name,
        "checkpoint": saved.checksum,
        "classes": predictor.classnames,
        "shot_groups": predictor.shot_groups,
        "training_images": saved.counts,
        "images": {
            "resolution": crops.resolution,
            "resized_to": crops.resolution + crops.expand,
            "rule": crops.resize,
            "interpolation": crops.interpolation,
            "exif_orientation": pictures.exif_orientation,
            "bit_depth": pictures.bit_depth or 16,
            "reducing_gap": crops.reducing_gap,
            "mean": (model.mean.flatten() / 255).tolist(),
            "std": (model.std.flatten() / 255).tolist(),
        },
        "adjustment": None if adjustment.is_identity else _numbers_of(adjustment),
        "head": type(model.head).__name__,
        "methods": {part: found for part, found in methods.items() if found},
        "backbone": {"name": cfg.backbone, "weights": weights.name, "sha256": weights.sha256, "licence": known},
        "versions": recorded_versions(),
    }


def _numbers_of(adjustment: Adjustment) -> dict[str, Any]:
    """The numbers of an adjustment, for JSON."""
    values = {name: getattr(adjustment, name) for name in ("temperature", "scale", "bias", "zero_shot")}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
