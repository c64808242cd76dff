"""Measures of predicted classes and of logits, in percent. Labels and predictions are int in 0..C-1."""

from typing import NamedTuple

import numpy as np

ROWS = 1024  # of logits that are processed at a time, so that temporaries stay small


class ClassScores(NamedTuple):
    """Scores of each class, arrays [C]. The accuracy and F1 of a class without images are 0."""

    images: np.ndarray  # tested images, int64
    correct: np.ndarray  # correctly predicted images, int64
    accuracy: np.ndarray  # percent, float64
    f1: np.ndarray  # percent, float64


def class_scores(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> ClassScores:
    """Scores of each class for predictions [n] of labels [n]."""
    images = np.bincount(labels, minlength=num_classes)
    predicted = np.bincount(predictions, minlength=num_classes)
    correct = np.bincount(labels[labels == predictions], minlength=num_classes)
    accuracy = 100 * correct / np.maximum(images, 1)
    f1 = 100 * 2 * correct / np.maximum(images + predicted, 1)
    return ClassScores(images, correct, accuracy, f1)


def harmonic_mean(values: np.ndarray, floor: float = 0.0) -> float:
    """Harmonic mean of values >= 0, each raised to at least `floor`; 0 if one of them is 0."""
    raised = np.maximum(values, floor)
    return float(1 / np.mean(1 / raised)) if raised.all() else 0.0


def geometric_mean(values: np.ndarray) -> float:
    """Geometric mean of values >= 0; 0 if one of them is 0."""
    return float(np.exp(np.log(values).mean())) if values.all() else 0.0


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose label is among the k largest logits [n, C], percent; 100 if C <= k.

    Equal logits rank by class number, as argmax does, so that k = 1 is the accuracy.
    """
    num_classes = logits.shape[1]
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    # classes that rank at or after the label; a NaN ranks before it
    behind = (logits < own) | ((logits == own) & (np.arange(num_classes) >= labels[:, None]))
    return float(100 * (num_classes - behind.sum(axis=1) < k).mean())


def expected_calibration_error(
    logits: np.ndarray, labels: np.ndarray, num_bins: int = 15, weights: np.ndarray | None = None
) -> float:
    """Mean distance between confidence and accuracy, in bins of equal width weighted by their images, percent.

    weights: of the images, float64 [n]; None = 1.

    The confidence of an image is the largest probability of the softmax of its logits [n, C] (Guo et al. 2017).
    Bin m of M covers the confidences in ((m - 1) / M, m / M].
    """
    chunks = np.array_split(logits, len(logits) // ROWS + 1)
    largest = [chunk.max(axis=1, keepdims=True) for chunk in chunks]
    sums = [np.exp(chunk - top).sum(axis=1, dtype=np.float64) for chunk, top in zip(chunks, largest, strict=True)]
    return confidence_bins(1 / np.concatenate(sums), logits.argmax(axis=1) == labels, num_bins, weights).error


class ConfidenceBins(NamedTuple):
    """Sums over images in M bins of equal width, float64 [M]: bin m covers the confidences in ((m - 1) / M, m / M]."""

    images: np.ndarray  # their number, or the sum of their weights
    correct: np.ndarray  # the same for correct images
    confidence: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, percent."""
        return float(100 * np.abs(self.correct - self.confidence).sum() / self.images.sum())


def confidence_bins(
    confidence: np.ndarray, correct: np.ndarray, num_bins: int = 15, weights: np.ndarray | None = None
) -> ConfidenceBins:
    """Bins images by their confidence [n], the probability of the predicted class.

    correct: bool [n]. weights: of the images, float64 [n]; None = 1.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    weights = np.ones(len(correct)) if weights is None else weights
    sums = (np.bincount(bins, values, num_bins) for values in (weights, weights * correct, weights * confidence))
    return ConfidenceBins(*sums)
