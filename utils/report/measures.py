"""The numbers of a report, from labels, predicted classes and confidences.

labels, predicted: int64 [n] in 0..C-1. confidence: the probability of the predicted class, [n] in 0..1.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

DRAWS = 1000  # of a bootstrap
LEVEL = 0.95  # of an interval
STEPS = 100  # points of a curve

# ---- per class ----


class Retrieval(NamedTuple):
    """Precision and F1 of each class, percent, float64 [C]; NaN if undefined, as precision without predictions."""

    precision: np.ndarray
    f1: np.ndarray


def retrieval(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> Retrieval:
    """Precision and F1 of each class."""
    images, guesses = (np.bincount(classes, minlength=num_classes) for classes in (labels, predicted))
    correct = np.bincount(labels[labels == predicted], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return Retrieval(100 * correct / guesses, 200 * correct / (images + guesses))


class Confusions(NamedTuple):
    """Confused pairs of classes, the most frequent first, then by label and predicted class. int64 [m]."""

    labels: np.ndarray
    predicted: np.ndarray
    counts: np.ndarray


def confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> Confusions:
    """The non-zero entries off the diagonal of the confusion matrix."""
    wrong = labels != predicted
    codes, counts = np.unique(labels[wrong] * num_classes + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return Confusions(*np.divmod(codes[order], num_classes), counts[order])


def most_frequent_confusion(pairs: Confusions, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The class that each class is most often confused with (-1 = none), and how often; both int64 [C]."""
    others, counts = np.full(num_classes, -1), np.zeros(num_classes, np.int64)
    classes, first = np.unique(pairs.labels, return_index=True)  # of the most frequent pair of each label
    others[classes], counts[classes] = pairs.predicted[first], pairs.counts[first]
    return others, counts


def most_confused_classes(pairs: Confusions, size: int) -> list[int]:
    """At most `size` classes, both of each pair, from the most frequent pair on; confused ones are neighbours."""
    chosen: dict[int, None] = {}
    for pair in zip(pairs.labels.tolist(), pairs.predicted.tolist(), strict=True):
        if len(chosen.keys() | set(pair)) > size:
            break
        chosen |= dict.fromkeys(pair)
    return list(chosen)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: list[int], num_classes: int) -> np.ndarray:
    """Images by label and predicted class, both in `classes`, int64 [k, k]."""
    position = np.full(num_classes, -1)
    position[classes] = np.arange(len(classes))
    rows, columns = position[labels], position[predicted]
    inside = (rows >= 0) & (columns >= 0)
    codes = rows[inside] * len(classes) + columns[inside]
    return np.bincount(codes, minlength=len(classes) ** 2).reshape(len(classes), -1)


def group_confusions(labels: np.ndarray, predicted: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """Images by the group of the label: [G, 1 + G] correct ones, and wrong ones by the group of the predicted class.

    group: int64 [C], the number of each class's group.
    """
    column = np.where(labels == predicted, 0, 1 + group[predicted])
    codes = group[labels] * (1 + num_groups) + column
    return np.bincount(codes, minlength=num_groups * (1 + num_groups)).reshape(num_groups, -1)


# ---- uncertainty ----


def standard_error(correct: int, images: int) -> float:
    """Standard error of an accuracy over `images` test images, percent: sqrt(p (1 - p) / n)."""
    share = correct / images
    return float(100 * np.sqrt(share * (1 - share) / images))


def bootstrap_interval(images: np.ndarray, correct: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval (LEVEL) of the mean over classes of their accuracies, percent.

    images, correct: of k classes with at least one image, int64 [k]. Images are redrawn within their classes, so that
    the correct ones of a class are binomial; classes of equal numbers are drawn together.
    """
    pairs, classes = np.unique(np.stack([images, correct], 1), axis=0, return_counts=True)
    sizes, shares = pairs[:, 0], pairs[:, 1] / pairs[:, 0]
    drawn = np.random.default_rng(seed).binomial(sizes * classes, shares, size=(DRAWS, len(sizes)))
    means = 100 * (drawn / sizes).sum(1) / len(images)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_test(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Two-sided exact sign test: the probability of numbers at least as unequal if both are equally likely, float64.

    wins, losses: int of one shape, how often the one and how often the other is better; draws do not count.
    """
    from scipy.special import bdtr  # heavy: imported where it is used

    wins, losses = np.asarray(wins), np.asarray(losses)
    return np.minimum(1.0, 2 * bdtr(np.minimum(wins, losses), wins + losses, 0.5))


# ---- confidence ----


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The share and the accuracy of the images whose confidence reaches a threshold, percent. Arrays [m].

    Ordered from the highest threshold to the lowest, which covers all images.
    """

    threshold: np.ndarray
    covered: np.ndarray
    accuracy: np.ndarray

    def at(self, percent: float) -> int:
        """The index of the highest threshold that covers at least this share of the images."""
        return int(np.searchsorted(self.covered, percent - 1e-9))


def coverage(confidence: np.ndarray, correct: np.ndarray) -> Coverage:
    """Accuracy against coverage (El-Yaniv and Wiener 2010), a point for each distinct confidence."""
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, right = confidence[order], np.cumsum(correct[order])
    last = np.append(np.flatnonzero(np.diff(sorted_confidence)), len(order) - 1)  # of equal confidences
    return Coverage(sorted_confidence[last], 100 * (last + 1) / len(order), 100 * right[last] / (last + 1))


def thinned(count: int, limit: int = STEPS) -> np.ndarray:
    """At most `limit` indices out of 0..count-1, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


# ---- single images ----


def most_confident_mistakes(confidence: np.ndarray, correct: np.ndarray, limit: int) -> np.ndarray:
    """Indices of wrong images, the most confident first."""
    wrong = np.flatnonzero(~correct)
    return wrong[np.argsort(-confidence[wrong], kind="stable")[:limit]]


def least_confident_hits(confidence: np.ndarray, correct: np.ndarray, limit: int) -> np.ndarray:
    """Indices of correct images, the least confident first."""
    right = np.flatnonzero(correct)
    return right[np.argsort(confidence[right], kind="stable")[:limit]]


def likely_mislabelled(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, own: np.ndarray, num_classes: int
) -> np.ndarray:
    """Indices of images with a label that is doubtful by confident learning, the most doubtful first.

    own: the probability of the label, [n]. The threshold of a class is the mean of `own` over the images with this
    label. A label is doubtful if the predicted class is another one, and its confidence reaches the threshold of that
    class. They are sorted by own - confidence. (Northcutt et al. 2021, arXiv 1911.00068: the confident joint off its
    diagonal, only for the predicted class; ranking by normalised margin.)
    """
    images = np.bincount(labels, minlength=num_classes)
    threshold = np.full(num_classes, np.inf)  # a class without images has none
    threshold[images > 0] = (np.bincount(labels, own, num_classes)[images > 0]) / images[images > 0]
    doubtful = np.flatnonzero((labels != predicted) & (confidence >= threshold[predicted]))
    margin = own[doubtful] - confidence[doubtful]
    return doubtful[np.argsort(margin, kind="stable")]
