"""A picture without its metadata, for files with intact pixels and a damaged text, profile or tag.

Pixels and orientation remain, copied from the file byte by byte: nothing is unpacked or recoded.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from datasets.decoding.pieces import Piece, join, length, read_at, size_of
from datasets.decoding.problems import Problem, undecodable
from datasets.decoding.tiff import BEGINNINGS as TIFF
from datasets.decoding.tiff import PLANAR, SAMPLES, Tiff

LARGE = 2**26  # bytes of a file or a segment above which its metadata are inspected before it is read: 64 MB
MAX_BYTES = 2**20  # of a piece of metadata: larger ones are left out
MAX_JUNK = 2**16  # bytes between the segments of a JPEG
PNG, JPEG, GIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"GIF87a", b"GIF89a")
BEFORE = (b"\xef\xbb\xbf", b"\r", b"\n", b" ")  # a byte order mark or empty lines, as programs put before their output


def without_metadata(file: BinaryIO) -> BinaryIO | None:
    """The picture in an open file with its pixels and its orientation only; None if nothing can be left out."""
    start = _start(file)
    beginning = read_at(file, start, 12)
    size = size_of(file)
    if beginning.startswith(PNG):
        return join(file, list(_png(file, start, size)))
    if beginning.startswith(JPEG):
        return join(file, list(_jpeg(file, start, size)))
    if beginning.startswith(GIF):
        return join(file, list(_gif(file, start, size)))
    if beginning.startswith(b"RIFF") and beginning[8:] == b"WEBP":
        return join(file, list(_webp(file, start, size)))
    shifted = join(file, [(start, size - start)]) if start else file
    if beginning.startswith(TIFF):
        return _tiff(shifted)
    return shifted if start else None


def without_large_metadata(file: BinaryIO) -> BinaryIO | None:
    """The same for a large file; None for a TIFF without large tags, as decoders read it selectively."""
    if not read_at(file, 0, 4).startswith(TIFF):
        return without_metadata(file)
    try:
        if not Tiff(file).has_large_metadata:
            return None
    except Problem:
        return None
    if bare := without_metadata(file):
        return bare
    raise undecodable("it has a tag of more than 64 MB")


def _start(file: BinaryIO) -> int:
    """The position of the first byte of the picture itself."""
    beginning, start = read_at(file, 0, 64), 0
    while beginning.startswith(BEFORE, start):
        start += 3 if beginning.startswith(BEFORE[0], start) else 1
    return start


# ---- PNG: its critical chunks, and those with an orientation ----


def png_chunks(file: BinaryIO, start: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, position, length with kind and checksum) of each chunk, up to the end or to an invalid one."""
    position = start + len(PNG)
    while position + 8 <= size:
        count, kind = struct.unpack(">I4s", read_at(file, position, 8))
        if not kind.isalnum():
            return
        yield kind, position, count + 12
        position += count + 12
        if kind == b"IEND":
            return


def _png(file: BinaryIO, start: int, size: int) -> Iterator[Piece]:
    yield start, len(PNG)
    width, height = struct.unpack(">II", read_at(file, start + 16, 8).ljust(8, b"\0"))
    left = LARGE + 9 * width * height  # of its pixels, bytes: more than the largest need
    for kind, position, count in png_chunks(file, start, size):
        if kind == b"IDAT":
            count = min(count, left)
            left -= count
        elif kind.isupper():
            count = min(count, MAX_BYTES)
        is_critical = not kind[0] & 0x20
        if is_critical or (kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and _has_orientation(file, position, count)):
            yield position, min(count, size - position)


def _has_orientation(file: BinaryIO, position: int, count: int) -> bool:
    """Whether a chunk of metadata is intact, and may have an orientation."""
    if count > MAX_BYTES:
        return False
    chunk = read_at(file, position, count)
    kind, data = chunk[4:8], chunk[8:-4]
    if len(chunk) < count or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if kind == b"eXIf":
        return True
    key, _, text = data.partition(b"\0")
    if key not in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
        return False
    packed = text[1:] if kind == b"zTXt" else text.split(b"\0", 3)[-1] if text[:1] == b"\1" else None
    return packed is None or _is_small_unpacked(packed)


def _is_small_unpacked(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, MAX_BYTES - 1)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail


# ---- JPEG: no comments, no application segments but JFIF's, Adobe's and those with an orientation ----

# bytes that such a segment must have to be of use
JPEG_METADATA = dict.fromkeys((0x01, *range(0xE0, 0xF0), 0xFE), 2**17) | {0xE0: 18, 0xEE: 16}


def jpeg_segments(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(marker, position, length with the marker) of each segment up to the first scan's, which is the last one."""
    position, junk = start + 2, 0
    while position + 4 <= size and junk < MAX_JUNK:
        head = read_at(file, position, 4)
        if head[0] != 0xFF or head[1] == 0xFF:  # the decoders search for the next marker, too
            position, junk = position + 1, junk + 1
            continue
        has_length = 0xC0 <= head[1] <= 0xFE and not 0xD0 <= head[1] <= 0xD9
        count = 2 + (int.from_bytes(head[2:], "big") if has_length else 0)
        yield head[1], position, count
        if head[1] == 0xDA:
            return
        position += max(count, 2)


def _jpeg(file: BinaryIO, start: int, size: int) -> Iterator[Piece]:
    yield start, 2
    limit = LARGE
    orientations = {b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"}  # beginnings of the first segments of EXIF and XMP
    for marker, position, count in jpeg_segments(file, start, size):
        if 0xC0 <= marker <= 0xCF:
            height, width = struct.unpack(">HH", read_at(file, position + 5, 4).ljust(4, b"\0"))
            limit = max(limit, LARGE + 8 * height * width)  # bytes: more than its scans need
        if marker == 0xDA:
            yield position, min(size - position, limit)
        elif marker == 0xE1:
            beginning = read_at(file, position + 4, min(max(count - 4, 0), 29))
            for kind in tuple(filter(beginning.startswith, orientations)):
                orientations.remove(kind)
                yield position, min(count, size - position)
        elif JPEG_METADATA.get(marker, 0) <= count:
            yield position, min(count, size - position)


# ---- WebP: its frames, and metadata with an orientation ----

MAX_WEBP = 600_000_000  # bytes that are read, all at once


def _webp(file: BinaryIO, start: int, size: int) -> Iterator[Piece]:
    pieces: list[Piece] = []
    position = start + 12  # its own size, before that, may be wrong
    while position + 8 <= size:
        kind, count = struct.unpack("<4sI", read_at(file, position, 8))
        if not kind.isascii() or not kind.decode().isprintable():
            break
        padded = 8 + count + count % 2
        is_small = padded <= MAX_BYTES and position + padded <= size
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") or (kind in (b"EXIF", b"XMP ") and is_small):
            pieces.append((position, min(padded, size - position)))
        position += padded
    while sum(map(length, pieces)) > MAX_WEBP:
        pieces.pop()
    yield b"RIFF" + struct.pack("<I", (4 + sum(map(length, pieces))) % 2**32) + b"WEBP"
    yield from pieces


def webp_canvas(beginning: bytes) -> tuple[int, int]:
    """Width and height that an extended WebP claims, which its decoder allocates at once; (0, 0) for others."""
    if beginning[:4] != b"RIFF" or beginning[8:16] != b"WEBPVP8X" or len(beginning) < 30:
        return 0, 0
    return int.from_bytes(beginning[24:27], "little") + 1, int.from_bytes(beginning[27:30], "little") + 1


# ---- GIF: its screen and its first frame ----


def _gif(file: BinaryIO, start: int, size: int) -> Iterator[Piece]:
    flags = (read_at(file, start, 13)[10:11] or b"\0")[0]
    position = start + 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    yield start, min(position, size) - start
    while read_at(file, position, 1) == b"!":  # an extension: its kind, and blocks up to an empty one
        position += 2
        while count := int.from_bytes(read_at(file, position, 1), "big"):
            position += 1 + count
        position += 1
    yield position, max(0, size - position)


# ---- TIFF ----


def _tiff(file: BinaryIO) -> BinaryIO | None:
    try:
        tiff = Tiff(file)
    except Problem:
        return None
    # with a single band, separate planes make no difference
    return tiff.view({PLANAR: None} if tiff.value(SAMPLES, 1) == 1 else None)
