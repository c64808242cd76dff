"""Pictures of 16 bits: their numbers, and their scaling to 8 bits.

Cameras and microscopes store 10, 12 or 14 bits in 16. Their white, 2^bits - 1, is far below that of the format, and is
not recorded in the file: the key bit_depth sets it.

Pillow reads grey of 16 bits in full, but only the high bytes of several bands. So they are read twice, in the other
byte order for the low bytes. Separate planes of a TIFF are read as grey pictures.
"""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile

from datasets.decoding.problems import unsupported
from datasets.decoding.tiff import Tiff

WHITE = 65535  # of 16 bits
BYTE_ORDERS = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}  # -> the other one
BOTH_BYTES = {"LA;16B": "RGBA"}  # raw modes -> those that read grey and alpha, high and low bytes, as four bands


@functools.lru_cache(maxsize=4)
def levels(white: int) -> np.ndarray:
    """Grey levels of the numbers 0 to 65535, uint8 [65536]: 255 v / white, rounded; 255 above white."""
    numbers = np.minimum(np.arange(WHITE + 1), white)
    return ((510 * numbers + white) // (2 * white)).astype(np.uint8)


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How Pillow unpacks the pixels of an opened image, such as RGB;16B."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def bits_of(image: ImageFile.ImageFile) -> int:
    """Bits of each number of an opened image: 16, 12, or 8 for fewer and 32 for more."""
    mode = raw_mode(image)
    if mode == "I;12":
        return 12
    if ";16" in mode or image.mode.startswith("I;16"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def numbers(image: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> tuple[np.ndarray, str]:
    """Loads an image of 12 or 16 bits: its numbers, uint16 or int32 (signed) [H, W, bands], and the mode they are in.

    image: opened and not yet loaded. again: opens the same file once more.
    """
    raw = raw_mode(image)
    if image.mode.startswith("I"):
        image.load()
        return np.asarray(image)[:, :, None], "L"
    if raw in BOTH_BYTES:
        _read_as(image, BOTH_BYTES[raw])
        both = np.asarray(image).astype(np.uint16)
        return both[:, :, :1] << 8 | both[:, :, 1:2], "L"
    if raw[-1] not in BYTE_ORDERS:
        raise unsupported(f"has pixels that are read in 8 bits only ({raw})", "leave bit_depth out, or save it as RGB")
    plain = raw.replace("RGBa", "RGBA")  # with premultiplied alpha, the low bytes would be wrong
    with again() as other:
        _read_as(image, plain)
        _read_as(other, plain[:-1] + BYTE_ORDERS[raw[-1]])
        both = np.asarray(image).astype(np.uint16) << 8 | np.asarray(other)
    return both, image.mode if plain == raw else "RGBa"


def _read_as(image: ImageFile.ImageFile, raw: str) -> None:
    """Loads an opened image in another raw mode of as many bits."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    image.load()


def planes(tiff: Tiff) -> tuple[np.ndarray, str]:
    """The numbers of a TIFF with separate planes of 16 bits, as stored, uint16 [H, W, bands], and their mode."""
    mode, bands = tiff.colour if tiff.colour in ("RGB", "CMYK") else "L", []
    for view in tiff.planes(len(mode)):
        if view is None:
            raise unsupported("has separate planes of 16 bits whose tags are too long to be read")
        with Image.open(view, formats=("TIFF",)) as image:
            bands.append(np.asarray(image))
    return np.stack(bands, axis=2), mode


def to_rgb(pixels: np.ndarray, mode: str) -> np.ndarray:
    """uint8 [H, W, bands] in a mode of Pillow -> uint8 RGB [H, W, 3]."""
    if pixels.shape[2] == 1:
        return pixels.repeat(3, axis=2)
    image = Image.frombytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes())
    return np.array((image.convert("RGBA") if mode == "RGBa" else image).convert("RGB"))


def scale(values: np.ndarray, bit_depth: int) -> np.ndarray:
    """Numbers of 16 bits, signed or not, to grey levels: 0 and less is black, 2^bit_depth - 1 and more is white."""
    return levels(2**bit_depth - 1)[np.maximum(values, 0)]
