"""Decoding: an image file becomes uint8 RGB [3, H, W], or an ImageError with its path, the reason and advice.

torchvision decodes plain JPEG, Pillow the rest. The format is recognised by content, not by suffix. Other modes are
converted as by Pillow's convert("RGB"): alpha is dropped without blending a background; colour profiles are ignored;
but 16 bits are scaled to 8. Only the first frame or page is read.

EXIF orientation is applied, or the image is read as stored. Pillow's getexif() reads it, whichever decoder reads the
pixels: EXIF's, or if EXIF has none XMP's (tiff:Orientation). An image with damaged metadata is not rotated.
"""

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from datasets.decoding import sixteen_bits
from datasets.decoding.metadata import LARGE, webp_canvas, without_large_metadata, without_metadata
from datasets.decoding.opening import UnusableFile, regular_only
from datasets.decoding.pieces import read_at, size_of
from datasets.decoding.problems import ADVICE, ImageError, Problem, damaged, trouble, undecodable, unsupported
from datasets.decoding.quiet import quiet_c
from datasets.decoding.recognise import FORMATS, explain
from datasets.decoding.tiff import BEGINNINGS as TIFF
from datasets.decoding.tiff import Tiff
from utils.imports import submodule

__all__ = ["ADVICE", "FORMATS", "ImageError", "Reduction", "decode", "largest_number"]

MAX_PIXELS = 200_000_000  # of an image: 600 MB as RGB
MAX_JPEG_BYTES = 600_000_000  # that are read of a JPEG, all at once
MAX_SCANS = 100  # of a progressive JPEG, which has about ten; each is a pass over all pixels, even one of a few bytes

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
INVERSE = {6: 8, 8: 6}  # the others are their own inverse

T = TypeVar("T")
Reduction = Callable[[int, int], int]  # height and width of an image -> by how much it may be decoded smaller

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is the limit, and its error names the file
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # the error has the reason


def decode(
    path: str,
    reduction: Reduction | None = None,
    exif_orientation: bool = True,
    bit_depth: int | None = None,
    content: bytes | None = None,
) -> Tensor:
    """Decodes an image file to uint8 RGB [3, H, W]. Raises an ImageError with path, reason and advice.

    A JPEG may be decoded to 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time: `reduction(height, width)`
    returns 2, 4 or 8 then, or 1. exif_orientation: apply the EXIF or XMP orientation; False = as stored. bit_depth:
    pictures of 16 bits use these lowest ones, so that 2^bit_depth - 1 is white; None = all 16. content: the bytes of
    the file, from a cache; None = they are read from `path`.
    """
    try:
        with _open(path) if content is None else io.BytesIO(content) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about files that it reads nevertheless, without their names
            options = _Options(reduction, exif_orientation, bit_depth)
            with quiet_c():
                return _read(file, functools.partial(_decode, options=options))
    except MemoryError:
        problem = Problem("out_of_memory", "does not fit in memory", "make it smaller, or set num_workers lower")
    except Problem as found:
        problem = found
    except UnusableFile as error:
        problem = Problem(error.kind, error.problem, error.advice)
    except OSError as error:
        problem = trouble(error)
    raise problem.error(path) from problem.__cause__


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """An image file to read. Raises a Problem for an empty one, or OSError."""
    with open(path, "rb", opener=regular_only) as file:
        if os.fstat(file.fileno()).st_size == 0:  # as of files in /proc, which may have no end
            raise undecodable("the file is empty")
        yield file


def largest_number(path: str) -> int | None:
    """The largest number in a picture of 16 bits; None for other files and for those that are not decoded."""
    try:
        with open(path, "rb", opener=regular_only) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            beginning = read_at(file, 0, 25)
            is_deep_png = beginning.startswith(b"\x89PNG") and beginning[24:] == b"\x10"
            if not is_deep_png and not beginning.startswith(TIFF):
                return None
            with quiet_c():
                found = _read(file, _numbers)
            return None if found is None else int(found.max())
    except Exception:  # decode reports it
        return None


class _Options(NamedTuple):
    """The options of decode."""

    reduction: Reduction | None
    exif_orientation: bool
    bit_depth: int | None


def _read(file: BinaryIO, read: Callable[[BinaryIO], T]) -> T:
    """`read` of an open file, or of its picture without the metadata if only these are damaged.

    Raises a Problem, MemoryError, or an OSError with a number.
    """
    is_large = size_of(file) > LARGE  # the decoders would read large pieces of metadata into memory
    try:
        return read((without_large_metadata(file) if is_large else None) or file)
    except Exception as error:  # Pillow's readers of damaged files raise errors of every kind
        if isinstance(error, (Problem, MemoryError)) or (isinstance(error, OSError) and error.errno is not None):
            raise
        failure = error
    try:
        if (bare := without_metadata(file)) is not None:
            return read(bare)
    except (Problem, MemoryError):
        raise
    except Exception:  # the pixels are damaged, too; the first error is more specific
        pass
    raise _explain(file, failure)


def _explain(file: BinaryIO, error: Exception) -> Problem:
    """The problem of a file that is not decoded."""
    problem = explain(file)
    if problem is None and isinstance(error, Image.UnidentifiedImageError):
        error = ValueError("its header is damaged")
    if problem is None:
        return damaged(error)
    problem.__cause__ = error
    return problem


def _decode(file: BinaryIO, options: _Options) -> Tensor:
    """The pixels in an open file. Raises a Problem, or any error of Pillow's."""
    beginning = read_at(file, 0, 30)
    _require_few_pixels(*webp_canvas(beginning))
    tiff = _open_tiff(file) if beginning.startswith(TIFF) else None
    with Image.open(file, formats=FORMATS) as image:  # reads the header alone
        width, height = image.size
        _require_few_pixels(width, height)
        if image.format in ("JPEG", "MPO"):
            if image.info.get("progressive"):
                _require_few_scans(file)
            if image.mode in ("L", "RGB"):
                orientation = _orientation(image) if options.exif_orientation else 1
                size = (width, height) if orientation >= 5 else (height, width)
                by = options.reduction(*size) if options.reduction else 1
                if by > 1:
                    image.draft(None, (max(1, width // by), max(1, height // by)))
                elif (pixels := _decode_plain_jpeg(file)) is not None:
                    return TURNS[orientation](pixels)
        return _decode_with_pillow(image, file, tiff, options)


def _require_few_pixels(width: int, height: int) -> None:
    """Raises a Problem for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        problem = f"claims {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are read"
        raise Problem("too_many_pixels", problem, "make it smaller or remove it from the list")


def _open_tiff(file: BinaryIO) -> Tiff | None:
    """The tags of an open TIFF; None if it is not a TIFF. Raises a Problem if it must not be decoded."""
    try:
        tiff = Tiff(file)
    except Problem:  # Pillow tries it
        return None
    if refusal := tiff.refusal(MAX_PIXELS):
        raise refusal
    return tiff


def torchvision_io() -> Any:
    """torchvision's module of decoders; to be loaded once, before workers are forked."""
    return submodule("torchvision.io.image")


def _decode_plain_jpeg(file: BinaryIO) -> Tensor | None:
    """The pixels of a JPEG, uint8 [3, H, W]; None if torchvision cannot decode it, and Pillow is tried."""
    decoders = torchvision_io()
    position = file.tell()
    data = np.empty(min(size_of(file), MAX_JPEG_BYTES), np.uint8)
    file.seek(0)
    count = file.readinto(data)  # type: ignore[attr-defined]
    try:
        return decoders.decode_jpeg(torch.from_numpy(data[:count]), decoders.ImageReadMode.RGB)
    except RuntimeError:
        file.seek(position)
        return None


def _require_few_scans(file: BinaryIO) -> None:
    """Raises a Problem for a progressive JPEG of more than MAX_SCANS scans, which would take hours."""
    position, count = file.tell(), 0
    file.seek(0)
    while block := file.read(2**20):
        count += block.count(b"\xff\xda")
    file.seek(position)
    if count > MAX_SCANS:
        raise unsupported(f"is a JPEG of {count:,} scans, more than the {MAX_SCANS} that are read", "save it again")


def _orientation(image: Image.Image) -> int:
    """The orientation in the EXIF of an opened image, else in its XMP: 1 to 8, where 1 is upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in TURNS else 1
    except Exception:  # damaged: not rotated, here or by Pillow
        image.getexif().clear()
        return 1


def _decode_with_pillow(image: ImageFile.ImageFile, file: BinaryIO, tiff: Tiff | None, options: _Options) -> Tensor:
    """The first frame of an opened image, uint8 [3, H, W]. Raises a Problem for pixels whose white is unknown."""
    is_upright = options.exif_orientation
    stored = _orientation(image) if tiff else 1
    pixels = torch.from_numpy(_rgb(image, file, tiff, options.bit_depth)).permute(2, 0, 1)
    orientation = _orientation(image) if tiff or is_upright else 1  # a PNG may have it after its pixels
    turned = orientation != stored if tiff else False  # Pillow rotates a TIFF, and drops its orientation
    if turned:
        return pixels if is_upright else TURNS[INVERSE.get(stored, stored)](pixels)
    return TURNS[orientation if is_upright else 1](pixels)


def _rgb(image: ImageFile.ImageFile, file: BinaryIO, tiff: Tiff | None, bit_depth: int | None) -> np.ndarray:
    """Loads an opened image: uint8 [H, W, 3]. Raises a Problem for pixels whose white is unknown."""
    bits = sixteen_bits.bits_of(image)
    if tiff and tiff.has_separate_planes(16):  # Pillow reads each byte as a pixel, unless they are compressed
        found, mode = sixteen_bits.planes(tiff)
        is_high_byte = bit_depth is None and mode != "L"  # as Pillow reads several bands
        pixels = (found >> 8).astype(np.uint8) if is_high_byte else sixteen_bits.scale(found, bit_depth or 16)
        return sixteen_bits.to_rgb(pixels, mode)
    if bits == 32:
        raise _unknown_white(image, tiff)
    if bits in (12, 16) and (bit_depth is not None or image.mode.startswith("I")):
        if image.mode == "I" and bit_depth is None:
            advice = "set bit_depth (15: 32,767 is white), save it as unsigned"
            raise unsupported("has signed numbers of 16 bits, whose white is unknown", advice)
        found, mode = sixteen_bits.numbers(image, functools.partial(Image.open, file, formats=FORMATS))
        return sixteen_bits.to_rgb(sixteen_bits.scale(found, min(bit_depth or bits, bits)), mode)
    image.load()
    return np.array(image.convert("RGB"))


def _numbers(file: BinaryIO) -> np.ndarray | None:
    """The numbers in a file of 16 bits, [H, W, bands] without alpha; None if it has another depth."""
    tiff = _open_tiff(file) if read_at(file, 0, 4).startswith(TIFF) else None
    if tiff and tiff.has_separate_planes(16):
        return sixteen_bits.planes(tiff)[0]
    with Image.open(file, formats=FORMATS) as image:
        if sixteen_bits.bits_of(image) != 16:
            return None
        found, mode = sixteen_bits.numbers(image, functools.partial(Image.open, file, formats=FORMATS))
        return found[:, :, :3] if mode in ("RGBA", "RGBa") else found


def _unknown_white(image: Image.Image, tiff: Tiff | None) -> Problem:
    """The problem of a picture of 32 bits: its numbers have no fixed black and white."""
    kind = "floating-point numbers" if image.mode == "F" else "integers"
    bits = tiff.bits if tiff else 32
    problem = f"has {kind} of {bits} bits, whose black and white are unknown"
    return Problem("grey_of_32_bits", problem, "save it with 8 or 16 bits")
