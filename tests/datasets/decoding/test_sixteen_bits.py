"""Pictures of 16 bits of which fewer are used: bit_depth against the formula, in every format and arrangement."""

import io

import numpy as np
import pytest
from helpers import refused
from pictures import png, tiff
from PIL import Image

from datasets.decoding.decode import ImageError, decode, largest_number
from datasets.images import ImageList

HEIGHT, WIDTH = 23, 17
LAYOUTS = {  # of a TIFF: photometric interpretation, bands, extra samples
    "grey": (1, 1, []),
    "RGB": (2, 3, []),
    "RGB and more": (2, 4, [0]),
    "RGB and alpha": (2, 4, [2]),
    "CMYK": (5, 4, []),
}


def numbers(bands, depth, seed=0):
    """uint16 [H, W, bands] of `depth` bits: black, white, one number above white, and random ones."""
    found = np.random.default_rng(seed).integers(0, 2**depth, (HEIGHT, WIDTH, bands)).astype(np.uint16)
    found[0, 0], found[0, 1], found[0, 2] = 0, 2**depth - 1, 65535
    return found


def expected(values, depth):
    """The formula, in floating point, uint8 [H, W, bands]."""
    white = 2**depth - 1
    return np.round(np.minimum(values, white) * 255.0 / white).astype(np.uint8)


def rgb(pixels, layout):
    """uint8 [H, W, bands] -> RGB [H, W, 3], alpha dropped."""
    if layout == "CMYK":
        image = Image.frombytes("CMYK", pixels.shape[1::-1], pixels.tobytes())
        return np.array(image.convert("RGB"))
    return pixels[:, :, :3] if pixels.shape[2] > 2 else pixels[:, :, :1].repeat(3, axis=2)


def read(path, **options):
    return decode(str(path), **options).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("depth", [1, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("colour, bands", [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_is_scaled_by_the_bits_it_uses(colour, bands, depth, tmp_path):
    values = numbers(bands, depth)
    (tmp_path / "image.png").write_bytes(png(values, colour, bits=16))
    found = read(tmp_path / "image.png", bit_depth=depth)
    assert np.array_equal(found, rgb(expected(values, depth), "RGB"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_is_scaled_by_the_bits_it_uses(layout, planar, compression, order, tmp_path):
    """Also if bands are stored one by one; without bit_depth, high bytes of these, and all bits of grey."""
    photometric, bands, extra = LAYOUTS[layout]
    values = numbers(bands, 12)
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(values, photometric, extra, planar, order, compression))
    assert np.array_equal(read(path, bit_depth=12), rgb(expected(values, 12), layout))
    all_bits = (values >> 8).astype(np.uint8) if bands > 1 else expected(values, 16)
    assert np.array_equal(read(path), rgb(all_bits, layout))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [1, 2])
def test_orientation_and_bit_depth_together(planar, orientation, tmp_path):
    values = numbers(3, 12)
    (tmp_path / "plain.tif").write_bytes(tiff(values, 2, planar=planar))
    (tmp_path / "turned.tif").write_bytes(tiff(values, 2, planar=planar, t274=[orientation]))
    plain = Image.fromarray(read(tmp_path / "plain.tif", bit_depth=12))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # Pillow's Transpose
    upright = plain if turn is None else plain.transpose(Image.Transpose(turn))
    assert np.array_equal(read(tmp_path / "turned.tif", bit_depth=12), np.array(upright))
    assert np.array_equal(read(tmp_path / "turned.tif", exif_orientation=False, bit_depth=12), np.array(plain))


def test_twelve_bits_that_the_file_declares(tmp_path):
    """Packed, as few programs write them: white is 4,095 without a key."""
    values = np.arange(4096).reshape(64, 64)
    even, odd = values[:, ::2], values[:, 1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=2)  # the highest bits come first
    content = tiff(packed.reshape(64, 96, 1).astype(np.uint8), 1, kind="u1", strips=1, t256=[64], t258=[12])
    (tmp_path / "image.tif").write_bytes(content)
    for depth in (None, 12, 16):
        assert np.array_equal(read(tmp_path / "image.tif", bit_depth=depth)[:, :, 0], expected(values, 12))


def test_signed_numbers_need_a_bit_depth(tmp_path):
    values = np.linspace(-32768, 32767, HEIGHT * WIDTH).astype(np.int16).reshape(HEIGHT, WIDTH, 1)
    for order in "<>":
        path = tmp_path / "image.tif"
        path.write_bytes(tiff(values, 1, order=order, kind="i2"))
        with refused(ImageError, kind="unsupported_pixels", path=path):
            decode(str(path))
        assert np.array_equal(read(path, bit_depth=15), rgb(expected(np.maximum(values, 0), 15), "grey"))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "gif", "webp"])
def test_pictures_of_eight_bits_are_the_same_with_any_bit_depth(mode, suffix, tmp_path):
    content = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    path = tmp_path / f"image.{suffix}"
    try:
        Image.fromarray(content).convert(mode).save(path)
    except (OSError, ValueError):
        return  # not a mode of this format
    assert np.array_equal(read(path), read(path, bit_depth=12))
    assert largest_number(str(path)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_largest_number(layout, tmp_path):
    photometric, bands, extra = LAYOUTS[layout]
    values = numbers(bands, 9)
    values[0, 2] = 1234
    values[:, :, 3:] = 1000 if layout == "CMYK" else 40_000  # alpha does not count
    for planar in (1, 2):
        (tmp_path / "image.tif").write_bytes(tiff(values, photometric, extra, planar))
        assert largest_number(str(tmp_path / "image.tif")) == 1234
    if layout in ("grey", "RGB"):
        (tmp_path / "image.png").write_bytes(png(values, 2 if bands == 3 else 0, bits=16))
        assert largest_number(str(tmp_path / "image.png")) == 1234
    assert largest_number(str(tmp_path / "gone.png")) is None


def test_lists_keep_their_bit_depth(tmp_path):
    values = numbers(1, 12)
    (tmp_path / "image.png").write_bytes(png(values, 0, bits=16))
    images = ImageList.of_paths([str(tmp_path / "image.png")], np.zeros(1, int)).with_bit_depth(12)
    for some in (images, images.subset([0]), images.with_labels(images.labels), images.with_orientation(True)):
        assert some.images.bit_depth == 12
        assert np.array_equal(some.images.read(0)[0].numpy(), expected(values, 12)[:, :, 0])
    pixels = ImageList.of_pixels(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, int)).with_bit_depth(12)
    assert pixels.images.bit_depth is None and pixels.images.largest_number(0) is None


def test_many_pages_of_sixteen_bits(tmp_path):
    """The first one, as of a microscope's stack."""
    values = [numbers(1, 12, seed)[:, :, 0] for seed in range(3)]
    pages, content = [Image.fromarray(value) for value in values], io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    (tmp_path / "image.tif").write_bytes(content.getvalue())
    assert np.array_equal(read(tmp_path / "image.tif", bit_depth=12)[:, :, 0], expected(values[0], 12))
