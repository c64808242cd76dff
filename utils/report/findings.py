"""The findings of a report in sentences."""

from utils.metrics import ConfidenceBins
from utils.predictions import Predictions
from utils.report import charts, measures
from utils.report.source import GROUPS, Classes, Test
from utils.text import shortened, visible

WELL_CALIBRATED = 2.0  # points between confidence and accuracy


def sentences(test: Test, predictions: Predictions | None) -> list[str]:
    """The findings that matter, for the head of the page."""
    classes = test.classes
    right, total = int(classes.correct.sum()), int(classes.images.sum())
    found = [f"{right:,} of {total:,} images are classified correctly."]
    if trained_on := _trained_on(test):
        found.append(trained_on)
    found += _tail(test.result.accuracy)
    if predictions is not None:
        found += _most_frequent(classes, predictions)
        found.append(_confidence(charts.reliability(predictions)))
    return found


def _trained_on(test: Test) -> str:
    count = test.content["data"].get("trained_on")
    if test.split == "train":
        return "These are the training images, so the accuracy is not that on new images."
    if isinstance(count, int) and count:
        return f"{count:,} of these images are training images, so the accuracy is not that on new images."
    return ""


def _tail(accuracy: dict[str, float | None]) -> list[str]:
    """The difference between few-shot and many-shot classes; blank if one of them has no test images."""
    many, few = accuracy["many"], accuracy["few"]
    if many is None or few is None:
        present = [name for name in GROUPS if accuracy[name] is not None]
        return [f"All tested classes are {present[0]}-shot."] if len(present) == 1 else []
    difference = few - many
    side = "above" if difference > 0 else "below"
    words = f"{abs(difference):.1f} points {side}" if abs(difference) >= 0.05 else "as much as"
    return [f"Few-shot classes reach {few:.1f} %, {words} many-shot classes."]


def _most_frequent(classes: Classes, predictions: Predictions) -> list[str]:
    pairs = measures.confusions(predictions.labels, predictions.predicted, len(classes))
    if not len(pairs.counts):
        return []
    label, other, count = int(pairs.labels[0]), int(pairs.predicted[0]), int(pairs.counts[0])
    names = [shortened(visible(classes.names[c]), 60) for c in (label, other)]
    total = int(classes.images[label])
    return [f"The most frequent confusion: {count:,} of {total:,} images of {names[0]} are classified as {names[1]}."]


def _confidence(bins: ConfidenceBins) -> str:
    gap = 100 * (bins.confidence.sum() - bins.correct.sum()) / bins.images.sum()
    if abs(gap) < WELL_CALIBRATED:
        return f"Confidence is calibrated on average: it differs by {abs(gap):.1f} points from the accuracy."
    words = "high: the model is overconfident" if gap > 0 else "low: the model is underconfident"
    return f"Confidence is on average {abs(gap):.1f} points too {words}."


def calibration(bins: ConfidenceBins) -> str:
    """The calibration error, and how to read the diagram."""
    confidence, accuracy = (100 * sums.sum() / bins.images.sum() for sums in (bins.confidence, bins.correct))
    return (
        f"Expected calibration error {bins.error:.2f} % in {len(bins.images)} bins; mean confidence "
        f"{confidence:.1f} %, accuracy {accuracy:.1f} %. Bars below the diagonal are overconfident, bars above it "
        "underconfident. scripts/adjust.py can fit a temperature, which changes confidences but no prediction."
    )


def small_classes(classes: Classes, limit: int) -> str:
    """A sentence about tested classes with fewer than `limit` test images; blank if there is none."""
    tested = classes.images > 0
    count, untested = int((tested & (classes.images < limit)).sum()), int((~tested).sum())
    parts = []
    if count:
        parts.append(f"{count:,} of {tested.sum():,} tested classes have fewer than {limit} test images.")
    if untested and count:
        parts.append(f"{untested:,} have none.")
    return " ".join(parts)


def doubtful(count: int, shown: int, total: int) -> str:
    """A sentence about the number of doubtful labels among training images."""
    if not count:
        return f"None of the {total:,} training images has a doubtful label."
    share = 100 * count / total
    more = f"; the first {shown} are shown" if shown < count else ""
    return f"{count:,} of {total:,} training images ({share:.1f} %) have a doubtful label{more}."
