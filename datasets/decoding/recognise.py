"""Recognises the kinds of files that are not decoded, and suggests a remedy."""

import zlib
from typing import BinaryIO

from datasets.decoding.metadata import GIF, JPEG, PNG, jpeg_segments, png_chunks
from datasets.decoding.pieces import read_at, size_of
from datasets.decoding.problems import Problem, undecodable, unsupported
from datasets.decoding.tiff import BEGINNINGS as TIFF
from datasets.decoding.tiff import RAW_ADVICE, Tiff

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's other readers are not used: some start programs
CONVERT = "convert it to JPEG or PNG"
REMOVE = "remove it from the folder or the list"
BEGINNING = 512  # bytes that are inspected

# ---- by their first bytes: other pictures, raw files, other files ----

PICTURES = {
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"II\xbc": "a JPEG XR picture",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    **dict.fromkeys((b"\0\0\2\0\0\0", b"\0\0\3\0\0\0", b"\0\0\n\0\0\0", b"\0\0\v\0\0\0"), "a TGA picture"),
    b"\0\0\1\0": "a Windows icon",
    b"\0\0\2\0": "a Windows cursor",
    **{b"P%d%c" % (kind, space): "a PNM picture" for kind in range(1, 8) for space in b"\n\r\t "},
    b"\n\5\1\b": "a PCX picture",
    b"icns\0": "an icon of macOS",
    b"\x8aMNG": "an MNG animation",
    b"\x8bJNG": "a JNG picture",
    b"gimp xcf": "a GIMP file",
    b"qoif\0": "a QOI picture",
    b"DDS ": "a DirectDraw picture",
    b"v/1\1": "an OpenEXR picture",
    b"#?RADIANCE": "a Radiance picture",
    b"SIMPLE  =": "a FITS file",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"AT&TFORM": "a DjVu document",
    b"BPG\xfb": "a BPG picture",
}
CAMERAS = {
    b"FUJIFILMCCD-RAW": "Fujifilm, RAF",
    b"IIRO\b\0": "Olympus, ORF",
    b"IIRS\b\0": "Olympus, ORF",
    b"MMOR\0\0": "Olympus, ORF",
    b"IIU\0": "Panasonic, RW2",
    b"II\x1a\0\0\0HEAP": "Canon, CRW",
    b"FOVb\0": "Sigma, X3F",
    b"\0MRM": "Minolta, MRW",
}
OTHERS = {
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh91AY&SY": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\x1aE\xdf\xa3": "a video",
    b"\0\0\1\xba": "a video",
    b"\0\0\1\xb3": "a video",
    b"FLV\1": "a video",
    b"0&\xb2u\x8ef\xcf\x11": "a video",
    b"OggS": "a sound or a video",
    **dict.fromkeys((b"ID3\2", b"ID3\3", b"ID3\4"), "a sound"),
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "a database",
    b"\xd0\xcf\x11\xe0\xa1\xb1": "a file of Windows or Office",
    b"\0\0\0\1Bud1": "a file of macOS's folders",
}
BRANDS = {  # of the ISO base media format
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx", b"mif1", b"msf1"), "a HEIC picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
}


def explain(file: BinaryIO) -> Problem | None:
    """The problem of an open file that was not decoded; None if nothing is known but the decoder's error."""
    beginning = read_at(file, 0, BEGINNING)
    size = size_of(file)
    if _is_short(beginning):
        return _cut_in_header()
    if problem := _other_format(beginning) or _not_a_picture(beginning, file):
        return problem
    if beginning.startswith(PNG):
        return _png(file, size)
    if beginning.startswith(JPEG):
        return _jpeg(file, size)
    if beginning.startswith(TIFF):
        try:
            return Tiff(file).explain()
        except Problem as problem:
            return problem
    if beginning.startswith(GIF):
        return _gif(beginning, size)
    if beginning.startswith(b"RIFF"):
        claimed = 8 + int.from_bytes(beginning[4:8], "little")
        return undecodable(f"it is truncated: {size:,} bytes of {claimed:,}" if size < claimed else "it is damaged")
    if beginning.startswith(b"BM") and (size < 18 or beginning[15:18] == bytes(3)):
        return _cut_in_header() if size < 54 else None
    return undecodable(f"it is none of {', '.join(FORMATS)}")


def _is_short(beginning: bytes) -> bool:
    """Whether a file of a few bytes is the beginning of a picture."""
    return 4 <= len(beginning) < 12 and any(
        magic.startswith(beginning) or beginning.startswith(magic) for magic in (PNG, *GIF, b"RIFF")
    )


def _not_a_picture(beginning: bytes, file: BinaryIO) -> Problem | None:
    """The problem of a file of text, of zeros or of nothing."""
    if not beginning:
        return undecodable("the file is empty")
    if not beginning.strip(b"\0"):
        content = "begins with zeros" if read_at(file, 0, 2**20).strip(b"\0") else "has zeros only"
        return undecodable(f"it {content}, as after a crash or an interrupted copy", "copy it again")
    if beginning.startswith(b"version https://git-lfs"):
        return undecodable("it is a pointer of Git LFS instead of the picture", "fetch the picture: git lfs pull")
    if beginning.startswith((b"\0\5\x16\7", b"\0\5\x16\0")):
        return undecodable("it is a file of attributes that macOS writes beside a picture (AppleDouble)", REMOVE)
    return _text(beginning)


def _text(beginning: bytes) -> Problem | None:
    encoding = "utf-16" if beginning[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        text = beginning[: BEGINNING - 4].decode(encoding).lstrip("\ufeff\r\n\t ").lower()
    except UnicodeDecodeError:
        return None
    if not text.translate(dict.fromkeys(map(ord, "\r\n\t"))).isprintable():
        return None
    if "<svg" in text:
        return undecodable("it is an SVG drawing, which is not read", CONVERT)
    if text.startswith(("<!doctype", "<html", "<head", "<?xml")):
        return undecodable("it is a web page, as servers send instead of a picture", "download the picture again")
    return undecodable("it is text", REMOVE)


def _name(beginning: bytes, table: dict[bytes, str]) -> str:
    return next((name for magic, name in table.items() if beginning.startswith(magic)), "")


def _other_format(beginning: bytes) -> Problem | None:
    """The problem of another format, by the first bytes, with the camera or brand if known."""
    camera, picture, other = (_name(beginning, table) for table in (CAMERAS, PICTURES, OTHERS))
    if beginning[4:8] == b"ftyp":
        camera, picture, other = _media(beginning)
    elif beginning[128:132] == b"DICM":
        picture = "a DICOM picture"
    elif beginning.startswith(b"RIFF") and beginning[8:12] != b"WEBP":
        other = "a video or a sound"
    elif beginning[257:262] == b"ustar":
        other = "a tar archive"
    if camera:
        return undecodable(f"it is a camera's raw file ({camera}), which is not read", RAW_ADVICE)
    if picture:
        return undecodable(f"it is {picture}, which is not read", CONVERT)
    if other:
        return undecodable(f"it is {other}, not a picture", REMOVE)
    if beginning.startswith((b"\x89PNG\n\x1a\n", b"\x89PNG\r\r\n\x1a", b"\x89PNG\r\x1a")):
        return undecodable("its line ends were changed, as by a transfer in text mode", "transfer it again, as binary")
    return None


def _media(beginning: bytes) -> tuple[str, str, str]:
    """The names of a file of the ISO base media format: as a camera's raw file, a picture, another file; "" for two."""
    brands = [beginning[8:12], *(beginning[at : at + 4] for at in range(16, 64, 4))]
    if brands[0] == b"crx ":
        return "Canon, CR3", "", ""
    picture = next((BRANDS[brand] for brand in brands if brand in BRANDS), "")
    return "", picture, "" if picture else "a video"


# ---- the formats that are read ----


def _cut_in_header() -> Problem:
    return undecodable("it is truncated: it ends in its header")


def _gif(beginning: bytes, size: int) -> Problem | None:
    flags = beginning[10] if size > 10 else 0
    palette = 3 << (flags & 7) + 1 if flags & 128 else 0
    return _cut_in_header() if size < 13 + palette + 11 else None


def _png(file: BinaryIO, size: int) -> Problem | None:
    kinds = []
    for kind, position, count in png_chunks(file, 0, size):
        kinds.append(kind)
        if position + count > size:
            return undecodable(f"it is truncated: {size:,} bytes of at least {position + count:,}")
        if kind == b"PLTE" and count > 780:
            return undecodable("it is damaged: its palette is too large")
        if kind == b"CgBI":
            return undecodable("it is a PNG in the form of Apple's devices, which is not read", CONVERT)
        if kind in (b"IHDR", b"PLTE"):
            chunk = read_at(file, position, count)
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                return undecodable(f"it is damaged: the checksum of its {kind.decode()} is wrong")
    if kinds[-1:] == [b"IEND"] and b"IDAT" not in kinds:
        return undecodable("it has no pixels")
    if kinds[-1:] != [b"IEND"] and all(kind.isalpha() for kind in kinds):
        return undecodable("it is truncated: it has no end")
    return None


def _jpeg(file: BinaryIO, size: int) -> Problem | None:
    for marker, position, _ in jpeg_segments(file, 0, size):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, *_, bands = read_at(file, position + 4, 6) or b"\0\0"
            if bits != 8:
                return unsupported(f"is a JPEG of {bits} bits")
            if bands not in (1, 3, 4):
                return unsupported(f"is a JPEG of {bands} bands")
            if marker in (0xC3, 0xC7, 0xCB, 0xCF):
                return unsupported("is a lossless JPEG", "save it as PNG")
            if marker in (0xC5, 0xC6, 0xCD, 0xCE):
                return unsupported("is a hierarchical JPEG", "save it as a baseline JPEG")
            if marker > 0xC8:
                return unsupported("is an arithmetic-coded JPEG", "save it as a baseline JPEG")
        if marker == 0xDA:
            return None
    return undecodable("it is truncated: it ends before its pixels")
