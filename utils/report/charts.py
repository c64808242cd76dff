"""The rounded numbers of charts and tables, as JSON for the script of the page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.metrics import ConfidenceBins, confidence_bins
from utils.predictions import Predictions
from utils.report import measures
from utils.report.source import GROUPS, Classes
from utils.run.record import ACCURACIES
from utils.text import shortened, visible

WHOLE_MATRIX = 60  # maximal number of classes with a whole confusion matrix
BLOCK = 24  # classes of the block shown for more classes
CURVE_POINTS = 400
NAME_LETTERS = 120  # maximal length of a class name
# numbers of metrics.jsonl that are shown: chart, title
CURVES = {"loss": ("loss", "training"), "accuracy": ("accuracy", "training"), "lr": ("lr", "learning rate")}
CURVES |= {f"val/{name}": ("accuracy", f"validation, {ACCURACIES[name]}") for name in ("overall", "mean_class")}

Json = dict[str, Any]


def rounded(values: Sequence[float] | np.ndarray, digits: int = 2) -> list[float | None]:
    """The numbers for JSON; null for NaN."""
    return [None if value != value else round(float(value), digits) for value in np.asarray(values, float)]


def class_columns(classes: Classes, predictions: Predictions | None) -> Json:
    """The columns of the table of classes; precision, F1 and confusions only with predictions."""
    accuracy = np.where(classes.images > 0, 100 * classes.correct / np.maximum(classes.images, 1), np.nan)
    columns: Json = {
        "name": [shortened(visible(name), NAME_LETTERS) for name in classes.names],
        "group": classes.group.tolist(),
        "train": classes.train.tolist(),
        "test": classes.images.tolist(),
        "accuracy": rounded(accuracy, 4),
    }
    if predictions is None:
        return columns
    size = len(classes)
    scores = measures.retrieval(predictions.labels, predictions.predicted, size)
    pairs = measures.confusions(predictions.labels, predictions.predicted, size)
    others, counts = measures.most_frequent_confusion(pairs, size)
    return columns | {
        "precision": rounded(scores.precision),
        "f1": rounded(scores.f1),
        "other": others.tolist(),
        "confused": counts.tolist(),
    }


def curves(numbers: dict[str, list[tuple[int, float]]], epochs: int) -> Json:
    """The curves of training, by chart: {title: points (epoch, value)}. epochs: of the whole training; 0 = unknown."""
    last = max((points[-1][0] for points in numbers.values()), default=0)
    scale = epochs / last if epochs and last else 1.0
    charts: Json = {"loss": {}, "accuracy": {}, "lr": {}, "unit": "epoch" if scale != 1.0 else "step"}
    for name, points in numbers.items():
        if name in CURVES:
            chart, title = CURVES[name]
            chosen = [points[i] for i in measures.thinned(len(points), CURVE_POINTS)]
            charts[chart][title] = [[round(step * scale, 4), float(f"{value:.5g}")] for step, value in chosen]
    return charts


def confusion(classes: Classes, predictions: Predictions) -> Json:
    """The confusion matrix, or for many classes its block of the most frequent confusions: classes, rows of counts."""
    labels, predicted, size = predictions.labels, predictions.predicted, len(classes)
    if size <= WHOLE_MATRIX:
        chosen = list(range(size))
    else:
        chosen = measures.most_confused_classes(measures.confusions(labels, predicted, size), BLOCK)
    matrix = measures.confusion_matrix(labels, predicted, chosen, size)
    return {"classes": chosen, "matrix": matrix.tolist()}


def group_shares(classes: Classes, predictions: Predictions) -> list[tuple[str, int, list[float]]]:
    """Name, test images and shares (percent) of measures.group_confusions, for each group with test images."""
    counts = measures.group_confusions(predictions.labels, predictions.predicted, classes.group, len(GROUPS))
    totals = counts.sum(1)
    return [
        (name, int(total), (100 * row / total).tolist())
        for name, row, total in zip(GROUPS, counts, totals, strict=True)
        if total
    ]


def reliability(predictions: Predictions) -> ConfidenceBins:
    """The bins of the reliability diagram, those of the calibration error."""
    correct = predictions.labels == predictions.predicted
    return confidence_bins(predictions.confidence.astype(np.float64), correct)


def bin_columns(bins: ConfidenceBins) -> Json:
    """Images, accuracy and mean confidence of each bin."""
    images = np.maximum(bins.images, 1)
    return {
        "images": bins.images.astype(int).tolist(),
        "accuracy": rounded(100 * bins.correct / images),
        "confidence": rounded(100 * bins.confidence / images),
    }


def coverage_points(found: measures.Coverage) -> list[list[float]]:
    """Points of the curve of coverage: covered, accuracy, threshold."""
    first = found.at(1.0)  # with fewer images the accuracy is chance
    chosen = first + measures.thinned(len(found.covered) - first)
    return [
        [round(float(value), digits) for value, digits in zip(point, (2, 2, 4), strict=True)]
        for point in zip(found.covered[chosen], found.accuracy[chosen], found.threshold[chosen], strict=True)
    ]


def coverage_of(predictions: Predictions) -> measures.Coverage:
    """Accuracy against coverage."""
    return measures.coverage(predictions.confidence, predictions.labels == predictions.predicted)


class CoverageLine(NamedTuple):
    """covered, accuracy: percent; threshold: of the confidence; left: images for a person; mistakes: of the others."""

    covered: float
    accuracy: float
    threshold: float
    left: int
    mistakes: int


def coverage_lines(found: measures.Coverage, total: int, percents: Sequence[float]) -> list[CoverageLine]:
    """The lines of the table of coverage, each once."""
    lines = []
    for i in dict.fromkeys(found.at(percent) for percent in percents):
        covered = round(total * found.covered[i] / 100)
        mistakes = round(covered * (1 - found.accuracy[i] / 100))
        point = CoverageLine(
            covered=float(found.covered[i]),
            accuracy=float(found.accuracy[i]),
            threshold=float(found.threshold[i]),
            left=total - covered,
            mistakes=mistakes,
        )
        lines.append(point)
    return lines
