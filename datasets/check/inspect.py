"""Inspects one image: whether it exists and can be decoded, its size, and a digest to find duplicates.

A report has a digest and a size, never the pixels, so half a million images need little memory.
"""

import contextlib
import hashlib
import os
from typing import NamedTuple

from datasets.decoding.decode import ImageError
from datasets.images import Images


class ImageReport(NamedTuple):
    """The findings about one image."""

    kind: str = ""  # "missing" or "unreadable"; "" = it is good
    reason: str = ""
    digest: bytes = b""  # of the file's bytes, or of pixels in memory
    height: int = 0  # pixels
    width: int = 0
    size: int | None = None  # bytes of the file; None = there is none
    largest: int | None = None  # number in a picture of 16 bits; None = it has another depth


def inspect(images: Images, index: int) -> ImageReport:
    """Decodes an image as in training. Problems are returned, never raised."""
    try:
        height, width = images.read(index).shape[1:]
        digest = hashlib.sha256(images.content(index)).digest()[:16]
        largest = images.largest_number(index)
        return ImageReport("", "", digest, height, width, images.file_bytes(index), largest)
    except ImageError as error:
        path, reason = error.path or "", error.reason
    except OSError as error:  # it vanished after it was decoded
        path, reason = str(error.filename), str(error)
    if os.path.exists(path):
        return ImageReport("unreadable", reason, size=images.file_bytes(index))
    with contextlib.suppress(OSError):  # it is not a link, or vanished
        reason = f"a link to {os.readlink(path)}"
    return ImageReport("missing", reason)
