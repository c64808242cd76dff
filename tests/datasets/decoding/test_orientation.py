"""The orientation in an image's metadata: applied alike by every decoder, and only where a data set asks for it."""

import io
import struct
import zlib

import helpers
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo

from datasets import DATASETS, build_data
from datasets.base import DataSet, ImageList
from datasets.check.check import check_images
from datasets.decoding.decode import decode
from datasets.loading.crops import TestCrops
from datasets.loading.loader import Loader
from datasets.loading.sampler import sequential_batches
from utils.config import load_config

HEIGHT, WIDTH = 43, 61
SUFFIXES = ("jpg", "png", "webp", "tif")
TURNS = {  # the orientation -> [H, W, 3] as stored to the shown image (EXIF 2.3, table 6)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.fixture(scope="module")
def photo():
    """A crop of a real photograph, uint8 [43, 61, 3]."""
    return helpers.photograph()[100 : 100 + HEIGHT, 300 : 300 + WIDTH].copy()


def exif(orientation):
    """EXIF with an orientation alone."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation, attribute=True):
    """XMP as cameras and editors write it, with the orientation as an attribute or as an element."""
    about = 'rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    about += f' tiff:Orientation="{orientation}"' if attribute else ""
    element = "" if attribute else f"<tiff:Orientation>{orientation}</tiff:Orientation>"
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description {about}>{element}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def save(path, pixels, in_exif=None, in_xmp=None, **options):
    """An image file with an orientation in its EXIF (an int, or the block's bytes) and in its XMP (an int, a text)."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    suffix = path.suffix[1:]
    if suffix == "webp":
        options = {"lossless": True, **options}
    if in_exif is not None:
        options["exif"] = in_exif if isinstance(in_exif, bytes) else exif(in_exif)
    if in_xmp is not None:
        text = in_xmp if isinstance(in_xmp, str) else xmp(in_xmp)
        if suffix == "png":
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", text)
            options["pnginfo"] = info
        elif suffix == "tif":
            options["tiffinfo"] = {700: text.encode()}
            if in_exif is not None:
                options["tiffinfo"][0x0112] = in_exif
                del options["exif"]
        else:
            options["xmp"] = text.encode()
    image.save(path, **options)


def pixels_of(path, **options):
    """uint8 [H, W, 3], as decode reads it."""
    found = decode(str(path), **options)
    assert found.dtype == torch.uint8
    return found.permute(1, 2, 0).numpy()


KINDS = {  # orientation -> its position
    "EXIF": lambda o: {"in_exif": o},
    "XMP's attribute": lambda o: {"in_xmp": o},
    "XMP's element": lambda o: {"in_xmp": xmp(o, attribute=False)},
    "both": lambda o: {"in_exif": o, "in_xmp": o},
    "both, and they contradict": lambda o: {"in_exif": o, "in_xmp": o % 8 + 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_orientation_is_applied_alike(suffix, kind, photo, tmp_path):
    """EXIF's if there is one, else XMP's; exactly the stored pixels, moved, as Pillow shows them."""
    save(tmp_path / f"plain.{suffix}", photo)
    plain = pixels_of(tmp_path / f"plain.{suffix}")
    path = tmp_path / f"turned.{suffix}"
    for orientation, turn in TURNS.items():
        save(path, photo, **KINDS[kind](orientation))
        assert np.array_equal(pixels_of(path), turn(plain)), orientation
        assert np.array_equal(pixels_of(path, exif_orientation=False), plain), orientation
        with Image.open(path) as image:
            shown = np.array(ImageOps.exif_transpose(image)).astype(int)
        assert shown.shape == turn(plain).shape and np.abs(shown - turn(plain)).max() <= 1  # two JPEG decoders


def test_both_decoders_of_a_jpeg_agree(photo, tmp_path, monkeypatch):
    """torchvision's and Pillow's turn the same images, for any metadata."""
    kinds = [KINDS[kind](o) for kind in KINDS for o in (0, 1, 6, 9)]
    kinds += [{"in_exif": block} for block in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40)]
    kinds += [{"in_exif": b"Exif\0\0nonsense", "in_xmp": 6}, {"in_xmp": "tiff:Orientation"}, {"in_xmp": xmp("x")}]
    for number, kind in enumerate(kinds):
        save(tmp_path / f"{number}.jpg", photo, **kind)
    ours = [pixels_of(tmp_path / f"{number}.jpg").astype(int) for number in range(len(kinds))]
    monkeypatch.setattr("datasets.decoding.decode._decode_plain_jpeg", lambda file: None)
    for number, (kind, found) in enumerate(zip(kinds, ours, strict=True)):
        pillows = pixels_of(tmp_path / f"{number}.jpg")
        assert found.shape == pillows.shape and np.abs(found - pillows).max() <= 1, kind


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_an_orientation_turns_nothing(suffix, orientation, photo, tmp_path):
    save(tmp_path / f"plain.{suffix}", photo)
    save(tmp_path / f"odd.{suffix}", photo, in_exif=orientation)
    for upright in (True, False):
        expected, found = (
            pixels_of(tmp_path / f"{name}.{suffix}", exif_orientation=upright) for name in ("plain", "odd")
        )
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_is_no_error(suffix, block, photo, tmp_path, recwarn):
    save(tmp_path / f"plain.{suffix}", photo)
    save(tmp_path / f"damaged.{suffix}", photo, in_exif=block)
    for upright in (True, False):
        expected, found = (
            pixels_of(tmp_path / f"{name}.{suffix}", exif_orientation=upright) for name in ("plain", "damaged")
        )
        assert np.array_equal(found, expected)
    assert not recwarn.list


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("behind", [b"eXIf", b"iTXt"])
def test_a_png_may_have_its_metadata_behind_its_pixels(behind, orientation, photo, tmp_path):
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "PNG")
    data = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation).encode()
    data = exif(orientation).tobytes().removeprefix(b"Exif\0\0") if behind == b"eXIf" else data
    chunk = struct.pack(">I", len(data)) + behind + data + struct.pack(">I", zlib.crc32(behind + data))
    end = content.getvalue().rindex(b"IEND") - 4
    (tmp_path / "image.png").write_bytes(content.getvalue()[:end] + chunk + content.getvalue()[end:])
    assert np.array_equal(pixels_of(tmp_path / "image.png"), TURNS[orientation](photo))
    assert np.array_equal(pixels_of(tmp_path / "image.png", exif_orientation=False), photo)


RARER = {  # suffix, mode, options of saving
    "compressed TIFF": ("tif", "RGB", {"compression": "tiff_lzw"}),
    "JPEG in TIFF": ("tif", "RGB", {"compression": "jpeg"}),
    "TIFF of 16 bits": ("tif", "I;16", {}),
    "PNG of 16 bits": ("png", "I;16", {}),
    "palette": ("png", "P", {}),
    "transparent": ("webp", "RGBA", {}),
    "inks": ("jpg", "CMYK", {}),
    "grey": ("jpg", "L", {}),
    "progressive": ("jpg", "RGB", {"progressive": True}),
}


@pytest.mark.parametrize("kind", RARER)
def test_rarer_files_are_turned_too(kind, photo, tmp_path):
    suffix, mode, options = RARER[kind]
    grey = photo[:, :, 1].astype(np.uint16) * 257
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray(photo).convert(mode)
    save(tmp_path / f"plain.{suffix}", image, **options)
    plain = pixels_of(tmp_path / f"plain.{suffix}")
    for orientation, turn in TURNS.items():
        path = tmp_path / f"turned.{suffix}"
        save(path, image, in_exif=orientation, **options)
        assert np.array_equal(pixels_of(path), turn(plain)), orientation
        assert np.array_equal(pixels_of(path, exif_orientation=False), plain), orientation


@pytest.mark.parametrize("where", ["in_exif", "in_xmp"])
@pytest.mark.parametrize("upright", [True, False])
def test_a_reduced_jpeg_is_asked_for_and_turned_alike(upright, where, photo, tmp_path):
    path = tmp_path / "image.jpg"
    for orientation, turn in TURNS.items():
        save(path, photo, **{where: orientation})
        asked = []
        found = decode(str(path), lambda *size, asked=asked: asked.append(size) or 2, exif_orientation=upright)
        with Image.open(path) as plain:
            plain.draft(None, (WIDTH // 2, HEIGHT // 2))
            expected = (turn if upright else TURNS[1])(np.array(plain))
        assert asked == [(turn if upright else TURNS[1])(photo).shape[:2]]
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_metadata_are_parsed_once_at_most(photo, tmp_path, monkeypatch):
    """Never if there are none, and for a file that is read as stored only when Pillow opens it."""
    save(tmp_path / "plain.jpg", photo)
    save(tmp_path / "turned.jpg", photo, in_exif=6)
    parsed = []
    load = Image.Exif.load
    monkeypatch.setattr(Image.Exif, "load", lambda self, data: parsed.append(data) or load(self, data))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("Pillow decodes"))

    def times(read, *args, **options):
        parsed.clear()
        read(*args, **options)
        return len(parsed)

    for name, expected in (("plain", 0), ("turned", 1)):
        path = str(tmp_path / f"{name}.jpg")
        assert times(decode, path, exif_orientation=False) == times(Image.open, path)
        assert times(decode, path) == expected


# ---- data sets that apply it ----


@pytest.fixture
def pictures(photo, tmp_path):
    """train/ and test/ with two classes of lying pictures (orientation 6)."""
    for folder in ("train/one", "train/two", "test/one", "test/two"):
        (tmp_path / folder).mkdir(parents=True)
        for number, (suffix, where) in enumerate((("jpg", "in_exif"), ("jpg", "in_xmp"), ("png", "in_exif"))):
            save(tmp_path / folder / f"{number}.{suffix}", photo, **{where: 6})
    return tmp_path


def build(data, root, *options):
    return build_data(load_config(data, "clip_tiny", "zs", ["root", str(root), *options]))


def shapes(data):
    """Height and width of every image."""
    lists = (data.train.images, data.test.images)
    return {tuple(images.read(i).shape[1:]) for images in lists for i in range(len(images))}


SIZES = {True: {(WIDTH, HEIGHT)}, False: {(HEIGHT, WIDTH)}}


@pytest.mark.parametrize("options, upright", [((), True), (("exif_orientation", "False"), False)])
@pytest.mark.parametrize("more", [(), ("test_fraction", "0.4"), ("imbalance", "2")])
def test_own_pictures_are_turned_unless_told_otherwise(options, upright, more, pictures):
    root = pictures / "train" if "test_fraction" in more else pictures
    data = build("folder", root, *options, *more)
    assert shapes(data) == SIZES[upright]


@pytest.mark.parametrize(
    "options, upright", [((), False), (("exif_orientation", "None"), False), (("exif_orientation", "True"), True)]
)
def test_published_sets_are_read_as_stored(options, upright, pictures, monkeypatch):
    paths = sorted(map(str, pictures.glob("*/*/*")))

    def published(name, root):
        labels = np.arange(len(paths)) % 2
        return DataSet(name, ["a", "b"], ImageList.of_paths(paths, labels), ImageList.of_paths(paths, labels), root)

    monkeypatch.setitem(DATASETS, "places_lt", published)
    assert shapes(build("places_lt", pictures, *options)) == SIZES[upright]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("gap", [None, 1.0])
@pytest.mark.parametrize("upright", [True, False])
def test_a_run_reads_what_its_list_says(upright, gap, workers, tmp_path):
    """The crop that reaches the model is the turned picture's, or the stored one's."""
    content = helpers.photograph()[:400, :600].copy()
    save(tmp_path / "0.jpg", content, in_exif=6)
    save(tmp_path / "1.jpg", (TURNS[6] if upright else TURNS[1])(content).copy())
    crops = TestCrops(32, 4, 5, gap)

    def crop(name, exif_orientation):
        images = ImageList.of_paths([str(tmp_path / name)], np.zeros(1, int), exif_orientation)
        ((found, _),) = Loader(images, crops, sequential_batches(np.arange(1), 1), torch.device("cpu"), workers)
        return found.int()

    assert (crop("0.jpg", upright) - crop("1.jpg", False)).abs().float().mean() < 3  # two JPEGs of one picture
    assert (crop("0.jpg", not upright) - crop("1.jpg", False)).abs().float().mean() > 20


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("options, upright", [((), True), (("exif_orientation", "False"), False)])
def test_a_check_decodes_as_the_run(options, upright, processes, pictures):
    found = check_images(build("folder", pictures, *options), processes)
    assert not found.bad
    assert set(map(tuple, found.sizes.tolist())) == SIZES[upright]
