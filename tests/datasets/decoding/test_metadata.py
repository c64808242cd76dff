"""Intact pixels with damaged or enormous metadata: the same pixels as without these, and nothing unpacked."""

import contextlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path

import fork_server
import helpers
import numpy as np
import pytest
import torch
from pictures import chunk, tiff
from PIL import Image

from datasets.decoding.decode import ImageError, decode
from datasets.decoding.quiet import quiet_c

PHOTO = helpers.photograph()[100:143, 300:361].copy()
UPSIDE_DOWN = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0"  # EXIF with orientation 3
MILLIONS = zlib.compress(bytes(50_000_000), 9)  # 50 kB


def saved(suffix, **options):
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, suffix, **options)
    return content.getvalue()


PNG, JPEG, WEBP, GIF = saved("PNG"), saved("JPEG"), saved("WEBP", lossless=True), saved("GIF")
TIFF = {compression: tiff(PHOTO, 2, kind="u1", compression=compression) for compression in (1, 8)}


def segment(marker, data, length=None):
    return struct.pack(">BBH", 255, marker, len(data) + 2 if length is None else length) + data


def riff(*chunks):
    """A WebP with these chunks, (kind, data) or bytes, before and after that of its pixels."""
    parts = [part if isinstance(part, bytes) else packed(*part) for part in chunks]
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, parts))) + b"WEBP" + b"".join(parts)


def packed(kind, data):
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def extended(flags):
    return b"VP8X", bytes([flags, 0, 0, 0]) + (60).to_bytes(3, "little") + (42).to_bytes(3, "little")


TEXTS = {
    "a text of 3 MB": chunk(b"tEXt", b"k\0" + bytes([120]) * 3_000_000),
    "70 texts of 1 MB": chunk(b"tEXt", b"k\0" + bytes([120]) * 1_000_000) * 70,
    "a packed text": chunk(b"zTXt", b"k\0\0" + MILLIONS),
    "a packed international text": chunk(b"iTXt", b"k\0\1\0\0\0" + MILLIONS),
    "a packed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MILLIONS),
    "a packed profile of EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + MILLIONS),
    "a packed colour profile": chunk(b"iCCP", b"k\0\0" + MILLIONS),
    "a colour profile cut": chunk(b"iCCP", b"k\0\0" + MILLIONS[:50]),
    "an empty colour profile": chunk(b"iCCP", b""),
    "another packing": chunk(b"iCCP", b"k\0\7" + MILLIONS) + chunk(b"zTXt", b"k\0\3abc"),
    "a text's checksum": chunk(b"tEXt", b"k\0v", damage=1),
    "gamma's checksum": chunk(b"gAMA", b"\0\0\1\0", damage=1),
    "a private checksum": chunk(b"prVt", b"abc", damage=1),
    "transparency's checksum": chunk(b"tRNS", bytes(6), damage=1),
    "short ones": b"".join(chunk(kind, b"\0") for kind in (b"gAMA", b"cHRM", b"pHYs", b"tRNS", b"acTL")),
    "an empty intent": chunk(b"sRGB", b""),
    "a frame of an animation": chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, 9999, 9999, 0, 0, 1, 1, 0, 0)),
}
SEGMENTS = {
    "a short colour profile": segment(0xE2, b"ICC_PROFILE\0"),
    "a colour profile of 13 MB": b"".join(segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(65000)) for _ in range(200)),
    "EXIF": segment(0xE1, b"Exif\0\0" + b"\xff" * 500),
    "EXIF in 100 segments": segment(0xE1, b"Exif\0\0" + bytes(60000)) * 100,
    "EXIF in a circle": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08"),
    "several pictures": segment(0xE2, b"MPF\0" + b"\xff" * 50),
    "Photoshop's": segment(0xED, b"Photoshop 3.0\0008BIM"),
    "a short JFIF": segment(0xE0, b"JFIF"),
    "a short Adobe": segment(0xEE, b"Adobe"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff" * 100),
    "comments": segment(0xFE, b"") + segment(0xFE, bytes(65000)) * 50,
    "a temporary marker": b"\xff\x01",
}
FRAMES = {
    "a colour profile": (extended(0x20), (b"ICCP", b"\xff" * 9), WEBP[12:]),
    "EXIF": (extended(8), WEBP[12:], (b"EXIF", b"\xff" * 99)),
    "EXIF cut": (extended(8), WEBP[12:], b"EXIF\xff\xff\0\0cut"),
    "flags of missing chunks": (extended(0x2C), WEBP[12:]),
    "an unknown chunk that is cut": (extended(0), WEBP[12:], b"ABCD\xff\xff\xff\x7fxx"),
}
EXTENSIONS = {
    "a comment of 1 MB": b"!\xfe" + (b"\xff" + b"c" * 255) * 4000 + b"\0",
    "a short control": b"!\xf9\1\1\0",
    "a control of 3 bytes": b"!\xf9\3\1\0\0\0",
    "an empty application": b"!\xff\0",
}
TAGS = {
    "a colour profile beyond the end": {"t34675": [9, 9, 9]},
    "a resolution of text": {"t282": [1, 2], "t283": [3], "t296": [3]},
    "Windows Media Photo": {"t48129": [1]},
    "EXIF beyond the end": {"t34665": [10**8]},
    "pages beyond the end": {"t330": [10**8]},
}
palette_end = 13 + (3 << (GIF[10] & 7) + 1)
CASES = {f"PNG: {name}": (PNG[:33] + data + PNG[33:], PNG) for name, data in TEXTS.items()}
CASES |= {f"PNG, behind: {name}": (PNG[:-12] + data + PNG[-12:], PNG) for name, data in TEXTS.items()}
CASES |= {f"JPEG: {name}": (JPEG[:20] + data + JPEG[20:], JPEG) for name, data in SEGMENTS.items()}
CASES |= {f"WebP: {name}": (riff(*parts), WEBP) for name, parts in FRAMES.items()}
CASES |= {f"GIF: {name}": (GIF[:palette_end] + data + GIF[palette_end:], GIF) for name, data in EXTENSIONS.items()}
CASES |= {
    f"TIFF {packing}: {name}": (tiff(PHOTO, 2, kind="u1", compression=packing, **tags), TIFF[packing])
    for packing in TIFF
    for name, tags in TAGS.items()
}
ALL = {"PNG": PNG, "JPEG": JPEG, "WebP": WEBP, "GIF": GIF, "BMP": saved("BMP"), "TIFF 1": TIFF[1], "TIFF 8": TIFF[8]}
CASES |= {f"{kind} and garbage": (content + b"garbage" * 50, content) for kind, content in ALL.items()}
CASES |= {f"{kind} behind a byte order mark": (b"\xef\xbb\xbf" + content, content) for kind, content in ALL.items()}
CASES |= {f"{kind} behind empty lines": (b"\r\n\n" + content, content) for kind, content in ALL.items()}


def pixels(content, tmp_path, **options):
    (tmp_path / "image").write_bytes(content)
    return decode(str(tmp_path / "image"), **options)


@pytest.mark.parametrize("case", CASES)
def test_damaged_metadata_leave_the_pixels_as_they_are(case, tmp_path, capfd):
    damaged, plain = CASES[case]
    assert torch.equal(pixels(damaged, tmp_path), pixels(plain, tmp_path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_a_wrong_checksum_of_a_critical_chunk_is_damage(kind, tmp_path):
    content = io.BytesIO()
    Image.fromarray(PHOTO).convert("P").save(content, "PNG")
    damaged = bytearray(content.getvalue())
    start = damaged.index(kind) - 4
    damaged[start + 8 + int.from_bytes(damaged[start : start + 4], "big")] ^= 1
    with helpers.refused(ImageError, kind="undecodable_image", path=tmp_path / "image"):
        pixels(bytes(damaged), tmp_path)


@pytest.mark.parametrize("place", range(100, len(PNG) - 100, 97))
def test_a_flipped_bit_in_the_pixels_of_a_png_is_damage(place, tmp_path):
    """Leaving its metadata out does not let it pass."""
    damaged = bytearray(PNG)
    damaged[place] ^= 4
    with pytest.raises(ImageError):
        pixels(bytes(damaged), tmp_path)


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WebP"])
def test_orientation_stays_when_other_metadata_are_damaged(suffix, upright, tmp_path):
    turned = {
        "PNG": PNG[:33] + chunk(b"eXIf", UPSIDE_DOWN) + chunk(b"tEXt", b"k\0v", damage=1) + PNG[33:],
        "JPEG": JPEG[:20] + segment(0xE1, b"Exif\0\0" + UPSIDE_DOWN) + segment(0xE2, b"ICC_PROFILE\0") + JPEG[20:],
        "WebP": riff(extended(8), WEBP[12:], (b"EXIF", UPSIDE_DOWN), b"ABCD\xff\xff\xff\x7fxx"),
    }
    plain = pixels(ALL[suffix], tmp_path)
    found = pixels(turned[suffix], tmp_path, exif_orientation=upright)
    assert torch.equal(found, plain.flip(1, 2) if upright else plain)


# ---- files that would take memory or hours ----

ROOT = Path(__file__).resolve().parents[3]
PEAK = """
import sys
import torchvision.io
from datasets.decoding.decode import ImageError, decode
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
for path in sys.argv[1:]:
    try:
        print(tuple(decode(path).shape), peak() - before, sep="|")
    except ImageError as error:
        print(error.kind, peak() - before, sep="|")
"""
SIZE = 2**28
BOMBS = {  # beginning, size of the file (zeros between), end -> the outcome
    "PNG: a text of 256 MB": (PNG[:33] + struct.pack(">I4s", SIZE, b"tEXt"), SIZE + 45, PNG[33:], "(3, 43, 61)"),
    "PNG: pixels of 256 MB": (PNG[:33] + struct.pack(">I4s", SIZE, b"IDAT"), SIZE + 99, b"", "undecodable_image"),
    "PNG: a palette of 256 MB": (PNG[:33] + struct.pack(">I4s", SIZE, b"PLTE"), SIZE, b"", "undecodable_image"),
    "PNG and 256 MB": (PNG, SIZE, b"", "(3, 43, 61)"),
    "JPEG and 256 MB": (JPEG, SIZE, b"", "(3, 43, 61)"),
    "JPEG: 256 MB between its segments": (JPEG[:20], SIZE, JPEG[20:], "undecodable_image"),
    "WebP and 256 MB": (WEBP, SIZE, b"", "(3, 43, 61)"),
    "GIF and 256 MB": (GIF, SIZE, b"", "(3, 43, 61)"),
    "TIFF and 256 MB": (TIFF[1], SIZE, b"", "(3, 43, 61)"),
    "256 MB of zeros": (b"", SIZE, b"", "undecodable_image"),
    "256 MB behind a text": (b"hello" * 200, SIZE, b"", "undecodable_image"),
}


@pytest.mark.slow
def test_huge_files_take_little_memory(tmp_path):
    """In a separate process, one after the other."""
    for number, (beginning, size, end, _) in enumerate(BOMBS.values()):
        with open(tmp_path / str(number), "wb") as file:
            file.write(beginning)
            file.truncate(size)
            file.seek(0, os.SEEK_END)
            file.write(end)
    paths = [str(tmp_path / str(number)) for number in range(len(BOMBS))]
    result = fork_server.run(["-c", PEAK, *paths], cwd=ROOT, check=True)
    assert result.stderr == ""
    for (bomb, row), line in zip(BOMBS.items(), result.stdout.splitlines(), strict=True):
        found, megabytes = line.split("|")
        assert found == row[3], bomb
        assert int(megabytes) < 150, bomb


def claims(**tags):
    """A TIFF whose tags claim more than it has."""
    return tiff(PHOTO, 2, kind="u1", strips=1, **tags)


CLAIMS = {
    "tiles of 3.6 gigapixels": (
        claims(t322=[60000], t323=[60000], t324=[8], t325=[99]),
        "too_many_pixels",
    ),
    "100,000 strips": (claims(t65000=[8] * 100_000), None),
    "4 billion bands": (claims(t277=[2**32 - 1]), "unsupported_pixels"),
    "WebP of 268 megapixels": (
        riff((b"VP8X", bytes([2, 0, 0, 0]) + b"\xff\x3f\0" * 2), WEBP[12:]),
        "too_many_pixels",
    ),
    "GIF whose frame is larger than its screen": (
        GIF[:palette_end] + b",\0\0\0\0\xff\xff\xff\xff" + GIF[palette_end + 9 :],
        "too_many_pixels",
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_are_refused_before_anything_is_allocated(claim, tmp_path):
    content, kind = CLAIMS[claim]
    if kind is None:
        assert torch.equal(pixels(content, tmp_path), pixels(claims(), tmp_path))
        return
    with helpers.refused(ImageError, kind=kind, path=tmp_path / "image"):
        pixels(content, tmp_path)


def test_strips_that_are_listed_again_and_again_are_refused(tmp_path):
    """Each would be decoded."""
    content = claims()
    (start,) = struct.unpack("<I", content[4:8])
    entry = content.index(struct.pack("<HH", 273, 4), start)
    listed = struct.pack("<HHII", 273, 4, 100_000, len(content))
    damaged = content[:entry] + listed + content[entry + 12 :] + struct.pack("<I", 400) * 100_000
    with helpers.refused(ImageError, kind="undecodable_image", path=tmp_path / "image"):
        pixels(damaged, tmp_path)


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    """Each is a pass over all pixels; a usual progressive one is read."""
    content = saved("JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    many = content[:scan] + content[scan:-2] * 200 + content[-2:]
    assert pixels(content, tmp_path).shape == (3, 43, 61)
    with helpers.refused(ImageError, kind="unsupported_pixels", path=tmp_path / "image"):
        pixels(many, tmp_path)


# ---- silence ----

NOISY = {
    "bytes before the end": JPEG[:-2] + b"abcdefgh" + JPEG[-2:],
    "an unknown JFIF": JPEG.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "a zero in the scan": JPEG[:-400] + bytes(40) + JPEG[-360:],
    "a cut scan": JPEG[:-300],
    "an unknown kind of tag": TIFF[8].replace(struct.pack("<HH", 284, 4), struct.pack("<HH", 284, 99)),
    "many bands": tiff(np.zeros((8, 8, 9)), 1, kind="u1"),
    "damaged pixels of a TIFF": TIFF[8][:400] + bytes(50) + TIFF[8][450:],
}


@pytest.mark.parametrize("case", NOISY)
def test_decoding_prints_nothing(case, tmp_path, capfd):
    """Neither Python nor the C libraries print anything, whatever the outcome."""
    with contextlib.suppress(ImageError):
        pixels(NOISY[case], tmp_path)
    assert capfd.readouterr() == ("", "")


def test_other_output_to_stderr_is_untouched(capfd):
    with quiet_c():
        print("Python's", file=sys.stderr)
        os.write(2, b"the descriptor's\n")
    import ctypes

    library = ctypes.CDLL(None)
    library.perror(b"C's, afterwards")
    assert capfd.readouterr().err.split("\n")[:2] == ["Python's", "the descriptor's"]
