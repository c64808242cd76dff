"""Decoding: every format and mode against known numbers or Pillow, and unreadable files."""

import errno
import os
import struct
import tracemalloc
import zlib

import helpers
import numpy as np
import pytest
import torch
from helpers import levels_apart
from pictures import png, tiff
from PIL import Image, ImageFile, ImageOps

from datasets.decoding import decode as images
from datasets.decoding.decode import ImageError, decode
from datasets.images import ImagePaths

HEIGHT, WIDTH = 43, 61


@pytest.fixture(scope="module")
def photo():
    """A crop of a real photograph, uint8 [43, 61, 3]."""
    return helpers.photograph()[100 : 100 + HEIGHT, 300 : 300 + WIDTH].copy()


@pytest.fixture(scope="module")
def grey(photo):
    """Its green, uint8 [43, 61]."""
    return photo[:, :, 1].copy()


def of(array):
    """uint8 [H, W, 3] or grey [H, W] -> [3, H, W]."""
    array = array if array.ndim == 3 else array[:, :, None].repeat(3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def assert_decodes(path, expected, tolerance=0):
    found = decode(str(path))
    assert found.dtype == torch.uint8 and found.shape == (3, *expected.shape[:2])
    assert levels_apart(found, of(expected)) <= tolerance


def pillows(path):
    """An image file as Pillow reads it: turned by its EXIF, RGB, uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


# ---- formats and modes ----

LOSSLESS = {
    "grey": ("L", ("png", "bmp", "tif", "webp", "gif")),
    "colour": ("RGB", ("png", "bmp", "tif", "webp")),
    "palette": ("P", ("png", "gif", "bmp", "tif")),
    "transparent": ("RGBA", ("png", "webp", "tif")),
    "grey and transparent": ("LA", ("png", "tif")),
    "inks": ("CMYK", ("tif",)),
    "black and white": ("1", ("png", "bmp", "tif", "gif")),
}


@pytest.mark.parametrize(
    "kind, suffix", [(kind, suffix) for kind, (_, suffixes) in LOSSLESS.items() for suffix in suffixes]
)
def test_lossless_formats_give_the_pixels_that_were_saved(kind, suffix, photo, tmp_path):
    image = Image.fromarray(photo).convert(LOSSLESS[kind][0])
    if image.mode in ("RGBA", "LA"):  # transparent from left to right: the colours must not depend on it
        image.putalpha(Image.fromarray(np.linspace(0, 255, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)))
    saved = np.array(image)
    expected = {
        "RGBA": lambda: saved[:, :, :3],
        "LA": lambda: saved[:, :, 0],
        "1": lambda: saved.astype(np.uint8) * 255,
        "P": lambda: np.array(image.getpalette(), np.uint8).reshape(-1, 3)[saved],
        "CMYK": lambda: np.rint((255.0 - saved[:, :, :3]) * (255.0 - saved[:, :, 3:]) / 255).astype(np.uint8),
    }.get(image.mode, lambda: saved)()
    path = tmp_path / f"image.{suffix}"
    image.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    assert_decodes(path, expected, tolerance=1 if image.mode == "CMYK" else 0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "png"])
def test_jpeg_is_decoded_as_by_pillow(mode, options, suffix, photo, tmp_path):
    """Whatever it is called."""
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(photo).convert(mode).save(path, "JPEG", **options)
    assert_decodes(path, pillows(path), tolerance=1)


def test_plain_jpeg_is_left_to_torchvision(photo, tmp_path, monkeypatch):
    Image.fromarray(photo).save(tmp_path / "image.jpg")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("Pillow decodes"))
    decode(str(tmp_path / "image.jpg"))


@pytest.mark.parametrize("transform", [0, 2])
def test_jpeg_of_four_inks(transform, photo, tmp_path):
    """Adobe's JPEGs contain inverted inks: as they are (0), or the first three as luma and chroma (YCCK, 2)."""
    path = tmp_path / "image.jpg"
    rng = np.random.default_rng(0)
    black = np.linspace(0, 200, WIDTH).astype(np.uint8)[None, :, None].repeat(HEIGHT, 0)
    inks = np.concatenate([photo, black + rng.integers(0, 2, black.shape, dtype=np.uint8)], axis=2)
    Image.fromarray(inks, "CMYK").save(path, quality=100, subsampling=0)
    content = bytearray(path.read_bytes())
    at = content.index(b"Adobe") + 11
    assert content[at] == 0
    content[at] = transform
    path.write_bytes(content)
    stored = 255.0 - inks  # in the file
    if transform:
        luma, blue, red = stored[:, :, 0], stored[:, :, 1] - 128, stored[:, :, 2] - 128
        rgb = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
        stored[:, :, :3] = 255 - np.clip(np.stack(rgb, axis=2), 0, 255)
    assert_decodes(path, np.rint(stored[:, :, :3] * stored[:, :, 3:] / 255).astype(np.uint8), tolerance=6)


@pytest.mark.parametrize("colour, channels", [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_of_sixteen_bits(colour, channels, tmp_path):
    """65,535 becomes 255, and nothing below it."""
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH * channels).astype(np.uint16).reshape(HEIGHT, WIDTH, channels)
    (tmp_path / "image.png").write_bytes(png(ramp, colour, bits=16))
    colours = ramp[:, :, :1] if channels < 3 else ramp[:, :, :3]
    expected = np.rint(colours / 257).astype(np.uint8)
    assert_decodes(tmp_path / "image.png", expected if channels > 2 else expected[:, :, 0], tolerance=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_sixteen_bits(channels, order, tmp_path):
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH * channels).astype(np.uint16).reshape(HEIGHT, WIDTH, channels)
    (tmp_path / "image.tif").write_bytes(tiff(ramp, 1 if channels == 1 else 2, order=order))
    expected = np.rint(ramp / 257).astype(np.uint8)
    assert_decodes(tmp_path / "image.tif", expected if channels > 1 else expected[:, :, 0], tolerance=1)


def test_sixteen_bits_of_grey_are_rounded_exactly(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    (tmp_path / "image.png").write_bytes(png(every, 0, bits=16))
    assert_decodes(tmp_path / "image.png", np.rint(every[:, :, 0] / 257).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_of_grey_are_refused(dtype, grey, tmp_path):
    """Their black and white are unknown; Pillow would clip them to 0..255."""
    path = tmp_path / "image.tif"
    Image.fromarray(grey.astype(dtype)).save(path)
    with helpers.refused(ImageError, kind="grey_of_32_bits", path=tmp_path / "image.tif"):
        decode(str(path))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_transparent_palette_keeps_its_colours(transparency, photo, tmp_path, recwarn):
    """One transparent colour, or one alpha for each: as Pillow's convert("RGB"), but without its warning."""
    image = Image.fromarray(photo).convert("P", palette=Image.Palette.ADAPTIVE)
    for suffix in ("png", "gif") if isinstance(transparency, int) else ("png",):
        path = tmp_path / f"image.{suffix}"
        image.save(path, transparency=transparency)
        assert_decodes(path, np.array(image.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_first_frame_counts(suffix, photo, tmp_path):
    frames = [Image.fromarray(frame) for frame in (photo, photo[::-1].copy(), 255 - photo)]
    frames = [frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames] if suffix == "gif" else frames
    path = tmp_path / f"image.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert_decodes(path, np.array(frames[0].convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_colour_profiles_are_ignored(suffix, photo, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(photo).save(tmp_path / f"with.{suffix}", icc_profile=profile)
    Image.fromarray(photo).save(tmp_path / f"without.{suffix}")
    assert torch.equal(*(decode(str(tmp_path / f"{name}.{suffix}")) for name in ("with", "without")))


# ---- JPEGs decoded to a fraction of their size ----


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize("height, width", [(400, 640), (427, 640), (401, 633)])
def test_reduced_jpeg_is_the_means_of_its_pixels(mode, by, height, width, tmp_path):
    """Nearly: libjpeg drops the highest frequencies of each block of 8 x 8 pixels."""
    path = tmp_path / "image.jpg"
    Image.fromarray(helpers.photograph()[:height, :width].copy()).convert(mode).save(path, quality=95)
    found = decode(str(path), lambda *size: by if size == (height, width) else 1)
    whole = decode(str(path))[:, : height // by * by, : width // by * by].float()
    means = torch.nn.functional.avg_pool2d(whole, by)
    assert found.shape == (3, -(-height // by), -(-width // by)) and found.dtype == torch.uint8
    assert (found[:, : means.shape[1], : means.shape[2]] - means).abs().mean() < 1.5
    assert torch.equal(decode(str(path), lambda *size: 1), decode(str(path)))


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif"])
def test_other_formats_are_never_reduced(suffix, photo, tmp_path):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(photo).save(path)
    assert torch.equal(decode(str(path), lambda *size: 2), decode(str(path)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduction_is_asked_for_the_upright_image(orientation, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, asked = tmp_path / "image.jpg", []
    Image.fromarray(photo).save(path, exif=exif)
    small = decode(str(path), lambda *size: asked.append(size) or 2)
    plain = Image.open(path)
    plain.draft(None, (WIDTH // 2, HEIGHT // 2))
    assert asked == [decode(str(path)).shape[1:]]
    assert torch.equal(small, of(TURNS[orientation](np.array(plain))))


def test_damaged_jpeg_is_refused_at_any_size(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(helpers.photograph()).save(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ImageError):
        decode(str(path), lambda *size: 2)


# ---- orientation ----

TURNS = {  # EXIF's orientation -> the transformation to an upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_image_is_turned_as_exif_says(orientation, suffix, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    for name, tag in (("plain", {}), ("turned", {"exif": exif})):
        Image.fromarray(photo).save(tmp_path / f"{name}.{suffix}", **tag, **options)
    plain = decode(str(tmp_path / f"plain.{suffix}")).permute(1, 2, 0).numpy()
    assert_decodes(tmp_path / f"turned.{suffix}", TURNS[orientation](plain))


@pytest.mark.parametrize("mode", ["CMYK", "I;16"])
def test_rarer_modes_are_turned_too(mode, photo, grey, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = Image.fromarray(photo).convert("CMYK") if mode == "CMYK" else Image.fromarray(grey.astype(np.uint16) * 257)
    image.save(path, exif=exif)
    assert_decodes(path, pillows(path) if mode == "CMYK" else TURNS[6](grey))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40])
@pytest.mark.parametrize("suffix, mode", [("jpg", "RGB"), ("jpg", "CMYK"), ("png", "RGB"), ("webp", "RGB")])
def test_damaged_exif_does_not_matter(exif, suffix, mode, photo, tmp_path, recwarn):
    for name, tag in (("with", {"exif": exif}), ("without", {})):
        Image.fromarray(photo).convert(mode).save(tmp_path / f"{name}.{suffix}", **tag)
    assert torch.equal(*(decode(str(tmp_path / f"{name}.{suffix}")) for name in ("with", "without")))
    assert not recwarn.list


# ---- unreadable files ----


def assert_refused(path, kind):
    with helpers.refused(ImageError, kind=kind, path=path) as caught:
        decode(str(path))
    message = str(caught.value)
    assert message.startswith(f"the image {path} ") and message.count(str(path)) == 1 and "\n" not in message
    assert caught.value.reason in message


HTML = b"\n <!DOCTYPE html><html><body>404</body></html>"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HTML,
        b"<?xml version='1.0'?><svg/>",
        b"hello",
        bytes(1000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # Pillow would start Ghostscript
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
    ],
    ids=["empty", "HTML", "SVG", "text", "zeros", "PostScript", "a JPEG's header", "a GIF's header"],
)
@pytest.mark.parametrize("name", ["file.jpg", "file.png"])
def test_file_that_is_not_a_picture(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, "undecodable_image")


def test_file_that_cannot_be_opened(photo, tmp_path, monkeypatch):
    assert_refused(tmp_path / "gone.jpg", "missing_image")
    (tmp_path / "file").write_bytes(b"")
    assert_refused(tmp_path / "file" / "gone.jpg", "missing_image")
    (tmp_path / "folder.jpg").mkdir()
    assert_refused(tmp_path / "folder.jpg", "folder_as_image")
    assert_refused(tmp_path / ("long" * 100), "unreadable_image")

    def fails(number):
        def opens(*_, **options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(images, "open", opens, raising=False)

    fails(errno.EACCES)
    assert_refused(tmp_path / "a.jpg", "unreadable_image")
    fails(errno.EMFILE)
    assert_refused(tmp_path / "a.jpg", "too_many_open_files")
    fails(errno.EIO)
    assert_refused(tmp_path / "a.jpg", "unreadable_image")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "image.png")
    (tmp_path / "image.png").chmod(0)
    assert_refused(tmp_path / "image.png", "unreadable_image")


def test_too_little_memory(photo, tmp_path, monkeypatch):
    Image.fromarray(photo).save(tmp_path / "image.png")

    def load(_):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert_refused(tmp_path / "image.png", "out_of_memory")


CUT = {"jpg": {}, "png": {}, "gif": {}, "webp": {}, "tif": {}, "bmp": {}, "progressive.jpg": {"progressive": True}}


@pytest.mark.parametrize("suffix", CUT)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.97])
def test_cut_image_is_refused(suffix, share, photo, tmp_path):
    """Never a picture with a grey lower part."""
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(helpers.photograph()[:80, :100].copy()).save(path, **CUT[suffix])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ImageError) as caught:  # in Pillow's words, which change with its version
        decode(str(path))
    assert (caught.value.kind, caught.value.path) == ("undecodable_image", str(path))


def test_content_counts_not_the_suffix(photo, tmp_path):
    """ImageNet contains a PNG named JPEG."""
    for suffix in ("jpeg", "JPG", "gif", ""):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(photo).save(path, format="PNG")
        assert_decodes(path, photo)


# ---- gigapixels ----

WIDE = 60_000
GIGAPIXELS = {
    "bmp": b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, WIDE, WIDE, 1, 24, *[0] * 6),
    "png": png(np.zeros((1, 1, 1)), 0).replace(
        struct.pack(">II", 1, 1) + b"\x08\x00\x00\x00\x00" + struct.pack(">I", 0x3A7E9B55),
        (header := struct.pack(">IIBBBBB", WIDE, WIDE, 8, 0, 0, 0, 0))
        + struct.pack(">I", zlib.crc32(b"IHDR" + header)),
    ),
    "gif": b"GIF89a" + struct.pack("<HHBBB", WIDE, WIDE, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, WIDE, WIDE, 0),
    "jpg": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, WIDE, WIDE, 1) + b"\x01\x11\x00\xff\xda\x00\x08\x01\x01",
    "tif": tiff(np.zeros((1, 1, 1)), 1, kind="u1")
    .replace(struct.pack("<HHII", 256, 4, 1, 1), struct.pack("<HHII", 256, 4, 1, WIDE))
    .replace(struct.pack("<HHII", 257, 4, 1, 1), struct.pack("<HHII", 257, 4, 1, WIDE)),
}


@pytest.mark.parametrize("suffix", GIGAPIXELS)
def test_gigapixels_are_refused_before_anything_is_allocated(suffix, tmp_path, monkeypatch, recwarn):
    """A tiny file that claims 3.6 gigapixels, 10 GB as RGB."""
    import torchvision.io

    path = tmp_path / f"huge.{suffix}"
    path.write_bytes(GIGAPIXELS[suffix] + bytes(100))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decodes"))
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda *_, **__: pytest.fail("decodes"))
    tracemalloc.start()
    try:
        assert_refused(path, "too_many_pixels")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_limit_is_sharp(suffix, photo, tmp_path, monkeypatch):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(photo).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH)
    assert decode(str(path)).shape == (3, HEIGHT, WIDTH)
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    assert_refused(path, "too_many_pixels")


def test_large_images_are_read_without_a_warning(tmp_path, recwarn):
    """Pillow would warn above 89 million pixels, and name no file."""
    path = tmp_path / "image.png"
    Image.new("1", (10_000, 9_000)).save(path)
    assert decode(str(path)).shape == (3, 9_000, 10_000)
    assert not recwarn.list


# ---- files ----


def test_decoding_leaves_no_file_open(photo, tmp_path):
    paths = [tmp_path / f"image.{suffix}" for suffix in ("jpg", "png", "tif", "gif", "webp", "bmp")]
    for path in paths:
        Image.fromarray(photo).save(path)
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "inks.jpg")
    (tmp_path / "bad.jpg").write_bytes(HTML)
    (tmp_path / "cut.jpg").write_bytes(paths[0].read_bytes()[:500])
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        for path in (*paths, tmp_path / "inks.jpg"):
            decode(str(path))
        for name in ("bad.jpg", "cut.jpg", "gone.jpg"):
            with pytest.raises(ImageError):
                decode(str(tmp_path / name))
    assert os.listdir("/proc/self/fd") == before


def test_paths_survive_their_packing(photo, tmp_path):
    paths = ["a.jpg", "b/c d.png", "日本/é.jpg", os.fsdecode(b"caf\xe9.jpg"), "x", "z" * 300]
    files = ImagePaths(paths)
    assert [files.path(index) for index in range(len(paths))] == files.paths == paths
    assert (ImagePaths(["one"]).path(0), ImagePaths([]).paths) == ("one", [])
    Image.fromarray(photo).save(tmp_path / "image.png")
    assert torch.equal(ImagePaths(["gone", str(tmp_path / "image.png")]).read(1), of(photo))
