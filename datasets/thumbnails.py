"""Thumbnails of images, for a report."""

import io
from collections.abc import Callable, Mapping

from PIL import Image

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.loading.crops import largest_reduction
from utils.errors import DataError
from utils.run.results import same_images

SIDE = 96  # pixels of the longer side, at most
QUALITY = 80  # of the JPEG


def thumbnails_of(
    data: DataSet, fingerprints: Mapping[str, str]
) -> Callable[[str, list[int]], list[bytes | None] | None]:
    """A function (fingerprint, indices) -> JPEGs of images of the list with this fingerprint.

    It returns None if the data set has no such list, and None in place of an image that cannot be read.
    fingerprints: of its lists, {train, test}.
    """

    def thumbnails(fingerprint: str, indices: list[int]) -> list[bytes | None] | None:
        split = next((name for name, own in fingerprints.items() if same_images(own, fingerprint)), None)
        return None if split is None else [_thumbnail(data.split(split), index) for index in indices]

    return thumbnails


def _thumbnail(images: ImageList, index: int) -> bytes | None:
    try:
        pixels = images.images.read(index, _reduction)
    except DataError:
        return None
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((SIDE, SIDE))
    with io.BytesIO() as file:
        picture.save(file, format="JPEG", quality=QUALITY, optimize=True)
        return file.getvalue()


def _reduction(height: int, width: int) -> int:
    """The factor by which a JPEG may be decoded smaller: its longer side has two pixels for each of the thumbnail."""
    return largest_reduction(max(height, width), SIDE, 2)
