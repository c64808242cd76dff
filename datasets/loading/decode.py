"""Decoding: an image file becomes uint8 RGB [3, H, W], or a DataError that names it and says what to do.

torchvision decodes plain JPEG, Pillow the rest. The content counts, not the suffix. What is no RGB becomes so as by
Pillow's convert("RGB"): alpha is dropped, so that the stored colours show and no background; colour profiles are
ignored; but 16 bits are scaled to 8. Of an animation or of several pages the first counts.

An image is turned as its metadata say, or read as stored. Pillow's getexif() finds the orientation, whichever decoder
reads the pixels: that of EXIF, or where EXIF has none that of XMP (tiff:Orientation). Damaged metadata turn nothing.
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

from utils.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # and no other reader of Pillow's: some start programs
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


class ImageFiles:
    """Image files by index. All paths lie in one block of bytes, which forked workers share.

    In a list, each path that a worker reads has its reference counted, and so its page of memory copied.
    exif_orientation: as in `decode`.
    """

    def __init__(self, paths: list[str], exif_orientation: bool = True):
        import torchvision.io  # noqa: F401 (here once, sooner than in every worker)

        self.exif_orientation = exif_orientation
        self.paths = os.fsencode("\0".join(paths))
        self.ends = np.flatnonzero(np.frombuffer(self.paths + b"\0", np.uint8) == 0)

    def path(self, index: int) -> str:
        """The path of one image; `index` is in 0..n-1."""
        return os.fsdecode(self.paths[self.ends[index - 1] + 1 if index else 0 : self.ends[index]])

    def decode(self, index: int, reduction: Reduction | None = None) -> Tensor:
        return decode(self.path(index), reduction, self.exif_orientation)


def decode(path: str, reduction: Reduction | None = None, exif_orientation: bool = True) -> Tensor:
    """Decodes an image file to uint8 RGB [3, H, W]. Raises a DataError: path, reason and advice in one sentence.

    A JPEG may be decoded to 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time: `reduction(height, width)`
    is 2, 4 or 8 then, or 1. exif_orientation: turned as EXIF or XMP says; False = as stored.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what it reads nevertheless; they would not name the file
            return _decode(file, reduction, exif_orientation)
    except MemoryError:
        raise DataError(f"the image {path} does not fit in memory; make it smaller, or set num_workers lower") from None
    except DataError as error:
        raise DataError(f"the image {path} {error}") from None
    except OSError as error:
        if error.errno is None:  # Pillow's
            raise _damaged(path, error) from error
        raise DataError(f"the image {path} {_trouble(error)}") from None
    except Exception as error:  # Pillow's readers of damaged files raise whatever they stumble over
        raise _damaged(path, error) from error


ADVICE = "replace it, or find all such with scripts/check_data.py and leave them out with bad_images skip"


def _damaged(path: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"the image {path} cannot be decoded ({reason}); {ADVICE}")


def _trouble(error: OSError) -> str:
    """Why a file cannot be opened, and what to do."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"is missing; restore it, or {ADVICE}"
    if isinstance(error, IsADirectoryError):
        return "is a folder; remove it from the list, or put the picture in its place"
    if isinstance(error, PermissionError):
        return f"may not be read ({error.strerror}); make it readable (chmod +r, and +x for its folders)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"cannot be opened ({error.strerror}); raise the limit (ulimit -n), or set num_workers lower"
    return f"cannot be read ({error.strerror}); check the disk, or replace the file"


def _decode(file: BinaryIO, reduction: Reduction | None, exif_orientation: bool) -> Tensor:
    """The pixels in an open file; raises DataErrors without its name, and whatever Pillow raises."""
    try:
        image = Image.open(file, formats=FORMATS)  # reads the header alone
    except Image.UnidentifiedImageError:
        raise ValueError(_what_it_is(file)) from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(
                f"claims {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are read; "
                "make it smaller or remove it from the list"
            )
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            orientation = _orientation(image) if exif_orientation else 1
            by = reduction(*((width, height) if orientation >= 5 else (height, width))) if reduction else 1
            if by > 1:
                image.draft(None, (width // by, height // by))
            elif (pixels := _decode_plain_jpeg(file)) is not None:
                return TURNS[orientation](pixels)
        return _decode_with_pillow(image, exif_orientation)


def _decode_plain_jpeg(file: BinaryIO) -> Tensor | None:
    """The pixels of a JPEG, uint8 [3, H, W]; None where torchvision cannot: Pillow reads it or says what is wrong."""
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
    """The orientation that an opened image has in its EXIF, else in its XMP: 1 to 8, where 1 is upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in TURNS else 1
    except Exception:  # damaged: nothing is turned, here or by Pillow
        image.getexif().clear()
        return 1


def _decode_with_pillow(image: Image.Image, exif_orientation: bool) -> Tensor:
    """The first frame of an opened image, uint8 [3, H, W]. Raises DataError for 32 bits of grey."""
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
    """The pixels of a loaded image, uint8 [H, W, 3]. Raises DataError for 32 bits of grey."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion would cut all above 255 to white
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return grey[:, :, None].repeat(3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError("has 32 bits of grey, whose black and white nobody knows; save it with 8 or 16 bits")
    return np.array(image.convert("RGB"))


def _what_it_is(file: BinaryIO) -> str:
    """Says of a file that is no picture what it is instead."""
    file.seek(0)
    beginning = file.read(256)
    if not beginning:
        return "the file is empty"
    if beginning.lstrip().lower().startswith(WEB_PAGE):
        return "it is a web page, as servers send in place of a picture"
    if beginning.startswith(BEGINNINGS):
        return "its header is damaged"
    return f"it is none of {', '.join(FORMATS)}"
