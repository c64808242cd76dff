"""Decoding: an image file becomes uint8 RGB [3, H, W], or an ImageError with its path, the reason and advice.

torchvision decodes plain JPEG, Pillow the rest. The format is recognised by content, not by suffix. Other modes are
converted as by Pillow's convert("RGB"): alpha is dropped without blending a background; colour profiles are ignored;
but 16 bits are scaled to 8. Only the first frame or page is read.

EXIF orientation is applied, or the image is read as stored. Pillow's getexif() reads it, whichever decoder reads the
pixels: EXIF's, or if EXIF has none XMP's (tiff:Orientation). With damaged metadata nothing is turned.
"""

import errno
import os
import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from datasets.opening import UnusableFile, regular_only
from utils.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # no other reader of Pillow's is used: some start programs
MAX_PIXELS = 200_000_000  # of an image: 600 MB as RGB
BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"II", b"MM", b"GIF8")  # of files of these formats
WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")

TURNS: dict[int, Callable[[Tensor], Tensor]] = {  # orientation -> [3, H, W] as stored to [3, H', W'] upright
    1: lambda image: image,
    2: lambda image: image.flip(2),
    3: lambda image: image.flip(1, 2),
    4: lambda image: image.flip(1),
    5: lambda image: image.transpose(1, 2),
    6: lambda image: image.transpose(1, 2).flip(2),
    7: lambda image: image.transpose(1, 2).flip(1, 2),
    8: lambda image: image.transpose(1, 2).flip(1),
}
INVERSE = {6: 8, 8: 6}  # the other turns undo themselves

Reduction = Callable[[int, int], int]  # height and width of an image -> by how much it may be decoded smaller

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is the limit, and its error names the file


ADVICE = "replace it, or find all such with scripts/check_data.py and leave them out with bad_images skip"


class ImageError(DataError):
    """An image that cannot be read; `reason` is the message without path and advice."""

    reason: str = ""


def decode(path: str, reduction: Reduction | None = None, exif_orientation: bool = True) -> Tensor:
    """Decodes an image file to uint8 RGB [3, H, W]. Raises an ImageError with path, reason and advice.

    A JPEG may be decoded to 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time: `reduction(height, width)`
    is 2, 4 or 8 then, or 1. exif_orientation: turned by its EXIF or XMP orientation; False = as stored.
    """
    try:
        with open(path, "rb", opener=regular_only) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about files that it reads nevertheless, without their names
            if os.fstat(file.fileno()).st_size == 0:  # so have files in /proc, which may have no end
                raise ValueError("the file is empty")
            return _decode(file, reduction, exif_orientation)
    except MemoryError:
        problem = _Problem("out_of_memory", "does not fit in memory", "make it smaller, or set num_workers lower")
    except _Problem as found:
        problem = found
    except UnusableFile as error:
        problem = _Problem(error.kind, error.problem, error.advice)
    except OSError as error:
        problem = _damaged(error) if error.errno is None else _trouble(error)  # without a number it is Pillow's
    except Exception as error:  # Pillow's readers of damaged files raise errors of every kind
        problem = _damaged(error)
    raise problem.error(path) from problem.__cause__


class _Problem(Exception):
    """Why an image cannot be read, and what to do, as yet without the path."""

    def __init__(self, kind: str, problem: str, advice: str, reason: str = ""):
        self.kind, self.problem, self.advice, self.reason = kind, problem, advice, reason or problem

    def error(self, path: str) -> ImageError:
        """The error for the image at `path`."""
        error = ImageError(f"the image {path} {self.problem}; {self.advice}", kind=self.kind, path=path)
        error.reason = self.reason
        return error


def _damaged(error: Exception) -> _Problem:
    """The problem of a file that a decoder refuses with `error`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    problem = _Problem("undecodable_image", f"cannot be decoded ({reason})", ADVICE, reason)
    problem.__cause__ = error
    return problem


def _trouble(error: OSError) -> _Problem:
    """The problem of a file that cannot be opened."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return _Problem("missing_image", "is missing", f"restore it, or {ADVICE}")
    if isinstance(error, IsADirectoryError):
        return _Problem("folder_as_image", "is a folder", "remove it from the list, or put the picture in its place")
    reason = f"({error.strerror})"
    if isinstance(error, PermissionError):
        advice = "make it readable (chmod +r, and +x for its folders)"
        return _Problem("unreadable_image", f"may not be read {reason}", advice)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "raise the limit (ulimit -n), or set num_workers lower"
        return _Problem("too_many_open_files", f"cannot be opened {reason}", advice)
    return _Problem("unreadable_image", f"cannot be read {reason}", "check the disk, or replace the file")


def _decode(file: BinaryIO, reduction: Reduction | None, exif_orientation: bool) -> Tensor:
    """The pixels in an open file. Raises a _Problem, or any error of Pillow's."""
    try:
        image = Image.open(file, formats=FORMATS)  # reads the header alone
    except Image.UnidentifiedImageError:
        raise ValueError(_kind_of_file(file)) from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            problem = f"claims {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are read"
            raise _Problem("too_many_pixels", problem, "make it smaller or remove it from the list")
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            orientation = _orientation(image) if exif_orientation else 1
            by = reduction(*((width, height) if orientation >= 5 else (height, width))) if reduction else 1
            if by > 1:
                image.draft(None, (width // by, height // by))
            elif (pixels := _decode_plain_jpeg(file)) is not None:
                return TURNS[orientation](pixels)
        return _decode_with_pillow(image, exif_orientation)


def _decode_plain_jpeg(file: BinaryIO) -> Tensor | None:
    """The pixels of a JPEG, uint8 [3, H, W]; None if torchvision cannot decode it, and Pillow is tried."""
    import torchvision.io as io

    position = file.tell()
    file.seek(0)
    try:
        data = torch.from_numpy(np.fromfile(file, np.uint8))
        return io.decode_jpeg(data, io.ImageReadMode.RGB)
    except RuntimeError:
        file.seek(position)
        return None


def _orientation(image: Image.Image) -> int:
    """The orientation in the EXIF of an opened image, else in its XMP: 1 to 8, where 1 is upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in TURNS else 1
    except Exception:  # damaged: nothing is turned, here or by Pillow
        image.getexif().clear()
        return 1


def _decode_with_pillow(image: Image.Image, exif_orientation: bool) -> Tensor:
    """The first frame of an opened image, uint8 [3, H, W]. Raises a _Problem for 32 bits of grey."""
    is_tiff = image.format == "TIFF"
    stored = _orientation(image) if is_tiff else 1
    image.load()
    orientation = _orientation(image) if is_tiff or exif_orientation else 1  # a PNG may have it behind its pixels
    turned = orientation != stored if is_tiff else False  # Pillow itself turns a TIFF, and forgets its orientation
    pixels = torch.from_numpy(_rgb(image)).permute(2, 0, 1)
    if turned:
        return pixels if exif_orientation else TURNS[INVERSE.get(stored, stored)](pixels)
    return TURNS[orientation if exif_orientation else 1](pixels)


def _rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a loaded image, uint8 [H, W, 3]. Raises a _Problem for 32 bits of grey."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion would cut all above 255 to white
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return grey[:, :, None].repeat(3, axis=2)
    if image.mode in ("I", "F"):
        problem = "has 32 bits of grey, whose black and white are unknown"
        raise _Problem("grey_of_32_bits", problem, "save it with 8 or 16 bits")
    return np.array(image.convert("RGB"))


def _kind_of_file(file: BinaryIO) -> str:
    """A description of a file that is not a picture."""
    file.seek(0)
    beginning = file.read(256)
    if not beginning:
        return "the file is empty"
    if beginning.lstrip().lower().startswith(WEB_PAGE):
        return "it is a web page, as servers send instead of a picture"
    if beginning.startswith(BEGINNINGS):
        return "its header is damaged"
    return f"it is none of {', '.join(FORMATS)}"
