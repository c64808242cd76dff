"""The single images of a report, as thumbnails with names."""

import base64
import dataclasses
from collections.abc import Callable

import numpy as np

from utils.predictions import Predictions
from utils.report import measures
from utils.report.source import Test
from utils.text import shortened, visible

# (fingerprint of a list, indices) -> JPEGs; None for an unavailable list, and for an image that cannot be read
Thumbnails = Callable[[str, list[int]], list[bytes | None] | None]

MISTAKES, HITS, DOUBTFUL = 24, 12, 24  # images that are shown
THUMBNAIL_BYTES = 20_000  # larger ones are left out
NAME_LETTERS = 48


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image: picture, a data URI or None; label and predicted: class names; probabilities in percent."""

    picture: str | None
    name: str
    label: str
    predicted: str
    confidence: float
    own: float


def no_thumbnails(fingerprint: str, indices: list[int]) -> None:
    """The Thumbnails for unavailable images: always None."""


def tiles(test: Test, predictions: Predictions, indices: np.ndarray, thumbnails: Thumbnails) -> list[Tile]:
    """The tiles of images of a test."""
    chosen, classnames = indices.tolist(), test.classes.names
    pictures = thumbnails(test.images, chosen) or [None] * len(chosen)
    return [
        Tile(
            picture=_data_uri(picture),
            name=shortened(visible(predictions.paths[i] if predictions.paths else f"image {i}"), NAME_LETTERS),
            label=shortened(visible(classnames[predictions.labels[i]])),
            predicted=shortened(visible(classnames[predictions.predicted[i]])),
            confidence=100 * float(predictions.confidence[i]),
            own=100 * float(predictions.label_probability[i]),
        )
        for i, picture in zip(chosen, pictures, strict=True)
    ]


def _data_uri(picture: bytes | None) -> str | None:
    if picture is None or len(picture) > THUMBNAIL_BYTES:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def mistakes(predictions: Predictions) -> np.ndarray:
    """The most confident mistakes."""
    correct = predictions.labels == predictions.predicted
    return measures.most_confident_mistakes(predictions.confidence, correct, MISTAKES)


def hits(predictions: Predictions) -> np.ndarray:
    """The least confident correct images."""
    correct = predictions.labels == predictions.predicted
    return measures.least_confident_hits(predictions.confidence, correct, HITS)


def doubtful(predictions: Predictions, num_classes: int) -> np.ndarray:
    """All images that are likely mislabelled."""
    return measures.likely_mislabelled(
        predictions.labels,
        predictions.predicted,
        predictions.confidence,
        predictions.label_probability,
        num_classes,
    )
