"""From lists to batches: the order of samples, batches whoever reads them, and decoding against Pillow."""

import multiprocessing
import random

import helpers
import numpy as np
import pytest
import torch
from helpers import levels_apart
from PIL import Image, ImageOps

from datasets.base import DataError, ImageList
from datasets.loader import Loader, TrainSteps, automatic_workers, decode, epoch_order, in_order, read_image
from datasets.transforms import TestCrops, TrainCrop

CPU = torch.device("cpu")


# ---- order ----


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_order_is_a_permutation_of_seed_and_epoch_alone(size):
    orders = {(seed, epoch): epoch_order(seed, epoch, size) for seed in range(3) for epoch in range(4)}
    np.random.seed(5)  # nothing of the global state enters
    for (seed, epoch), order in orders.items():
        assert sorted(order.tolist()) == list(range(size))
        assert np.array_equal(order, epoch_order(seed, epoch, size))
    if size >= 10:
        assert len({tuple(order.tolist()) for order in orders.values()}) == 12


def test_orders_are_uniform():
    """Over epochs, each of the six orders of three samples comes as often as any other."""
    _, counts = np.unique([epoch_order(0, epoch, 3) for epoch in range(6000)], axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("size, batch_size, last", [(10, 4, 2), (12, 4, 4), (3, 8, 3), (1, 1, 1), (9, 1, 1)])
def test_steps_cover_every_sample_once_an_epoch(size, batch_size, last):
    steps = TrainSteps(size, batch_size, seed=3, num_epochs=4)
    listed = list(steps)
    assert len(steps) == len(listed) == 4 * steps.per_epoch
    for epoch in range(4):
        part = listed[epoch * steps.per_epoch : (epoch + 1) * steps.per_epoch]
        assert [len(step) for step in part] == [batch_size] * (steps.per_epoch - 1) + [last]
        samples = [sample for step in part for sample in step]
        assert {e for e, _ in samples} == {epoch}
        assert [index for _, index in samples] == epoch_order(3, epoch, size).tolist()


@pytest.mark.parametrize("first_epoch", [0, 1, 3, 4])
def test_resuming_gives_the_same_later_steps(first_epoch):
    whole = list(TrainSteps(10, 4, seed=1, num_epochs=4))
    resumed = TrainSteps(10, 4, seed=1, num_epochs=4, first_epoch=first_epoch)
    assert list(resumed) == whole[first_epoch * 3 :]
    assert len(resumed) == len(whole) - first_epoch * 3


def test_batch_size_does_not_change_the_order():
    def flat(batch_size):
        return [sample for step in TrainSteps(10, batch_size, seed=1, num_epochs=2) for sample in step]

    assert flat(3) == flat(7) == flat(10)


def test_test_order_is_the_lists_own():
    steps = in_order(np.array([4, 2, 9, 7, 1]), 2)
    assert [[index for _, index in step] for step in steps] == [[4, 2], [9, 7], [1]]


# ---- batches ----


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(helpers.photograph())


@pytest.fixture(scope="module")
def files(tmp_path_factory, photo):
    """Ten pictures in files, of several sizes and formats."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{i}.{'jpg' if i % 2 else 'png'}") for i in range(10)]
    for i, path in enumerate(paths):
        photo.crop((20 * i, 10 * i, 120 + 30 * i, 200)).save(path)
    return ImageList(paths, np.arange(10) % 3)


@pytest.fixture(scope="module")
def memory():
    """Ten pictures in memory."""
    images = np.random.default_rng(0).integers(0, 256, (10, 20, 20, 3), dtype=np.uint8)
    return ImageList(images, np.arange(10) % 4)


def batches(images, workers, batch_size=4, first_epoch=0):
    steps = TrainSteps(10, batch_size, seed=5, num_epochs=3, first_epoch=first_epoch)
    return list(Loader(images, TrainCrop(16, seed=5, num_epochs=3), steps, CPU, workers))


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_batches_are_the_same_whoever_reads_them(kind, request):
    """In this process, in two others, after resuming: the same images, in the same order, to the last bit."""
    images = request.getfixturevalue(kind)
    whole = batches(images, workers=0)
    assert [len(labels) for _, labels in whole] == [4, 4, 2] * 3
    for other in (batches(images, workers=2), batches(images, workers=0)):
        for (x, y), (x2, y2) in zip(whole, other, strict=True):
            assert torch.equal(x, x2) and torch.equal(y, y2)
    for (x, y), (x2, y2) in zip(whole[6:], batches(images, workers=2, first_epoch=2), strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    small = batches(images, workers=0, batch_size=3)
    assert torch.equal(torch.cat([x for x, _ in whole]), torch.cat([x for x, _ in small]))


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_batch_holds_the_crops_and_labels_of_its_samples(kind, request):
    images = request.getfixturevalue(kind)
    steps = TrainSteps(10, 4, seed=5, num_epochs=3)
    crop = TrainCrop(16, seed=5, num_epochs=3)
    for step, (x, y) in zip(steps, batches(images, workers=0), strict=True):
        assert x.dtype == torch.uint8 and x.shape == (len(step), 3, 16, 16)
        assert y.dtype == torch.int64 and y.tolist() == [images.labels[index] for _, index in step]
        for image, (epoch, index) in zip(x, step, strict=True):
            assert torch.equal(image, crop(read_image(images, index), epoch, index))


def test_test_batches_hold_all_crops(files):
    crops = TestCrops(16, 4, five=True)
    loaded = list(Loader(files, crops, in_order(np.arange(10), 4), CPU, 0))
    assert [tuple(x.shape) for x, _ in loaded] == [(4, 5, 3, 16, 16)] * 2 + [(2, 5, 3, 16, 16)]
    assert torch.equal(loaded[2][0][1], crops(read_image(files, 9)))
    assert torch.cat([y for _, y in loaded]).tolist() == files.labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_leaves_the_global_generators_alone(memory, workers):
    def state():
        return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = state()
    batches(memory, workers)
    assert state() == before


def test_memory_is_not_changed(memory):
    before = memory.images.copy()
    batches(memory, workers=0)
    assert np.array_equal(memory.images, before)


def test_small_sets_in_memory_need_no_workers(memory, files):
    assert automatic_workers(memory) == 0
    assert automatic_workers(files) >= 1
    assert automatic_workers(ImageList(np.zeros((2000, 32, 32, 3), np.uint8), np.zeros(2000, int))) >= 1


def test_no_worker_is_left_behind(files):
    iterator = iter(Loader(files, TrainCrop(16, 0, 1), TrainSteps(10, 2, 0, 1), CPU, 2))
    next(iterator)
    assert multiprocessing.active_children()
    iterator.close()
    assert not multiprocessing.active_children()


# ---- what cannot be read ----


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "file, content, message",
    [
        ("gone.jpg", None, "missing"),
        ("gone.png", None, "missing"),
        ("text.jpg", b"hello", "cannot be decoded"),
        ("text.png", b"hello", "cannot be decoded"),
        ("empty.jpg", b"", "cannot be decoded"),
    ],
)
def test_unreadable_image_is_an_error_that_names_it(workers, file, content, message, files, tmp_path):
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    images = ImageList([*files.images[:9], str(path)], files.labels)
    loader = Loader(images, TrainCrop(16, 0, 1), TrainSteps(10, 4, 0, 1), CPU, workers)
    with pytest.raises(DataError, match=f"^the image {path} (is )?{message}"):  # not in a worker's traceback
        list(loader)


BOMB = b"BM\x36\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00" + b"\x00\x00\x01\x00" * 2 + b"\x01\x00\x18"
CUT = ["jpg", "png", "gif", "webp", "tif"]


def test_header_that_claims_a_huge_image_is_an_error_that_names_it(tmp_path):
    """A damaged header: 65,536 pixels square. Pillow refuses it with an exception of its own."""
    (tmp_path / "huge.bmp").write_bytes(BOMB + bytes(100))
    with pytest.raises(DataError, match="huge.bmp"):
        decode(str(tmp_path / "huge.bmp"))


@pytest.mark.parametrize("suffix", CUT)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_cut_image_is_an_error_that_names_it(suffix, share, photo, tmp_path):
    """Never a picture whose lower part is grey."""
    path = tmp_path / f"cut.{suffix}"
    photo.crop((0, 0, 100, 80)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=path.name):
        decode(str(path))


def test_folder_in_the_place_of_an_image_is_an_error_that_names_it(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match="folder.jpg"):
        decode(str(tmp_path / "folder.jpg"))


# ---- decoding ----


def pillows(path):
    """An image file as Pillow reads it: turned as EXIF says, RGB, uint8 [3, H, W]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)


MODES = {
    "grey": ("L", ("jpg", "png", "bmp", "tif", "webp", "gif")),
    "colour": ("RGB", ("jpg", "jpeg", "JPG", "png", "bmp", "tif", "webp")),
    "palette": ("P", ("png", "gif", "bmp", "tif")),
    "transparent": ("RGBA", ("png", "webp", "tif")),
    "grey and transparent": ("LA", ("png",)),
    "inks": ("CMYK", ("jpg", "tif")),
    "black and white": ("1", ("png", "bmp", "tif", "gif")),
}


@pytest.mark.parametrize(
    "kind, suffix", [(kind, suffix) for kind, (_, suffixes) in MODES.items() for suffix in suffixes]
)
def test_image_is_decoded_as_by_pillow(kind, suffix, photo, tmp_path):
    path = str(tmp_path / f"image.{suffix}")
    photo.crop((0, 0, 61, 43)).convert(MODES[kind][0]).save(path)
    found = decode(path)
    assert found.dtype == torch.uint8 and found.shape == (3, 43, 61)
    assert levels_apart(found, pillows(path)) <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_as_exif_says(orientation, suffix, photo, tmp_path):
    path = str(tmp_path / f"image.{suffix}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.crop((0, 0, 64, 48)).save(path, exif=exif)
    found = decode(path)
    assert found.shape == ((3, 48, 64) if orientation < 5 else (3, 64, 48))
    assert levels_apart(found, pillows(path)) <= 1


def test_format_counts_not_the_suffix(photo, tmp_path):
    """ImageNet holds a PNG named JPEG."""
    path = str(tmp_path / "image.jpeg")
    photo.crop((0, 0, 60, 40)).save(path, format="PNG")
    assert torch.equal(decode(path), pillows(path))


def test_sixteen_bits_of_grey_become_eight(photo, tmp_path):
    """Pillow's own conversion would cut all above 255 to white."""
    grey = np.array(photo.crop((0, 0, 60, 40)).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "image.png")
    expected = torch.from_numpy(grey).expand(3, -1, -1)
    assert levels_apart(decode(str(tmp_path / "image.png")), expected) <= 1
