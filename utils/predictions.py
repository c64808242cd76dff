"""The predictions of a test, one row per image: predictions_SUFFIX.csv of a run.

    path, label, class, predicted_label, predicted_class, label_probability, class_1, probability_1, ..., probability_5

Rows are in the order of the tested list. Images in memory have an index instead of a path. Probabilities are the
softmax of the logits, without the run's adjustment; label_probability is that of the label.
"""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files import atomic_write, read_limited

TOP = 5  # classes of an image whose probabilities are recorded
BYTES = 2_000_000_000  # of a file; a row has 250
LARGEST = 1 + 1e-6  # probability, due to rounding in float32
FIRST = ("label", "class", "predicted_label", "predicted_class", "label_probability")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for n images, in the order of their list. k = min(TOP, classes).

    paths: of the files; None for images in memory. labels: int64 [n]. top_classes: int64 [n, k], the most probable
    first, equal ones by their numbers; top_probabilities: float32 [n, k]. label_probability: float32 [n].
    logits: float32 [n, C], or None if they were not requested.
    """

    paths: list[str] | None
    labels: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    label_probability: np.ndarray
    logits: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int64 [n]."""
        return self.top_classes[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class of each image, float32 [n]."""
        return self.top_probabilities[:, 0]

    @property
    def outputs(self) -> np.ndarray:
        """Logits, or without them the predicted classes: the input of evaluators."""
        return self.predicted if self.logits is None else self.logits


def number(value: float) -> str:
    """A float32 in at most nine digits, from which it can be restored."""
    return f"{value:.9g}"


def write_csv(path: Path, predictions: Predictions, classnames: Sequence[str]) -> None:
    """Writes the file of a test atomically."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")  # file names may be any bytes
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_header(predictions))
        writer.writerows(_rows(predictions, classnames))
        text.flush()
        text.detach()


def _header(predictions: Predictions) -> list[str]:
    return ["index" if predictions.paths is None else "path", *_columns(predictions.top_classes.shape[1])]


def _columns(size: int) -> list[str]:
    """The columns after the first one, with the `size` most probable classes."""
    return [*FIRST, *(column for place in range(1, size + 1) for column in (f"class_{place}", f"probability_{place}"))]


def _rows(predictions: Predictions, classnames: Sequence[str]) -> Iterator[list[object]]:
    names = range(len(predictions.labels)) if predictions.paths is None else predictions.paths
    columns = (
        predictions.labels.tolist(),
        predictions.label_probability.tolist(),
        predictions.top_classes.tolist(),
        predictions.top_probabilities.tolist(),
    )
    for name, label, own, classes, probabilities in zip(names, *columns, strict=True):
        row = [name, label, classnames[label], classes[0], classnames[classes[0]], number(own)]
        for c, probability in zip(classes, probabilities, strict=True):
            row += [classnames[c], number(probability)]
        yield row


def read_csv(path: Path, classnames: Sequence[str]) -> Predictions:
    """The predictions in a file of `write_csv`. Raises a DataError if it is another file, or damaged.

    classnames: of the run. Classes with the same name, except the predicted one, are read as the first of them.
    """
    try:
        text = read_limited(path, BYTES).decode("utf-8", "surrogateescape")
        return _parse(list(csv.reader(io.StringIO(text, newline=""))), classnames)
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        reason = error if isinstance(error, _Other) else getattr(error, "strerror", None) or "it is damaged"
        message = f"{path} does not have the predictions of this run ({reason}); test it again: test_only True"
        raise DataError(message, kind="damaged_predictions", path=path) from error


class _Other(ValueError):
    """A table with other content; the message is the reason."""


def _parse(table: Sequence[list[str]], classnames: Sequence[str]) -> Predictions:
    """The predictions in a table. Raises ValueError and OverflowError."""
    header, rows = (table[0], table[1:]) if table else ([], [])
    size = (len(header) - 1 - len(FIRST)) // 2
    if size < 1 or header[1:] != _columns(size) or any(len(row) != len(header) for row in rows):
        raise _Other("it has other columns")
    first: dict[str, int] = {}
    for c, name in enumerate(classnames):
        first.setdefault(name, c)
    labels, predicted = (np.array([row[column] for row in rows], str).astype(np.int64) for column in (1, 3))
    others = [[first.get(name, -1) for name in row[8::2]] for row in rows]
    top = np.column_stack([predicted, np.array(others, np.int64).reshape(len(rows), size - 1)])
    for numbers in (labels, top):
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(classnames):
            raise _Other("it has other classes")
    if any(row[6] != classnames[c] for row, c in zip(rows, predicted.tolist(), strict=True)):
        raise _Other("it has other classes")
    found = Predictions(
        paths=[row[0] for row in rows] if header[0] == "path" else None,
        labels=labels,
        top_classes=top,
        top_probabilities=np.array([row[7::2] for row in rows], str).astype(np.float32).reshape(len(rows), size),
        label_probability=np.array([row[5] for row in rows], str).astype(np.float32),
    )
    for probabilities in (found.top_probabilities, found.label_probability):
        if not ((probabilities >= 0) & (probabilities <= LARGEST)).all():
            raise _Other("it has numbers that are not probabilities")
    return found
