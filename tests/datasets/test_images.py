"""Images in files and in memory with one interface: the same results for the same pictures."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused
from PIL import Image

from datasets import contents, load_data
from datasets.images import ImageList, ImagePaths, ImagePixels
from datasets.loading.crops import TestCrops, TestDraws, TrainCrop
from utils.errors import DataError

COUNT = 6
LABELS = np.arange(COUNT) % 3
CROPS = {
    "minimalist": TrainCrop(8, seed=0, num_epochs=2),
    "standard": TrainCrop(8, seed=0, num_epochs=2, mda=False),
    "five": TestCrops(8, 2, 5),
    "draws": TestDraws(TrainCrop(8, seed=0, num_epochs=2, mda=False), 3),
}


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 12, 16, 3), np.uint8)


@pytest.fixture
def both(pixels, tmp_path):
    """The same pictures in files and in memory."""
    paths = [str(tmp_path / f"{i} é.png") for i in range(COUNT)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    return ImageList.of_paths(paths, LABELS), ImageList.of_pixels(pixels, LABELS)


def test_both_read_the_same_pictures(both, pixels):
    for images in both:
        assert len(images) == len(images.images) == COUNT
        for index, picture in enumerate(pixels):
            assert np.array_equal(images.images.read(index).permute(1, 2, 0).numpy(), picture)


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_both_cut_the_same_crops(crop, both):
    samples = [(1, 4), (0, 0), (1, 5)]
    files, memory = (images.images.read_crops(samples, crop) for images in both)
    assert torch.equal(files, memory)
    alone = [crop(both[1].images.read(index), epoch, index) for epoch, index in samples]
    assert torch.equal(files, torch.stack(alone))


@pytest.mark.parametrize(
    "selection, expected",
    [
        ([4, 0, 4], [4, 0, 4]),
        (np.array([5, 1]), [5, 1]),
        (np.arange(COUNT) % 2 == 1, [1, 3, 5]),
        (slice(None, None, -2), [5, 3, 1]),
        ([], []),
    ],
    ids=["indices", "an array", "a mask", "a slice", "nothing"],
)
def test_a_subset_keeps_images_with_their_labels(selection, expected, both, pixels):
    for images in both:
        subset = images.subset(selection)
        assert len(subset) == len(subset.images) == len(expected)
        assert subset.labels.tolist() == LABELS[expected].tolist()
        for index, original in enumerate(expected):
            assert np.array_equal(subset.images.read(index).permute(1, 2, 0).numpy(), pixels[original])


def test_orientation_is_a_matter_of_files(both, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).save(tmp_path / "turned.png", exif=exif)
    files = ImageList.of_paths([str(tmp_path / "turned.png")], LABELS[:1])
    assert files.images.read(0).shape == (3, 12, 16)
    upright = files.with_orientation(True)
    assert (upright.images.read(0).shape, upright.subset([0]).images.exif_orientation) == ((3, 16, 12), True)
    assert files.images.exif_orientation is False
    assert both[1].with_orientation(True).images.read(0).shape == (3, 12, 16)


def test_names_and_sizes(both, tmp_path):
    files, memory = (images.images for images in both)
    assert files.names(str(tmp_path), "train") == [f"{i} é.png" for i in range(COUNT)]
    assert files.names(None, "train") == files.paths
    assert memory.names(str(tmp_path), "train") == [f"train[{i}]" for i in range(COUNT)]
    assert files.file_bytes(2) == os.path.getsize(files.path(2))
    assert files.content(2) == Path(files.path(2)).read_bytes()
    os.unlink(files.path(2))
    assert files.file_bytes(2) is memory.file_bytes(2) is None


def test_the_digest_of_files_is_of_path_size_and_time(both):
    files, memory = both
    expected = hashlib.sha256()
    for index in (3, 1):
        path = files.images.path(index)
        expected.update(f"{path}\0{os.path.getsize(path)} {os.stat(path).st_mtime_ns}\0".encode())
    assert files.images.digest([3, 1]) == expected.hexdigest()
    assert memory.images.digest([3, 1]) == hashlib.sha256(memory.images.pixels[[3, 1]].tobytes()).hexdigest()
    os.utime(files.images.path(1), ns=(0, 0))
    assert files.images.digest([3, 1]) != expected.hexdigest()
    os.unlink(files.images.path(1))
    gone = hashlib.sha256(f"{files.images.path(1)}\0missing\0".encode()).hexdigest()
    assert files.images.digest([1]) == gone


def test_content_hashes_find_equal_images(pixels, tmp_path):
    for number, content in enumerate((b"a", b"b", b"a")):
        (tmp_path / str(number)).write_bytes(content)
    files = ImagePaths([str(tmp_path / str(number)) for number in range(3)]).content_hashes
    memory = ImagePixels(pixels[[0, 1, 0]]).content_hashes
    for hashes in (files, memory):
        assert hashes.dtype == np.uint64
        assert (hashes[0] == hashes[2], hashes[0] == hashes[1]) == (True, False)


def test_a_data_set_needs_no_configuration():
    data = load_data("digits_lt", many_threshold=50, few_threshold=10)
    assert [int(mask.sum()) for mask in data.groups.values()] == [3, 3, 4]
    with refused(DataError, kind="unknown_data_set"):
        load_data("digits")


@pytest.mark.parametrize("limit", [1, 3, None])
def test_random_images_of_each_class(limit):
    labels = np.array([0] * 20 + [1] * 2 + [2] * 50)
    images = ImageList.of_paths([str(i) for i in range(len(labels))], labels)
    first, drawn = images.some_of_each(3, limit), images.some_of_each(3, limit, seed=0)
    counts = np.minimum([20, 2, 50], limit or 50)
    for indices in (first, drawn):
        assert np.bincount(labels[indices]).tolist() == counts.tolist()
        assert len(set(indices.tolist())) == len(indices)
    assert np.array_equal(drawn, images.some_of_each(3, limit, seed=0))
    assert np.array_equal(first, drawn) == (limit is None)
    assert limit is None or not np.array_equal(drawn, images.some_of_each(3, limit, seed=1))


@pytest.mark.parametrize("threads", [True, False])
def test_the_states_of_files_are_those_of_the_system(threads, tmp_path, monkeypatch):
    """In the order of the list, in more than one chunk; also if no thread can be started."""
    paths = [tmp_path / f"{number}.jpg" for number in range(3 * contents.CHUNK // 2)]
    for number, path in enumerate(paths[:-1]):
        path.write_bytes(b"x" * number)
        os.utime(path, ns=(0, 1000 + number))
    if not threads:

        def no_thread(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("threading.Thread.start", no_thread)
    expected = [(number, 1000 + number) for number in range(len(paths) - 1)] + [(-1, -1)]
    assert contents.file_states([str(path) for path in paths]).tolist() == [list(state) for state in expected]
    assert contents.file_states([]).shape == (0, 2)
