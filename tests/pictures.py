"""Writes image files with any number of bits, bands, chunks and tags."""

import struct
import zlib

import numpy as np


def chunk(kind, data, damage=0):
    """A chunk of a PNG; damage: bits that are wrong in its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damage)


def png(pixels, colour, bits=8, chunks=b""):
    """A PNG with the samples `pixels` [H, W, channels] (colour 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha)."""

    height, width = pixels.shape[:2]
    rows = [b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in pixels]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def tiff(pixels, photometric, extra=(), planar=1, order="<", compression=1, strips=3, kind="u2", **tags):
    """A TIFF with the samples `pixels` [H, W, bands], each band by itself with planar 2. tags: t<number>=value."""
    height, width, bands = pixels.shape
    samples = pixels.astype(f"{order}{kind}")
    planes = [samples] if planar == 1 else [samples[:, :, band] for band in range(bands)]
    rows = -(-height // strips)
    parts = [plane[top : top + rows].tobytes() for plane in planes for top in range(0, height, rows)]
    parts = [zlib.compress(part) for part in parts] if compression == 8 else parts
    bits, form = 8 * np.dtype(kind).itemsize, {"u": 1, "i": 2, "f": 3}[kind[0]]
    values = {256: [width], 257: [height], 258: [bits] * bands, 259: [compression], 262: [photometric]}
    values |= {273: [0] * len(parts), 277: [bands], 278: [rows], 279: [len(part) for part in parts], 284: [planar]}
    values |= {338: list(extra)} if extra else {}
    values |= {339: [form] * bands} if form > 1 else {}
    values |= {int(name[1:]): value for name, value in tags.items()}
    ends = np.cumsum([len(part) for part in parts])
    for _ in range(2):  # the second time with the positions of the entries
        entries, behind, start = b"", b"", 8 + 2 + 12 * len(values) + 4
        for tag, numbers in sorted(values.items()):
            data = struct.pack(f"{order}{len(numbers)}I", *numbers)
            entries += struct.pack(f"{order}HHI", tag, 4, len(numbers))
            entries += data if len(data) == 4 else struct.pack(f"{order}I", start + len(behind))
            behind += data if len(data) > 4 else b""
        values[273] = [int(start + len(behind) + end - len(part)) for end, part in zip(ends, parts, strict=True)]
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HIH", 42, 8, len(values)) + entries + bytes(4)
    return head + behind + b"".join(parts)
