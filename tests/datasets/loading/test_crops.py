"""Crops: their distributions against formula and torchvision, their pixels against Pillow, their purity."""

import collections
import itertools
import math
import types

import helpers
import numpy as np
import pytest
import torch
from cases import covering
from helpers import execute, levels_apart
from open_clip.transform import image_transform
from PIL import Image
from scipy import stats
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf

from datasets.loading import crops as transforms
from datasets.loading.crops import (
    FIRST_DRAW,
    LONG,
    MDA_SCHEDULES,
    TestCrops,
    TestDraws,
    TrainCrop,
    build_centre_crop,
    build_test_crops,
    build_train_crop,
    crop,
    random_resized_box,
    resize,
    smallest_area,
    square_box,
)
from utils.config import load_config

DRAWS = 20_000
SURE = 1e-3  # a test of a distribution fails below this p; the draws are fixed, so it fails always or never
SCHEDULES = {
    "convex": lambda t: 1 - (1 - t**2) ** 0.5,
    "linear": lambda t: t,
    "concave": lambda t: (1 - (1 - t) ** 2) ** 0.5,
    "min": lambda t: 0,
    "max": lambda t: 1,
}


@pytest.fixture(scope="module")
def photo():
    """A real photograph, uint8 [3, 427, 640]."""
    return torch.from_numpy(helpers.photograph().copy()).permute(2, 0, 1)


def pixels(image):
    """A tensor [3, H, W] as a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image):
    """A Pillow image as a tensor [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resized_by_pillow(image, height, width):
    """Rows first, then columns; Pillow alone chooses the order by the shape, and rounds after each."""
    rows = pixels(image).resize((width, image.shape[1]), Image.Resampling.BICUBIC)
    return tensor(rows.resize((width, height), Image.Resampling.BICUBIC))


def assert_same_picture(found, expected, enlarged):
    """Within one grey level; in an enlarged image, a few values in a million may be two apart."""
    assert found.shape == expected.shape
    apart = (found.int() - expected.int()).abs()
    assert apart.max() <= (2 if enlarged else 1)
    assert (apart > 1).float().mean() < 5e-5
    assert (apart > 0).float().mean() < 0.02


# ---- minimalist crops ----


@pytest.mark.parametrize("name", MDA_SCHEDULES)
@pytest.mark.parametrize("num_epochs", [2, 5, 20])
def test_smallest_area_grows_along_its_schedule(name, num_epochs):
    """a = 0.08 + 0.92 s(t), t = epoch / (num_epochs - 1)."""
    for epoch in range(num_epochs):
        expected = 0.08 + 0.92 * SCHEDULES[name](epoch / (num_epochs - 1))
        assert smallest_area(name, epoch, num_epochs) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", MDA_SCHEDULES)
def test_the_only_epoch_is_the_last(name):
    assert smallest_area(name, 0, 1) == pytest.approx(0.08 if name == "min" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("height, width", [(2000, 2000), (3000, 2000), (1500, 6000)])
@pytest.mark.parametrize("smallest", [0.08, 0.5])
def test_square_boxes_have_uniform_area_and_place(height, width, smallest):
    """Area uniform in [min(a, m), min(1, m)] of the image's, m = min(h, w)^2 / (h w); place uniform."""
    rng = np.random.default_rng(0)
    boxes = np.array([square_box(height, width, smallest, rng) for _ in range(DRAWS)])
    top, left, h, w = boxes.T
    assert (h == w).all()
    assert (boxes >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    m = min(height, width) ** 2 / (height * width)
    low, high = min(smallest, m), min(1, m)
    if low == high:
        assert (h == min(height, width)).all()
    else:
        assert stats.kstest(h * w / (height * width), "uniform", args=(low, high - low)).pvalue > SURE
    place = np.random.default_rng(1).random((2, DRAWS))  # spreads a whole number evenly over its pixel
    down, right = (top + place[0]) / (height - h + 1), (left + place[1]) / (width - w + 1)
    for share in (down, right):
        assert stats.kstest(share, "uniform").pvalue > SURE
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.04
    if low < high:
        assert max(abs(np.corrcoef(h, share)[0, 1]) for share in (down, right)) < 0.04


@pytest.mark.parametrize("height, width", [(1, 1), (1, 500), (500, 1), (2, 3), (10, 4000)])
@pytest.mark.parametrize("smallest", [0.08, 1.0])
def test_square_boxes_fit_in_any_image(height, width, smallest):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, h, w = square_box(height, width, smallest, rng)
        assert 1 <= h == w <= min(height, width)
        assert 0 <= top <= height - h and 0 <= left <= width - w


@pytest.mark.parametrize("height, width", [(4, 6), (5, 5), (7, 2)])
def test_square_boxes_reach_every_place(height, width):
    """In a small image, all positions of a size occur, equally often."""
    rng = np.random.default_rng(0)
    counts = collections.Counter(square_box(height, width, 0.08, rng) for _ in range(DRAWS))
    for side in {box[2] for box in counts}:
        places = {(t, u, side, side) for t in range(height - side + 1) for u in range(width - side + 1)}
        found = [counts[place] for place in places]
        assert {box for box in counts if box[2] == side} == places
        assert len(places) == 1 or stats.chisquare(found).pvalue > SURE


def test_the_last_crops_are_the_largest_squares():
    rng = np.random.default_rng(0)
    assert square_box(30, 30, smallest_area("convex", 4, 5), rng) == (0, 0, 30, 30)
    assert square_box(30, 50, smallest_area("convex", 4, 5), rng)[2:] == (30, 30)


# ---- images decoded to a fraction of their size ----


@pytest.mark.parametrize("gap", [None, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("height, width", [(300, 400), (375, 500), (450, 450), (600, 800), (3000, 4000), (500, 9000)])
def test_images_stay_as_large_as_their_crops_need(height, width, gap):
    def largest(side, needed):
        return max(by for by in (1, 2, 4, 8) if by == 1 or (gap and side // by >= gap * needed))

    assert TestCrops(224, 32, reducing_gap=gap).reduction(height, width) == largest(min(height, width), 256)
    found = set()
    for mda, index in itertools.product((True, False), range(50)):
        crop = TrainCrop(224, seed=0, num_epochs=5, mda=mda, reducing_gap=gap)
        (_, _, h, w), _ = crop.draw(height, width, 1, index)
        assert crop.reduction(height, width, 1, index) == largest(min(h, w), 224)
        found.add(crop.reduction(height, width, 1, index))
    assert found == {1} or (gap and height > 375)


@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize("mda", [True, False])
def test_a_reduced_image_is_cropped_at_the_same_place(by, mda):
    """Within two pixels of the smaller one, except for a box that fits in only one of the two."""
    crop, elsewhere = TrainCrop(224, seed=0, num_epochs=5, mda=mda), 0
    for index in range(500):
        box, _ = crop.draw(3000, 4000, 1, index)
        smaller, _ = crop.draw(3000 // by, 4000 // by, 1, index)
        elsewhere += np.abs(np.array(box) / by - smaller).max() > 2
    assert elsewhere <= 10


# ---- standard crops ----


@pytest.mark.slow
@pytest.mark.parametrize("height, width", [(427, 640), (500, 500), (90, 900), (900, 90), (20, 30)])
def test_standard_boxes_are_distributed_as_torchvisions(height, width):
    rng = np.random.default_rng(0)
    ours = np.array([random_resized_box(height, width, rng) for _ in range(DRAWS // 4)])
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_params = tv.RandomResizedCrop.get_params
        theirs = np.array([get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(DRAWS // 20)])
    if (theirs == theirs[0]).all():  # no box of that ratio is small enough: always the largest
        assert (ours == theirs[0]).all()
        return
    for a, b in zip(derived(ours, height, width), derived(theirs, height, width), strict=True):
        assert stats.ks_2samp(a, b).pvalue > SURE / 40  # number of comparisons over all sizes


def test_standard_boxes_reach_every_border():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_box(20, 30, rng) for _ in range(1000)])
    top, left, h, w = boxes.T
    inside = (h < 20) & (w < 30)
    for free, place in ((20 - h, top), (30 - w, left)):
        assert ((place == 0) & inside).any() and ((place == free) & inside).any()


def derived(boxes, height, width):
    """The compared properties of boxes: the four numbers, area, ratio, and the position relative to the free space."""
    top, left, h, w = boxes.T
    return *boxes.T, h * w, w / h, top / np.maximum(height - h, 1), left / np.maximum(width - w, 1)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 100), (100, 1), (2, 7), (10, 4000)])
def test_standard_boxes_fit_in_any_image(height, width):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, h, w = random_resized_box(height, width, rng)
        assert 1 <= h <= height and 1 <= w <= width
        assert 0 <= top <= height - h and 0 <= left <= width - w


# ---- pixels ----


@pytest.mark.parametrize(
    "height, width", [(256, 384), (224, 224), (32, 32), (36, 54), (800, 1200), (427, 100), (1, 1), (427, 640)]
)
def test_resize_is_pillows(photo, height, width):
    """Bicubic and antialiased: smaller, larger and misshapen."""
    expected = tensor(pixels(photo).resize((width, height), Image.Resampling.BICUBIC))
    found = resize(photo, height, width)
    assert found.dtype == torch.uint8
    assert_same_picture(found, expected, enlarged=height > 427)


def test_resize_of_a_crop_is_the_resize_of_its_copy(photo):
    """Crops are views, and images from memory are stored channels last."""
    view = crop(photo, (30, 50, 201, 133))
    assert not view.is_contiguous()
    assert torch.equal(resize(view, 64, 64), resize(view.contiguous(), 64, 64))
    assert levels_apart(resize(view, 64, 64), tensor(pixels(view).resize((64, 64), Image.Resampling.BICUBIC))) <= 1


def numbered(height, width):
    """An image in which every pixel encodes its position."""
    rows, columns = np.indices((height, width))
    return torch.from_numpy(np.stack([rows % 256, columns % 256, rows // 256 * 16 + columns // 256]).astype(np.uint8))


@pytest.mark.parametrize("height, width", [(256, 256), (256, 301), (333, 256), (256, 1000)])
def test_test_crops_lie_where_torchvisions_do(height, width):
    """The short side has the target size, so nothing is resized: the pixels are torchvision's own."""
    image = numbered(height, width)
    found = TestCrops(224, expand=32)(image)
    assert torch.equal(found, tvf.center_crop(image, 224)[None])
    assert torch.equal(TestCrops(224, expand=32, count=5)(image), torch.stack(tvf.five_crop(image, 224)))


@pytest.mark.parametrize("resolution, expand", [(224, 32), (224, 24), (32, 4), (224, 0)])
@pytest.mark.parametrize("height, width", [(427, 640), (640, 427), (100, 427), (31, 37), (50, 50)])
def test_test_crops_are_torchvisions_pipeline(photo, resolution, expand, height, width):
    """Resize, then CenterCrop or FiveCrop, of Pillow images."""
    image = photo.transpose(1, 2) if height > 427 else photo[:, :height, :width]
    resized = tv.Resize(resolution + expand, Image.Resampling.BICUBIC)(pixels(image))
    centre = tensor(tv.CenterCrop(resolution)(resized))
    five = torch.stack([tensor(part) for part in tv.FiveCrop(resolution)(resized)])
    enlarged = min(height, width) < resolution + expand
    assert_same_picture(TestCrops(resolution, expand)(image), centre[None], enlarged)
    assert_same_picture(TestCrops(resolution, expand, count=5)(image), five, enlarged)


@pytest.mark.parametrize("height, width", [(256, 256), (256, 301), (333, 256), (257, 1000), (224, 225)])
def test_ten_crops_lie_where_torchvisions_do(height, width):
    """LIFT's TenCrop: five crops of the image, and the same five of its mirror image."""
    image = numbered(height, width)
    size = min(height, width)
    assert torch.equal(TestCrops(200, size - 200, count=10)(image), torch.stack(tvf.ten_crop(image, 200)))


def test_ten_crops_of_a_photograph_are_torchvisions(photo):
    expected = tv.TenCrop(224)(tv.Resize(248, Image.Resampling.BICUBIC)(pixels(photo)))
    found = TestCrops(224, 24, count=10)(photo)
    assert_same_picture(found, torch.stack([tensor(part) for part in expected]), enlarged=False)
    assert torch.equal(found[:5], TestCrops(224, 24, count=5)(photo))
    assert torch.equal(found[4:5], TestCrops(224, 24)(photo))


@pytest.mark.parametrize("tte, tte_crops, expand, expected", [(False, 10, 32, 1), (True, 5, 24, 5), (True, 10, 24, 10)])
def test_test_crops_follow_the_configuration(tte, tte_crops, expand, expected):
    cfg = types.SimpleNamespace(tte=tte, tte_crops=tte_crops, tte_draws=None, expand=None, reducing_gap=1.5)
    cfg.interpolation, cfg.resize = "bilinear", "shortest"
    assert build_test_crops(cfg, 224) == TestCrops(224, expand, expected, 1.5, "bilinear")
    cfg.expand = 7
    assert build_test_crops(cfg, 224).expand == 7


@pytest.mark.parametrize("tte_crops", [None, 5, 10])
def test_results_say_how_many_crops_were_tested(tte_crops, config, few_images):
    from trainer import Trainer

    options = () if tte_crops is None else ("tte", "True", "tte_crops", tte_crops)
    assert execute(Trainer(config(*options, method="zs")))["test"]["crops"] == (tte_crops or 1)


# ---- squash ----

SQUASHED = [(224, 336), (427, 640), (640, 427), (40, 50), (60, 640), (640, 7), (1, 640)]


def cut_from_photo(photo, height, width):
    return photo.transpose(1, 2)[:, :height, :width] if height > 427 else photo[:, :height, :width]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("height, width", SQUASHED)
def test_squashed_images_are_open_clips(photo, height, width, interpolation):
    """As open_clip prepares images for SigLIP 2 and PE: Resize((R, R)), and no crop."""
    image = cut_from_photo(photo, height, width)
    transform = image_transform(
        112, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode="squash", interpolation=interpolation
    )
    expected = (255 * transform(pixels(image))).round().to(torch.uint8)
    found = TestCrops(112, 0, interpolation=interpolation, resize="squash")(image)
    assert found.shape == (1, 3, 112, 112)
    assert levels_apart(found[0], expected) <= 1
    assert (found[0] != expected).float().mean() < 0.03
    assert levels_apart(found, TestCrops(112, 0, interpolation=interpolation)(image)) > 4  # not the shortest rule


@pytest.mark.parametrize("count", [1, 5, 10])
@pytest.mark.parametrize("height, width", SQUASHED)
def test_crops_of_squashed_images_are_torchvisions(photo, height, width, count):
    image = cut_from_photo(photo, height, width)
    resized = tv.Resize((136, 136), Image.Resampling.BICUBIC)(pixels(image))
    cut = {1: lambda whole: [tvf.center_crop(whole, 112)], 5: tv.FiveCrop(112), 10: tv.TenCrop(112)}[count]
    expected = torch.stack([tensor(part) for part in cut(resized)])
    found = TestCrops(112, 24, count, resize="squash")(image)
    assert levels_apart(found, expected) <= 1
    assert (found != expected).float().mean() < 0.03


@pytest.mark.parametrize("height, width", [(100, 60_000), (60_000, 100), (10, 2_000_000), (1, 65_535)])
def test_very_long_images_are_squashed(height, width):
    """As a whole: a ramp along the long side stays a ramp, to its ends."""
    ramp = torch.linspace(0, 255, max(height, width)).to(torch.uint8)
    image = (ramp[:, None] if height > width else ramp).expand(3, height, width).contiguous()
    found = TestCrops(64, 0, resize="squash")(image)[0].float()
    found = found.transpose(1, 2) if height > width else found
    assert (found - 255 * (torch.arange(64) + 0.5) / 64).abs().max() < 2


def test_squashed_crops_of_a_batch_are_those_of_its_images():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 40, 23, 3), np.uint8)).permute(0, 3, 1, 2)
    for crops in (TestCrops(16, 0, resize="squash"), TestCrops(16, 4, 10, resize="squash")):
        assert torch.equal(crops.of_batch(images), torch.stack([crops(image) for image in images]))


@pytest.mark.parametrize(
    ("height", "width", "gap", "expected"), [(896, 2000, 2, 2), (2000, 895, 2, 1), (8000, 896, 1, 4)]
)
def test_a_squashed_jpeg_keeps_enough_pixels_on_both_sides(height, width, gap, expected):
    assert TestCrops(200, 24, reducing_gap=gap, resize="squash").reduction(height, width) == expected
    assert min(height, width) / expected >= gap * 224


@pytest.mark.parametrize(("options", "expand"), [((), 0), (("tte", True), 24), (("expand", 8), 8)])
def test_the_default_expand_of_squash(options, expand):
    options = [str(option) for option in (*options, "resize", "squash", "interpolation", "bilinear")]
    cfg = load_config("digits_lt", "clip_vit_b16", "lift+", options)
    assert build_test_crops(cfg, 224) == TestCrops(224, expand, 5 if cfg.tte else 1, None, "bilinear", "squash")


def test_training_crops_do_not_depend_on_the_resize_rule():
    for mda in (True, False):
        cfgs = [
            load_config("digits_lt", "clip_tiny", "lift+", ["interpolation", "bicubic", "mda", str(mda), *options])
            for options in ((), ("resize", "shortest"), ("resize", "squash"))
        ]
        assert len({build_train_crop(cfg, 32) for cfg in cfgs}) == 1


@pytest.mark.parametrize("tte", [(), ("tte", "True"), ("tte", "True", "tte_draws", "2")])
def test_a_head_starts_from_the_largest_centre_crops(tte):
    keys = ("interpolation", "bilinear", "reducing_gap", "2", *tte)
    for rule in ("shortest", "squash"):
        cfg = load_config("digits_lt", "clip_tiny", "lift+", [*keys, "resize", rule])
        assert build_centre_crop(cfg, 64) == TestCrops(64, 0, 1, 2.0, "bilinear", rule)


# ---- very long images ----

LONG_SIZES = [(30, 640), (427, 40), (100, 640), (640, 100), (61, 299), (7, 600), (1, 640), (640, 1), (5, 21)]


@pytest.mark.slow
@pytest.mark.parametrize("size, crop, count", covering(LONG_SIZES, [(224, 32), (224, 0), (32, 4)], [1, 5, 10]), ids=str)
def test_crops_of_long_images_are_those_of_the_whole(photo, size, crop, count):
    """Only they are resized; the pixels are as if the whole had been, by Pillow. crop: resolution and expand."""
    (height, width), (resolution, expand) = size, crop
    image = photo.transpose(1, 2)[:, :height, :width] if height > 427 else photo[:, :height, :width]
    size, short = resolution + expand, min(height, width)
    whole = resized_by_pillow(image, int(size * height / short), int(size * width / short))
    part = {1: lambda w: tvf.center_crop(w, resolution)[None], 5: tvf.five_crop, 10: tvf.ten_crop}[count]
    parts = part(whole) if count == 1 else torch.stack(part(whole, resolution))
    found = TestCrops(resolution, expand, count)(image)
    apart = (found.int() - parts.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-2


@pytest.mark.parametrize("count", [1, 5, 10])
@pytest.mark.parametrize("height, width", [(100, 60_000), (60_000, 100), (10, 2_000_000), (1, 65_535)])
def test_long_images_are_never_resized_whole(height, width, count, monkeypatch):
    """The last two would need 39 and 13 GB."""
    monkeypatch.setattr(transforms, "resize", lambda *_: pytest.fail("resizes the whole image"))
    image = torch.full((3, height, width), 77, dtype=torch.uint8)
    out = TestCrops(224, 32, count)(image)
    assert out.shape == (count, 3, 224, 224) and (out == 77).all()


def test_both_ways_agree_where_they_meet(photo):
    """On either side of LONG, the crops are within the same bounds of Pillow's."""
    for width in (50 * LONG - 1, 50 * LONG, 50 * LONG + 1, 50 * LONG + 2):
        image = photo[:, 50:100, :width]
        whole = resized_by_pillow(image, 64, int(64 * width / 50))
        assert_same_picture(TestCrops(56, 8)(image)[0], tvf.center_crop(whole, 56), enlarged=True)


# ---- training crops ----


@pytest.mark.parametrize("mda", [True, False])
@pytest.mark.parametrize("height, width", [(427, 640), (60, 90), (1, 1), (12, 640), (427, 9)])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_training_crops_of_photographs_are_pillows(name, height, width, mda):
    """For whole images, some smaller than the crop, and very long ones."""
    photo = torch.from_numpy(helpers.photograph(name).copy()).permute(2, 0, 1)
    image = photo[:, 427 - height :, :width]
    train_crop = TrainCrop(112, seed=5, num_epochs=3, mda=mda)
    expected, enlarged = [], False
    for index in range(20):
        box, mirrored = train_crop.draw(height, width, 1, index)
        part = resized_by_pillow(crop(image, box), 112, 112)
        expected.append(part.flip(2) if mirrored else part)
        enlarged |= min(box[2:]) < 112
    found = torch.stack([train_crop(image, 1, index) for index in range(20)])
    assert_same_picture(found, torch.stack(expected), enlarged)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (40, 23)])
@pytest.mark.parametrize("resolution", [16, 32])
def test_crops_of_a_batch_are_those_of_its_images(shape, resolution):
    """To the last bit, in any batch of images resized together."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (70, *shape, 3), np.uint8)).permute(0, 3, 1, 2)
    samples = [(i % 4, 3 * i) for i in range(70)]
    for crops in (
        TrainCrop(resolution, 1, 5),
        TrainCrop(resolution, 1, 5, mda_func="min"),
        TrainCrop(resolution, 1, 5, mda=False),
        *(TestCrops(resolution, 4, count) for count in (1, 5, 10)),
    ):
        one_by_one = [crops(image, *sample) for image, sample in zip(images, samples, strict=True)]
        assert torch.equal(crops.of_batch(images, samples), torch.stack(one_by_one))
        assert torch.equal(crops.of_batch(images[:1], samples[:1]), one_by_one[0][None])


@pytest.mark.parametrize("mda", [True, False])
def test_training_crop_is_its_box_resized_with_pillow(photo, mda):
    """The box comes from (seed, epoch, index); half of the standard crops are mirrored, none of the minimalist."""
    train_crop = TrainCrop(48, seed=3, num_epochs=5, mda=mda, mda_func="linear")
    mirrored = 0
    for index in range(60):
        rng = np.random.default_rng((3, 2, 1 + index))
        box = square_box(427, 640, 0.54, rng) if mda else random_resized_box(427, 640, rng)
        part = pixels(resized_by_pillow(crop(photo, box), 48, 48))
        found = train_crop(photo, 2, index)
        plain = levels_apart(found, tensor(part))
        flipped = levels_apart(found, tensor(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
        assert min(plain, flipped) <= 1
        mirrored += flipped < plain
    assert mirrored == 0 if mda else 20 <= mirrored <= 40


def test_flips_do_not_depend_on_boxes():
    """As likely for small boxes as for large ones."""
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200)
    train_crop = TrainCrop(8, seed=1, num_epochs=1, mda=False)
    rows = torch.stack([train_crop(ramp, 0, index).int()[0, 0] for index in range(3000)])
    rise = (rows[:, -1] - rows[:, 0]).double()
    flips = (rise < 0).double()
    assert abs(flips.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([flips, rise.abs()]))[0, 1]) < 0.05


# ---- purity ----


@pytest.mark.parametrize("mda", [True, False])
def test_training_crop_depends_on_seed_epoch_and_index_alone(photo, mda):
    def take(seed=1, epoch=1, index=1):
        return TrainCrop(16, seed, num_epochs=9, mda=mda, mda_func="min")(photo, epoch, index)

    first = take()
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    for _ in range(3):
        np.random.rand(), torch.rand(1)
        assert torch.equal(take(), first)
    others = [take(seed=2), take(epoch=2), take(index=2), take(seed=2, epoch=2), take(index=0), take(epoch=0)]
    for i, one in enumerate([first, *others]):
        assert not any(torch.equal(one, other) for other in [first, *others][:i])
    torch.random.set_rng_state(state[0])
    take()
    assert torch.equal(torch.random.get_rng_state(), state[0])


@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (40, 1), (3, 1000)])
def test_every_image_gives_every_crop(height, width):
    image = torch.full((3, height, width), 77, dtype=torch.uint8)
    for transform, shape in (
        (TrainCrop(16, 0, 1), (3, 16, 16)),
        (TrainCrop(16, 0, 1, mda=False), (3, 16, 16)),
        (TestCrops(16, 2), (1, 3, 16, 16)),
        (TestCrops(16, 2, count=5), (5, 3, 16, 16)),
        (TestCrops(16, 0), (1, 3, 16, 16)),
    ):
        out = transform(image, 0, 0)
        assert out.shape == shape
        assert (out == 77).all()


def test_area_shares_are_of_the_image_not_of_the_square():
    """At the smallest share of 0.08, the smallest squares of a 3:2 image are about sqrt(0.08 h w) wide."""
    rng = np.random.default_rng(0)
    sides = [square_box(200, 300, 0.08, rng)[2] for _ in range(3000)]
    assert min(sides) == pytest.approx(math.sqrt(0.08 * 200 * 300), abs=2)
    assert max(sides) >= 198


# ---- LIFT's crops, and random ones ----


@pytest.mark.parametrize("height, width", [(224, 336), (100, 427), (500, 700)])
def test_bilinear_resizing_is_pillows(photo, height, width):
    expected = pixels(photo).resize((width, height), Image.Resampling.BILINEAR)
    found = resize(photo, height, width, "bilinear")
    assert levels_apart(found, torch.from_numpy(np.array(expected)).permute(2, 0, 1)) <= 1
    assert levels_apart(found, resize(photo, height, width)) > 10  # not the bicubic one


@pytest.mark.parametrize("tte", [False, True])
def test_lifts_test_crops_are_torchvisions(photo, tte):
    """One crop: the short side is 8/7 of the resolution; five: it is the resolution + 24."""
    cfg = load_config("imagenet_lt", None, "clip_vit_b16", ["tte", str(tte), "resize", "shortest"])
    size, crop = (248, tv.FiveCrop(224)) if tte else (256, lambda image: [tv.CenterCrop(224)(image)])
    resized = tv.Resize(size, tv.InterpolationMode.BILINEAR)(pixels(photo))
    expected = torch.stack([torch.from_numpy(np.array(part)).permute(2, 0, 1) for part in crop(resized)])
    assert levels_apart(build_test_crops(cfg, 224)(photo), expected) <= 1


@pytest.mark.parametrize("model, resolution, size", [("clip_vit_l14", 224, 245), ("clip_vit_l14@336px", 336, 357)])
def test_patches_of_14_pixels_are_tested_with_21_more(model, resolution, size):
    crops = build_test_crops(load_config("imagenet_lt", None, model, ["tte", "True"]), resolution)
    assert (crops.resolution + crops.expand, crops.count) == (size, 5)


def test_training_crops_are_resized_bilinearly(photo):
    crop = TrainCrop(64, seed=0, num_epochs=1, mda=False, interpolation="bilinear")
    (top, left, height, width), mirrored = crop.draw(427, 640, 0, 5)
    part = pixels(photo[:, top : top + height, left : left + width])
    expected = torch.from_numpy(np.array(part.resize((64, 64), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert levels_apart(crop(photo, 0, 5), expected.flip(2) if mirrored else expected) <= 1


def test_very_long_images_are_resized_bilinearly_too(photo):
    image = photo[:, 200:240]  # 40 x 640: the crop alone is resized
    rows = pixels(image).resize((576, 40), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(rows.resize((576, 36), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    found = TestCrops(32, 4, interpolation="bilinear")(image)[0]
    apart = (found.int() - expected[:, 2:34, 272:304].int()).abs()
    assert apart.max() <= 2 and (apart == 2).float().mean() < 0.01  # two passes, each rounded by its own rule
    assert levels_apart(found, TestCrops(32, 4)(image)[0]) > 5


def test_draws_are_those_of_the_standard_training_crop(photo):
    options = ["tte", "True", "tte_draws", "6", "seed", "3", "interpolation", "bicubic"]
    cfg = load_config("digits_lt", "clip_tiny", "lift+", options)
    assert cfg.mda
    crops = build_test_crops(cfg, 64)
    standard = TrainCrop(64, seed=3, num_epochs=cfg.num_epochs, mda=False)
    expected = torch.stack([standard(photo, FIRST_DRAW + draw, 7) for draw in range(6)])
    assert torch.equal(crops(photo, 0, 7), expected)
    assert len({part.numpy().tobytes() for part in expected}) == 6
    small = photo[:, :40, :40]
    batch = torch.stack([small, small.flip(1)])
    each = torch.stack([crops(image, 0, index) for image, index in zip(batch, (4, 9), strict=True)])
    assert torch.equal(crops.of_batch(batch, [(0, 4), (0, 9)]), each)


def test_draws_decode_as_large_as_the_largest_crop_needs():
    crop = TrainCrop(224, seed=0, num_epochs=1, mda=False, reducing_gap=1.0)
    one = [crop.reduction(2000, 3000, FIRST_DRAW + draw, 1) for draw in range(8)]
    assert len(set(one)) > 1
    assert TestDraws(crop, 8).reduction(2000, 3000, 0, 1) == min(one)
