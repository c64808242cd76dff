"""The kind of a file that is not decoded: each error names the true reason and the remedy."""

import io
import struct
import zipfile

import helpers
import numpy as np
import pytest
from pictures import chunk, png, tiff
from PIL import Image

from datasets.decoding.decode import ImageError, decode

PHOTO = helpers.photograph()[100:143, 300:361].copy()


def saved(suffix, **options):
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, suffix, **options)
    return content.getvalue()


JPEG, PNG = saved("JPEG"), saved("PNG")
FRAME = JPEG.index(b"\xff\xc0")  # of the header with bits, size and bands


def media(brand, *others):
    return struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + brand + bytes(4) + b"".join(others) + b"\xfe" * 99


def samples(bands, kind="u2", photometric=1, **options):
    return tiff(np.arange(300 * bands).reshape(15, 20, bands), photometric, kind=kind, **options)


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("picture.jpg", JPEG)
    return content.getvalue()


FILES = {  # -> words of the message
    # pixels of a TIFF
    "TIFF of 6 bands": (samples(6), "has 6 bands"),
    "TIFF of 200 bands": (samples(200, "u1"), "has 200 bands"),
    "TIFF of 2 bands": (samples(2, "u1"), "has 2 bands"),
    "TIFF of floating point": (samples(1, "f4"), "floating-point numbers of 32 bits"),
    "TIFF of floating point, RGB": (samples(3, "f4", 2), "floating-point numbers, 32 bits"),
    "TIFF of half floating point": (samples(1, "f2"), "floating-point numbers, 16 bits"),
    "TIFF of double precision": (samples(1, "f8"), "floating-point numbers, 64 bits"),
    "TIFF of signed RGB": (samples(3, "i2", 2), "signed integers, 16 bits"),
    "TIFF of 32 bits": (samples(1, "u4"), "integers of 32 bits"),
    "TIFF of 32 bits, signed": (samples(1, "i4"), "integers of 32 bits"),
    "TIFF of 32 bits, RGB": (samples(3, "u4", 2), "32 bits in each of its 3 bands"),
    "TIFF of 14 bits": (samples(1, t258=[14]), "has 14 bits"),
    "TIFF of 16 bits of LAB": (samples(3, photometric=8), "CIELAB of 16 bits"),
    "TIFF of JPEG 2000": (samples(1, "u1", t259=[34712]), "compressed with JPEG 2000"),
    "TIFF of an unknown compression": (samples(1, "u1", t259=[12345]), "unknown method (12345)"),
    "TIFF without its pixels": (samples(1, "u1")[:-100], "truncated: its pixels end at byte"),
    "TIFF without its tags": (b"II*\0\xff\xff\xff\0" + bytes(99), "truncated: its list of tags would begin"),
    "TIFF without a size": (samples(1, "u1", t256=[0]), "no width and height"),
    "TIFF of damaged pixels": (samples(1, "u1", t259=[8]), "compressed with Deflate, cannot be decoded"),
    # cameras' raw files
    "CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "camera's raw file (CR2)"),
    "DNG": (samples(3, "u1", 2, t254=[1], t50706=[1]), "camera's raw file (DNG)"),
    "NEF": (samples(3, "u1", 2, t254=[1], t271=[0x4E494B4F], t330=[8]), "camera's raw file"),
    "a sensor's mosaic": (samples(1, photometric=32803), "camera's raw file"),
    "CR3": (media(b"crx "), "Canon, CR3"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "Fujifilm, RAF"),
    "ORF": (b"IIRO\x08\0\0\0", "Olympus, ORF"),
    "RW2": (b"IIU\0\x18\0\0\0", "Panasonic, RW2"),
    # JPEGs
    "JPEG of 12 bits": (JPEG[: FRAME + 4] + b"\x0c" + JPEG[FRAME + 5 :], "JPEG of 12 bits"),
    "JPEG of 2 bands": (JPEG[: FRAME + 9] + b"\2" + JPEG[FRAME + 10 :], "JPEG of 2 bands"),
    "lossless JPEG": (JPEG[: FRAME + 1] + b"\xc3" + JPEG[FRAME + 2 :], "lossless JPEG"),
    "hierarchical JPEG": (JPEG[: FRAME + 1] + b"\xc5" + JPEG[FRAME + 2 :], "hierarchical JPEG"),
    "JPEG cut in its header": (JPEG[:100], "truncated: it ends before its pixels"),
    # PNGs
    "PNG cut in its header": (PNG[:33], "truncated: it has no end"),
    "PNG cut in its pixels": (PNG[:2000], "truncated: 2,000 bytes"),
    "PNG without pixels": (PNG[:33] + PNG[-12:], "no pixels"),
    "PNG of a text transfer": (PNG.replace(b"\r\n", b"\n"), "line ends were changed"),
    "PNG of Apple": (png(np.ones((4, 4, 3)), 2, chunks=chunk(b"CgBI", b"abcd")).replace(b"\x78\x9c", b""), "Apple"),
    # the others that are read
    "WebP cut": (saved("WEBP")[:-50], "truncated"),
    "GIF cut in its header": (saved("GIF")[:10], "truncated"),
    # other pictures
    "HEIC": (media(b"heic", b"mif1"), "a HEIC picture, which is not read"),
    "HEIF": (media(b"mif1", b"heic"), "a HEIC picture, which is not read"),
    "AVIF": (media(b"avif", b"mif1"), "an AVIF picture, which is not read"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xfe" * 99, "a JPEG 2000 picture"),
    "JPEG XL": (b"\xff\x0a" + b"\xfe" * 99, "a JPEG XL picture"),
    "icon": (b"\0\0\1\0\1\0" + bytes(99), "a Windows icon"),
    "Photoshop": (b"8BPS\0\1" + bytes(99), "a Photoshop file"),
    "PDF": (b"%PDF-1.7\nplain", "a PDF document"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "DICOM": (bytes(128) + b"DICM" + bytes(99), "a DICOM picture"),
    "PNM": (b"P6\n2 2\n255\n" + bytes(12), "a PNM picture"),
    # files that are not pictures
    "video": (media(b"isom"), "a video"),
    "ZIP": (archive(), "a ZIP archive"),
    "web page": (b"\xff\xfe" + "<html><p>404".encode("utf-16-le"), "a web page"),
    "JSON": (b'{"error": "not found"}', "it is text"),
    "text that begins as a BMP": (b"BMW is not a bitmap", "it is text"),
    "text that begins as a TIFF": (b"II. Methods\n", "it is text"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "a pointer of Git LFS"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(99), "AppleDouble"),
    "nothing": (b"", "the file is empty"),
    "zeros": (bytes(5000), "has zeros only"),
    "a lost block": (bytes(4096) + JPEG, "begins with zeros"),
    "noise": (np.random.default_rng(5).bytes(500), "none of JPEG, PNG"),
    "noise that begins as a BMP": (b"BM" + np.random.default_rng(5).bytes(500), "none of JPEG, PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_reason_is_the_true_one(name, tmp_path):
    content, words = FILES[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        decode(str(path))
    message = str(caught.value)
    assert words in message and words in caught.value.reason and "header is damaged" not in message
    assert message.startswith(f"the image {path} ") and "\n" not in message


SUFFIXES = {"JPEG": JPEG, "PNG": PNG, "GIF": saved("GIF"), "WEBP": saved("WEBP"), "BMP": saved("BMP")}
SUFFIXES |= {"TIFF": saved("TIFF"), "LZW": saved("TIFF", compression="tiff_lzw")}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_cut_file_is_never_called_another_thing(suffix, share, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(SUFFIXES[suffix][: max(4, int(share * len(SUFFIXES[suffix])))])
    with pytest.raises(ImageError) as caught:
        decode(str(path))
    for words in ("header is damaged", "not read", "not a picture", "text", "none of"):
        assert words not in caught.value.reason
