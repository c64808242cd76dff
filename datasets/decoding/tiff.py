"""The tags of a TIFF's first page: their content, the reason why it is not read, and the file with other tags.

Also BigTIFF, in both byte orders (TIFF 6.0, Adobe 1992; BigTIFF, 2007).
"""

import struct
from typing import BinaryIO, NamedTuple

from datasets.decoding.pieces import Piece, join, read_at, size_of
from datasets.decoding.problems import Problem, undecodable, unsupported

BEGINNINGS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")  # the third and fourth: Pillow reads them
MAX_TAG_BYTES = 2**26  # of one tag: 64 MB
MAX_VIEW_BYTES = 2**30  # a larger compressed file is not read with other tags, as it would be read as a whole

# ---- tags ----

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, MAKE = 254, 256, 257, 258, 259, 262, 271
STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, SUB_PAGES, EXTRA, FORMAT = 284, 322, 323, 324, 325, 330, 338, 339
DNG_VERSION = 50706
# tags that affect the pixels, with those of fax, predictor, palette, JPEG and YCbCr
PIXEL_TAGS = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, 266, STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES}
PIXEL_TAGS |= {PLANAR, 292, 293, 317, 320, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, 332, EXTRA, FORMAT, 347}
PIXEL_TAGS |= {*range(512, 522), 529, 530, 531, 532}
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
SHORT, LONG8 = 3, 16

SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}
COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "ICCLAB"}
COLOURS |= {10: "ITULAB", 32844: "LogL", 32845: "LogLuv"}
SENSOR = (32803, 34892)  # photometric interpretations: a sensor's mosaic, and its linear values
COMPRESSIONS = {
    **{1: "", 2: "CCITT", 3: "fax", 4: "fax", 5: "LZW", 6: "JPEG", 7: "JPEG", 8: "Deflate", 9: "JBIG", 10: "JBIG"},
    **{32773: "PackBits", 32946: "Deflate", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000"},
    **{34661: "JBIG", 34676: "SGI Log", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA"},
    **{50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"},
}
UNREAD = {9, 10, 33003, 33004, 33005, 34661, 34676, 34677, 34712, 34887, 34892, 50001, 50002, 52546}
RAW_ADVICE = "develop it to a JPEG or PNG with a raw converter"


class _Entry(NamedTuple):
    kind: int
    number: int  # of values
    start: int  # of the values in the file, bytes
    size: int  # bytes


class Tiff:
    """The tags of the first page of an open file. Raises a Problem if there are none."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, size_of(file)
        head = read_at(file, 0, 16)
        self.order = "<" if head[:2] == b"II" else ">"
        self.is_big = 43 in head[2:4]
        form, entry = ("Q", "HHQ8s") if self.is_big else ("H", "HHI4s")
        if len(head) < (16 if self.is_big else 8):
            raise undecodable("it is truncated: it ends in its header")
        (start,) = self._unpack("Q", head[8:16]) if self.is_big else self._unpack("I", head[4:8])
        count = self._read(form, start)
        self.entries: dict[int, _Entry] = {}
        step, inline = struct.calcsize(f"<{entry}"), 8 if self.is_big else 4
        position = start + struct.calcsize(f"<{form}")
        directory = read_at(file, position, min(count, 65535) * step)
        for offset in range(0, len(directory) - step + 1, step):
            tag, kind, number, data = self._unpack(entry, directory[offset : offset + step])
            size = number * BYTES.get(kind, 0)
            at = position + offset + step - inline
            if size > inline:
                (at,) = self._unpack("Q" if self.is_big else "I", data)
            if size and tag not in self.entries:
                self.entries[tag] = _Entry(kind, number, at, size)
        if len(directory) < count * step:
            raise undecodable("it is truncated: it ends within its list of tags")

    def _unpack(self, form: str, data: bytes) -> tuple:
        return struct.unpack(self.order + form, data)

    def _read(self, form: str, start: int) -> int:
        size = struct.calcsize(f"<{form}")
        if start + size > self.size:
            raise undecodable(f"it is truncated: its list of tags would begin at byte {start:,} of {self.size:,}")
        return self._unpack(form, read_at(self.file, start, size))[0]

    def data(self, tag: int) -> bytes | None:
        """The bytes of a tag's values; None if it is absent, beyond the end of the file, or absurdly long."""
        entry = self.entries.get(tag)
        if entry is None or entry.size > MAX_TAG_BYTES or entry.start + entry.size > self.size:
            return None
        return read_at(self.file, entry.start, entry.size)

    def values(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A tag's integers; `default` if it has none."""
        data = self.data(tag)
        form = INTEGERS.get(self.entries[tag].kind) if data else None
        return self._unpack(f"{self.entries[tag].number}{form}", data) if data and form else default

    def value(self, tag: int, default: int = 0) -> int:
        """A tag's first integer."""
        return self.values(tag, (default,))[0]

    @property
    def has_large_metadata(self) -> bool:
        """Whether a tag other than the pixels' is longer than MAX_TAG_BYTES."""
        return any(entry.size > MAX_TAG_BYTES for tag, entry in self.entries.items() if tag not in PIXEL_TAGS)

    @property
    def bands(self) -> int:
        """Numbers in a pixel."""
        return self.value(SAMPLES, len(self.values(BITS, (1,))))

    @property
    def bits(self) -> int:
        """Bits of such a number."""
        return max(self.values(BITS, (1,)))

    @property
    def colour(self) -> str:
        """grey, RGB, CMYK, ...; "" if it is not a known one."""
        return COLOURS.get(self.value(PHOTOMETRIC), "")

    def has_separate_planes(self, bits: int) -> bool:
        """Whether it has several bands of `bits` bits, unsigned, each stored separately."""
        return self.value(PLANAR) == 2 and self.bands > 1 and self.bits == bits and self.value(FORMAT, 1) == 1

    def end_of_pixels(self) -> int | None:
        """The position behind the last byte of the pixels; None if the tags do not have all sizes."""
        starts, sizes = self.values(STRIPS) or self.values(TILES), self.values(STRIP_BYTES) or self.values(TILE_BYTES)
        if not starts or len(starts) != len(sizes):
            return None
        if self.value(COMPRESSION, 1) == 1:  # then decoders compute the sizes
            width, height = self.value(WIDTH), self.value(HEIGHT)
            rows = min(self.value(ROWS, height) or height, height)
            if TILES in self.entries:
                width, height, rows = self.value(TILE_WIDTH), 0, self.value(TILE_HEIGHT)
            line = -(-width * self.bits * (self.bands if self.value(PLANAR, 1) == 1 else 1) // 8)
            strips = max(1, -(-height // max(1, rows)))  # of one plane
            tops = (rows * (number % strips) for number in range(len(starts)))
            full = (line * (min(rows, height - top) if height else rows) for top in tops)
            sizes = tuple(map(max, sizes, full))
        return max(map(sum, zip(starts, sizes, strict=True)))

    # ---- the file with other tags ----

    def view(self, changes: dict[int, tuple[int, ...] | None] | None = None) -> BinaryIO | None:
        """The file with the tags of its pixels only, some of them changed (None: left out).

        None if it is too large, if its pixels have a tag that cannot be read, or if it ends before they do: the new
        tags, which come after it, would be read as pixels.
        """
        if (end := self.end_of_pixels()) is None or end > self.size:
            return None
        tags: dict[int, tuple[int, int, bytes]] = {}  # kind, count, values
        for tag in sorted(PIXEL_TAGS & self.entries.keys()):
            data = self.data(tag)
            if data is None:
                return None
            tags[tag] = (*self.entries[tag][:2], data)
        for tag, values in (changes or {}).items():
            tags.pop(tag, None)
            if values is not None:
                kind = LONG8 if self.is_big else 4 if tag in (STRIPS, TILES, STRIP_BYTES, TILE_BYTES) else SHORT
                tags[tag] = kind, len(values), struct.pack(f"{self.order}{len(values)}{INTEGERS[kind]}", *values)
        is_read_whole = self.value(COMPRESSION, 1) != 1
        return None if is_read_whole and self.size > MAX_VIEW_BYTES else join(self.file, self._with_directory(tags))

    def _with_directory(self, tags: dict[int, tuple[int, int, bytes]]) -> list[Piece]:
        """The file with a new header before it and a new list of tags after it."""
        number, inline, head = ("Q", 8, 16) if self.is_big else ("I", 4, 8)
        start = self.size + self.size % 2
        count = struct.pack(self.order + ("Q" if self.is_big else "H"), len(tags))
        behind = start + len(count) + len(tags) * (4 + 2 * inline) + inline
        directory, values = count, b""
        for tag, (kind, amount, data) in sorted(tags.items()):
            directory += struct.pack(f"{self.order}HH{number}", tag, kind, amount)
            if len(data) <= inline:
                directory += data.ljust(inline, b"\0")
            else:
                directory += struct.pack(self.order + number, behind + len(values))
                values += data + bytes(len(data) % 2)
        directory += bytes(inline) + values
        mark = b"II" if self.order == "<" else b"MM"
        version = struct.pack(f"{self.order}HHH", 43, 8, 0) if self.is_big else struct.pack(f"{self.order}H", 42)
        header = mark + version + struct.pack(self.order + number, start)
        return [header, (head, self.size - head), bytes(self.size % 2), directory]

    def planes(self, count: int) -> list[BinaryIO | None]:
        """The first `count` bands of a file with separate planes, each as a grey picture, as stored."""
        changes: dict[int, tuple[int, ...] | None] = {BITS: (self.bits,), SAMPLES: (1,), PHOTOMETRIC: (1,)}
        changes |= {PLANAR: None, EXTRA: None, FORMAT: None, ORIENTATION: None}
        views = []
        for band in range(count):
            for tag in {STRIPS, STRIP_BYTES, TILES, TILE_BYTES} & self.entries.keys():
                values = self.values(tag)  # those of the first band, then those of the second, ...
                each = len(values) // self.bands
                changes[tag] = values[each * band : each * (band + 1)]
            views.append(self.view(changes))
        return views

    # ---- reasons why it is not read ----

    def refusal(self, max_pixels: int) -> Problem | None:
        """The problem of a file that must not be decoded: a camera's raw file, or one that would take memory or hours.

        A raw file's first page is a thumbnail, or the bare values of a sensor.
        """
        if camera := self._camera():
            return undecodable(f"it is {camera}, which is not read", RAW_ADVICE)
        width, height, rows = self.value(WIDTH), self.value(HEIGHT), self.value(ROWS)
        tile = (self.value(TILE_WIDTH), self.value(TILE_HEIGHT)) if TILES in self.entries else (width, rows or height)
        if TILES in self.entries and tile[0] * tile[1] > max_pixels:
            size = f"{tile[0]:,} x {tile[1]:,}"
            problem = f"claims tiles of {size} pixels, more than the {max_pixels:,} that are read"
            return Problem("too_many_pixels", problem, "make it smaller or remove it from the list")
        across, down = (-(-size // max(1, part)) for size, part in zip((width, height), tile, strict=True))
        needed = max(1, across * down * self.bands)
        count = max((self.entries[tag].number for tag in (STRIPS, TILES) if tag in self.entries), default=0)
        if count > 16 * needed + 1024:  # each would be decoded
            return undecodable(f"it lists {count:,} parts of a picture that has {needed:,}")
        return None

    def _camera(self) -> str:
        """The kind of a camera's raw file; "" if it is not one."""
        if read_at(self.file, 8, 2) == b"CR":
            return "a camera's raw file (CR2)"
        is_thumbnail = self.value(SUBFILE) & 1
        if self.value(PHOTOMETRIC) in SENSOR or (is_thumbnail and DNG_VERSION in self.entries):
            return f"a camera's raw file{' (DNG)' if DNG_VERSION in self.entries else ''}"
        if is_thumbnail and MAKE in self.entries and SUB_PAGES in self.entries:
            make = (self.data(MAKE) or b"").split(b"\0")[0].decode("latin-1").strip()
            return f"a camera's raw file ({make})" if make else "a camera's raw file"
        return ""

    def explain(self) -> Problem | None:
        """The problem of a file that is not decoded, from its tags; None if they have nothing unusual."""
        if problem := self._unusual_pixels() or self._unusual_storage():
            return problem
        method = COMPRESSIONS[self.value(COMPRESSION, 1)]
        return undecodable(f"its pixels, compressed with {method}, cannot be decoded") if method else None

    def _unusual_pixels(self) -> Problem | None:
        bands, bits, form = self.bands, self.bits, self.value(FORMAT, 1)
        colour = self.value(PHOTOMETRIC)
        if form in SAMPLE_FORMATS and (form != 2 or bits > 16 or bands > 1):
            return unsupported(f"has pixels of {SAMPLE_FORMATS[form]}, {bits} bits each, whose white is unknown")
        usual = {"RGB": 3, "YCbCr": 3, "CIELAB": 3, "CMYK": 4}.get(self.colour, 1)
        if bands > usual + (EXTRA in self.entries):
            return unsupported(f"has {bands} bands", "save the three that you want as RGB, or one as grey")
        if bits > 16:
            return unsupported(f"has {bits} bits in each of its {bands} bands, whose white is unknown")
        if bits not in (1, 2, 4, 8, 16) or len(set(self.values(BITS, (1,)))) > 1:
            return unsupported(f"has {' + '.join(map(str, self.values(BITS, (1,))))} bits in a pixel")
        if colour not in (0, 1, 2, 3, 5, 6, 8):
            return unsupported(f"has pixels of {COLOURS.get(colour, f'an unknown kind (photometric {colour})')}")
        if bits == 16 and (bands == 2 or colour in (3, 6, 8)):
            kind = f"{COLOURS[colour]}{' and alpha' if bands == 2 else ''}"
            return unsupported(f"has {kind} of 16 bits", "save it as RGB or grey, of 8 or 16 bits")
        return None

    def _unusual_storage(self) -> Problem | None:
        compression = self.value(COMPRESSION, 1)
        if compression in UNREAD or compression not in COMPRESSIONS:
            name = COMPRESSIONS.get(compression, f"an unknown method ({compression})")
            return unsupported(f"is compressed with {name}", "save it without compression, or with LZW or Deflate")
        if not (self.value(WIDTH) and self.value(HEIGHT)):
            return undecodable("its tags have no width and height")
        end = self.end_of_pixels()
        if end is None:
            return undecodable("its tags do not have the positions and sizes of its pixels")
        if end > self.size:
            return undecodable(f"it is truncated: its pixels end at byte {end:,}, the file at {self.size:,}")
        return None
