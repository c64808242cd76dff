"""Evaluation: the measures of a test by name. `evaluators accuracy,top5` on the command line chooses from EVALUATORS.

An evaluator is a function, and a row of EVALUATORS in utils/config/schema.py:

    def _top1(outputs, labels, classes):
        yield "more/top1", float(100 * (predicted(outputs) == labels).mean())

    top1 = Evaluator(_top1)

A name "SECTION/MEASURE" is the position of the number in results.json: {"SECTION": {"MEASURE": number}}.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils import metrics
from utils.config import schema
from utils.tables import Table


@dataclasses.dataclass(frozen=True)
class ClassInfo:
    """The classes of a test. Arrays have length C."""

    names: Sequence[str]
    counts: np.ndarray  # training images, int
    groups: Mapping[str, np.ndarray]  # masks, bool: many-, medium- and few-shot classes
    harmonic_floor: float = 0.0  # percent; a lower accuracy of a class counts as this in the harmonic mean


Pairs = Iterable[tuple[str, float | None]]


class Evaluator(NamedTuple):
    """An evaluator.

    function: (outputs, labels, classes) -> pairs of a name and a number; None if the number is undefined.
    outputs: logits, float32 [n, C], or without needs_logits possibly the predicted classes, int64 [n]; see `predicted`.
    labels: int64 [n].
    """

    function: Callable[[np.ndarray, np.ndarray, ClassInfo], Pairs]
    needs_logits: bool = False


def predicted(outputs: np.ndarray) -> np.ndarray:
    """The predicted classes [n] of `outputs`: logits [n, C], or already these classes."""
    return outputs.argmax(1) if outputs.ndim == 2 else outputs


# ---- evaluators ----


def _accuracy(outputs: np.ndarray, labels: np.ndarray, classes: ClassInfo) -> Iterator[tuple[str, float | None]]:
    """Accuracy over images, over classes, and over many-, medium- and few-shot classes; macro F1; the accuracy of the
    worst class; the harmonic and the geometric mean of the classes' accuracies, percent.

    Classes without test images are left out; a group without classes to average has the accuracy None.
    """
    scores = metrics.class_scores(labels, predicted(outputs), len(classes.names))
    tested = scores.images > 0

    def mean_class(mask: np.ndarray) -> float | None:
        return float(scores.accuracy[mask & tested].mean()) if (mask & tested).any() else None

    yield "accuracy/overall", float(100 * scores.correct.sum() / scores.images.sum())
    yield "accuracy/mean_class", mean_class(tested)
    for name, mask in classes.groups.items():
        yield f"accuracy/{name}", mean_class(mask)

    accuracies = scores.accuracy[tested]
    yield "more/macro_f1", float(scores.f1[tested].mean())
    yield "more/worst_class", float(accuracies.min())
    yield "more/harmonic_mean", metrics.harmonic_mean(accuracies, classes.harmonic_floor)
    yield "more/geometric_mean", metrics.geometric_mean(accuracies)


accuracy = Evaluator(_accuracy)


def _top5(logits: np.ndarray, labels: np.ndarray, classes: ClassInfo) -> Pairs:
    """Share of images whose label is among the five largest logits, percent; 100 with five classes or fewer."""
    yield "more/top5", metrics.top_k_accuracy(logits, labels, 5)


top5 = Evaluator(_top5, needs_logits=True)


def _calibration(logits: np.ndarray, labels: np.ndarray, classes: ClassInfo) -> Pairs:
    """Expected calibration error, percent (Guo et al. 2017, arXiv 1706.04599): the sum over 15 bins B of confidence,
    each 1/15 wide, of |B| / n times |accuracy(B) - confidence(B)|. The confidence of an image is its largest softmax
    probability.
    """
    yield "more/calibration_error", metrics.expected_calibration_error(logits, labels)


calibration = Evaluator(_calibration, needs_logits=True)

EVALUATORS: Table[Evaluator] = Table(schema.EVALUATORS)


# ---- evaluation ----


def need_logits(names: Iterable[str]) -> bool:
    """Whether any of these evaluators needs logits; predicted classes suffice for the others."""
    return any(EVALUATORS[name].needs_logits for name in names)


def measures(results: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of `evaluate` by measure, in their order, without those of single classes."""
    sections = [section for name, section in results.items() if name != "per_class"]
    return {measure: value for section in sections for measure, value in section.items()}


def evaluate(names: Iterable[str], outputs: np.ndarray, labels: np.ndarray, classes: ClassInfo) -> dict[str, Any]:
    """The numbers of these evaluators, by section and measure, and a row for each class.

    "accuracy" is always among the evaluators. outputs, labels: see Evaluator.
    Returns {"accuracy": {...}, "more": {...}, ..., "per_class": [{name, train, test, accuracy, group}]}:
    images of training and test, accuracy None without test images, shot group.
    """
    results: dict[str, Any] = {}
    for name in dict.fromkeys(("accuracy", *names)):
        for path, value in EVALUATORS[name].function(outputs, labels, classes):
            section, _, measure = path.partition("/")
            results.setdefault(section, {})[measure] = value
    scores = metrics.class_scores(labels, predicted(outputs), len(classes.names))
    results["per_class"] = [
        {"name": name, "train": int(train), "test": int(test), "accuracy": float(value) if test else None}
        for name, train, test, value in zip(classes.names, classes.counts, scores.images, scores.accuracy, strict=True)
    ]
    for group, mask in classes.groups.items():
        for c in np.flatnonzero(mask):
            results["per_class"][c]["group"] = group
    return results
