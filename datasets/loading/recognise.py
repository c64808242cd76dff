"""Files that are not decoded: what each of them is, and what to do."""

import zlib
from typing import BinaryIO

from datasets.loading.metadata import GIF, JPEG, PNG, jpeg_segments, png_chunks
from datasets.loading.pieces import read_at, size_of
from datasets.loading.problems import Problem, undecodable, unsupported
from datasets.loading.tiff import BEGINNINGS as TIFF
from datasets.loading.tiff import RAW_ADVICE, Tiff

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # no other reader of Pillow's is used: some start programs
CONVERT = "convert it to JPEG or PNG"
REMOVE = "remove it from the folder or the list"
BEGINNING = 512  # bytes that are looked at

# ---- by their first bytes: other pictures, raw files, other things ----

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
    b"\0\0\1\0": "a Windows icon",
    b"\0\0\2\0": "a Windows cursor",
    b"icns": "an icon of macOS",
    b"\x8aMNG": "an MNG animation",
    b"\x8bJNG": "a JNG picture",
    b"gimp xcf": "a GIMP file",
    b"qoif": "a QOI picture",
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
    b"IIRO": "Olympus, ORF",
    b"IIRS": "Olympus, ORF",
    b"MMOR": "Olympus, ORF",
    b"IIU\0": "Panasonic, RW2",
    b"II\x1a\0\0\0HEAP": "Canon, CRW",
    b"FOVb": "Sigma, X3F",
    b"\0MRM": "Minolta, MRW",
}
OTHERS = {
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
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
    b"ID3": "a sound",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "a database",
}
BRANDS = {  # of the ISO base media format
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx", b"mif1", b"msf1"), "a HEIC picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
}
LOST = "copy it again"


def explain(file: BinaryIO) -> Problem | None:
    """The problem of an open file that was not decoded; None if nothing is known but the decoder's error."""
    beginning = read_at(file, 0, BEGINNING)
    if problem := _not_a_picture(beginning, file) or _other_format(beginning):
        return problem
    size = size_of(file)
    if beginning.startswith(PNG):
        return _png(file, size)
    if beginning.startswith(JPEG):
        return _jpeg(file, size)
    if beginning.startswith(TIFF):
        try:
            return Tiff(file).explain()
        except Problem as problem:
            return problem
    if beginning.startswith(GIF) and size < 14:
        return undecodable("it is truncated: it ends in its header")
    if beginning.startswith(b"RIFF") and beginning[8:12] == b"WEBP":
        claimed = 8 + int.from_bytes(beginning[4:8], "little")
        return undecodable(f"it is truncated: {size:,} bytes of {claimed:,}") if size < claimed else None
    if beginning.startswith(b"BM") and size < 54:
        return undecodable("it is truncated: it ends in its header")
    if not beginning.startswith((*GIF, b"BM")):
        return undecodable(f"it is none of {', '.join(FORMATS)}")
    return None


def _not_a_picture(beginning: bytes, file: BinaryIO) -> Problem | None:
    """The problem of a file of text, of zeros or of nothing."""
    if not beginning:
        return undecodable("the file is empty")
    if not beginning.strip(b"\0"):
        zeros = next((n for n in range(0, size_of(file), 2**16) if read_at(file, n, 2**16).strip(b"\0")), None)
        part = "has zeros only" if zeros is None else "begins with zeros"
        return undecodable(f"it {part}, as after a crash or an interrupted copy", LOST)
    if beginning.startswith(b"version https://git-lfs"):
        return undecodable("it is a pointer of Git LFS, in place of the picture", "fetch the picture: git lfs pull")
    if beginning.startswith((b"\0\5\x16\7", b"\0\5\x16\0")):
        return undecodable("it is a file of attributes that macOS writes beside a picture (AppleDouble)", REMOVE)
    return _text(beginning)


def _text(beginning: bytes) -> Problem | None:
    try:
        text = beginning[: BEGINNING - 4].decode("utf-16" if beginning[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        return None
    text = text.lstrip("\ufeff\0 \r\n\t").lower()
    if not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable() or text.startswith(
        ("%pdf", "%!ps")
    ):
        return None
    if "<svg" in text:
        return undecodable("it is an SVG drawing, which is not read", CONVERT)
    if text.startswith(("<!doctype", "<html", "<head", "<?xml")):
        return undecodable("it is a web page, as servers send instead of a picture", "download the picture again")
    if any(text.encode().startswith(magic.lower()) for magic in (*PICTURES, *OTHERS)):
        return None
    return undecodable("it is text", REMOVE)


def _other_format(beginning: bytes) -> Problem | None:
    """The problem of another format, by the first bytes; names of cameras and brands where there are some."""

    def named(table: dict[bytes, str]) -> str:
        return next((name for magic, name in table.items() if beginning.startswith(magic)), "")

    if name := named(CAMERAS):
        return undecodable(f"it is a camera's raw file ({name}), which is not read", RAW_ADVICE)
    if name := named(PICTURES):
        return undecodable(f"it is {name}, which is not read", CONVERT)
    if beginning[4:8] == b"ftyp":
        brands = [beginning[8:12], *(beginning[at : at + 4] for at in range(16, 64, 4))]
        if brands[0] == b"crx ":
            return undecodable("it is a camera's raw file (Canon, CR3), which is not read", RAW_ADVICE)
        if name := next((BRANDS[brand] for brand in brands if brand in BRANDS), ""):
            return undecodable(f"it is {name}, which is not read", CONVERT)
        return undecodable("it is a video, not a picture", REMOVE)
    if beginning[128:132] == b"DICM":
        return undecodable("it is a DICOM picture, which is not read", CONVERT)
    if beginning.startswith(b"RIFF") and beginning[8:12] in (b"AVI ", b"WAVE"):
        return undecodable("it is a video or a sound, not a picture", REMOVE)
    if beginning[257:262] == b"ustar":
        return undecodable("it is a tar archive, not a picture", REMOVE)
    if name := named(OTHERS):
        return undecodable(f"it is {name}, not a picture", REMOVE)
    if beginning.startswith((b"\x89PNG\n\x1a\n", b"\x89PNG\r\r\n\x1a", b"\x89PNG\r\x1a")):
        return undecodable("its line ends were changed, as by a transfer in text mode", "transfer it again, as binary")
    return None


# ---- the formats that are read ----


def _png(file: BinaryIO, size: int) -> Problem | None:
    kinds = []
    for kind, position, count in png_chunks(file, 0, size):
        kinds.append(kind)
        if position + count > size:
            return undecodable(f"it is truncated: {size:,} bytes of at least {position + count:,}")
        if kind == b"CgBI":
            return undecodable("it is a PNG in the form of Apple's devices, which is not read", CONVERT)
        if kind in (b"IHDR", b"PLTE"):
            chunk = read_at(file, position, count)
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                return undecodable(f"it is damaged: the checksum of its {kind.decode()} is wrong")
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
