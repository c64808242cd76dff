"""Writes run directories as left by tests, from given predictions: for reports, without training."""

import json
from pathlib import Path

import numpy as np

from datasets.long_tail import shot_groups
from utils.evaluators import ClassInfo, evaluate
from utils.predictions import Predictions, write_csv
from utils.run.directory import RunDir

SETTINGS = {"backbone": "clip_tiny", "seed": 0, "dataset": "digits_lt", "loss_type": "LA", "la_tau": 1.0}
NAMES = [f"class {c}" for c in range(100_000)]


def softmax_predictions(logits: np.ndarray, labels: np.ndarray, paths: list[str] | None = None) -> Predictions:
    """The predictions of logits [n, C], at most five classes of each image."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    top = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    own = np.take_along_axis(shares, labels[:, None], 1)[:, 0]
    return Predictions(paths, labels, top, np.take_along_axis(shares, top, 1), own)


def random_predictions(num_classes: int, images: int, seed: int = 0, skill: float = 2.5) -> Predictions:
    """Predictions for `images` images of each class: random logits, that of the label raised by `skill`."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), images)
    logits = rng.normal(size=(len(labels), num_classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += skill
    return softmax_predictions(logits, labels)


def make_run(
    folder: Path,
    predictions: Predictions,
    classnames: list[str],
    counts: np.ndarray | None = None,
    suffix: str = "",
    **changes,
) -> RunDir:
    """Writes results and predictions of a test with this suffix. counts: training images; changes: of the results."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.maximum(200 // (1 + np.arange(len(classnames))) ** 2, 1) if counts is None else counts
    classes = ClassInfo(classnames, counts, shot_groups(counts))
    content = evaluate(("accuracy",), predictions.predicted, predictions.labels, classes)
    content |= {
        "params": {"total": 1000, "trained": 100, "peft": 60, "head": 40},
        "seed": 0,
        "data": {"name": "digits_lt", "split": "test", "fingerprint": {"train": "a", "test": "b"}, "trained_on": 0},
        "test": {"crops": 1, "precision": "fp32"},
        "settings": SETTINGS,
        "weights": {"name": "clip_tiny.safetensors", "sha256": "0", "published": True},
        "command": "python main.py -d digits_lt -b clip_tiny -m lift+",
        "device": "a CPU",
        "seconds": {"train": 12.0, "test": 0.5},
        "epochs": 2,
    }
    (folder / f"results{suffix}.json").write_text(json.dumps(content | changes))
    write_csv(folder / f"predictions{suffix or '_test'}.csv", predictions, classnames)
    return RunDir(folder)
