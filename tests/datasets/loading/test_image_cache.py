"""The cache of image files: the same pixels and errors as without it, in any state of the cache."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused
from PIL import Image

from datasets import image_cache, load_data
from datasets.decoding.decode import decode
from datasets.images import ImageList, ImagePaths
from datasets.loading.crops import TestCrops, TrainCrop
from datasets.loading.loader import Loader
from utils.errors import DataError

CPU = torch.device("cpu")
CROP = TrainCrop(16, 0, 2)


def save(path, seed, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(pixels).save(path, **options)
    return str(path)


@pytest.fixture
def paths(tmp_path):
    """Pictures of several formats; the first one is turned by its EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [("0.jpg", {"exif": exif}), ("1.jpg", {"progressive": True}), ("2.png", {}), ("3.tif", {}), ("4.webp", {})]
    kinds += [("5.tif", {"compression": "tiff_lzw"}), ("6.bmp", {}), ("7.gif", {})]
    listed = [save(tmp_path / name, seed, **options) for seed, (name, options) in enumerate(kinds)]
    deep = tmp_path / "8.png"
    Image.fromarray(np.arange(0, 60_000, 100, dtype=np.uint16).reshape(20, 30)).save(deep)
    return [*listed, str(deep)]


@pytest.fixture
def folder(tmp_path):
    return image_cache.open_cache(str(tmp_path / "cache"))


def prepared(paths, folder, log=None):
    images = ImagePaths(paths, exif_orientation=True, cache=folder)
    images.prepare([].append if log is None else log.append)
    return images


def assert_right(images, paths):
    for index, path in enumerate(paths):
        assert torch.equal(images.read(index), decode(path))


def overwrite(file, position, data):
    with open(file, "r+b") as opened:
        opened.seek(position)
        opened.write(data)


# ---- reading ----


def test_pixels_are_those_of_the_files(paths, folder):
    expected = [decode(path) for path in paths]
    first, log = prepared(paths, folder), []
    second = prepared(paths, folder, log)  # of another run
    assert log == [f"images    9 of 9 are read from the image cache {folder}"]
    for path in paths:
        os.unlink(path)
    for images in (first, second):
        assert all(torch.equal(images.read(index), pixels) for index, pixels in enumerate(expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same(paths, folder, workers):
    images = ImageList.of_paths(paths, np.arange(len(paths)), exif_orientation=True)
    steps = [[(0, 3), (1, 0)], [(1, 8), (0, 5), (0, 0)]]
    for crop in (CROP, TestCrops(16, 4, 5)):
        plain, cached = (
            list(Loader(x, crop, steps, CPU, workers, log=[].append)) for x in (images, images.with_cache(folder))
        )
        for (a, label_a), (b, label_b) in zip(plain, cached, strict=True):
            assert torch.equal(a, b) and torch.equal(label_a, label_b)


def test_files_are_few_and_bounded(paths, folder, monkeypatch):
    prepared(paths, folder)
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".index", ".pack"]  # "" is the lock
    monkeypatch.setattr(image_cache, "PACK_BYTES", 1)
    monkeypatch.setattr(image_cache, "CHUNK_FILES", 4)
    other = image_cache.open_cache(str(folder / "other"))
    images = prepared(paths, other)
    assert len(list(other.glob("*.pack"))) == 3
    assert_right(images, paths)


def test_subsets_and_new_files_are_added(paths, folder):
    prepared(paths[:4], folder)
    log = []
    assert_right(prepared(paths, folder, log), paths)
    assert log[0].startswith("images    5 copied to the image cache")
    part = ImagePaths(paths, cache=folder).subset(np.array([6, 2]))
    part.prepare(log.append)
    assert log[-1].startswith("images    2 of 2 are read from")
    assert sum(file.stat().st_size for file in folder.glob("*.pack")) == sum(map(os.path.getsize, paths))


# ---- files that change, are missing or damaged ----


def test_a_replaced_file_is_read_anew(paths, folder):
    """Also if size and time of modification are as before: the system's time of change is not."""
    status = os.stat(paths[6])
    prepared(paths, folder)
    save(paths[6], seed=99)
    os.utime(paths[6], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(paths[6]).st_size == status.st_size
    log = []
    assert_right(prepared(paths, folder, log), paths)
    assert log[0].startswith("images    1 copied")


def test_a_file_that_changes_while_the_cache_is_filled_is_left_out(paths, folder, monkeypatch):
    read = image_cache._read_original

    def read_late(path, state):
        if path == paths[2]:
            save(path, seed=98)
        return read(path, state)

    monkeypatch.setattr(image_cache, "_read_original", read_late)
    log = []
    images = prepared(paths, folder, log)
    assert log[-1].startswith("images    8 of 9 are read from")
    assert_right(images, paths)


def test_errors_are_those_of_the_files(paths, folder, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    whole = Path(paths[1]).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    bad = [str(tmp_path / f"{name}.jpg") for name in ("empty", "text", "folder", "half", "missing")]
    images = prepared(bad, folder)
    for index, path in enumerate(bad):
        with pytest.raises(DataError) as plain:
            decode(path)
        with pytest.raises(DataError) as cached:
            images.read(index)
        assert (str(cached.value), cached.value.kind, cached.value.reason) == (
            str(plain.value),
            plain.value.kind,
            plain.value.reason,
        )


# ---- a cache that is damaged, cut off, deleted, full or in use ----


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_entry_is_noted_and_replaced(paths, folder, workers):
    prepared(paths, folder)
    (pack,) = folder.glob("*.pack")
    overwrite(pack, os.path.getsize(paths[0]) + 20, b"\xa5\x5a")  # within the second file
    images = ImageList.of_paths(paths, np.zeros(len(paths), int), exif_orientation=True)
    steps, log = [[(0, index)] for index in range(len(paths))], []
    plain, cached = (
        [batch for batch, _ in Loader(x, CROP, steps, CPU, workers, log=log.append)]
        for x in (images, images.with_cache(folder))
    )
    assert all(map(torch.equal, plain, cached))
    assert log[1] == (
        f"warning: 1 of 9 entries in the image cache {folder} are damaged; these images were read from their own files"
    )
    after = prepared(paths, folder, log)
    assert log[-1].startswith("images    9 of 9")
    assert_right(after, paths)
    assert not after.cached.damaged.any()


def test_no_bytes_of_a_damaged_cache_are_used(paths, folder):
    """Bytes of index and pack are replaced at random, and both are cut off anywhere, as by a power failure."""
    prepared(paths, folder)
    (pack,), (index,) = folder.glob("*.pack"), folder.glob("*.index")
    whole = {file: file.read_bytes() for file in (pack, index)}
    rng = np.random.default_rng(0)
    for trial in range(60):
        for file, data in whole.items():
            file.write_bytes(data)
        damaged = (index, pack)[trial % 2]
        if trial < 40:
            overwrite(damaged, int(rng.integers(len(whole[damaged]) - 8)), rng.bytes(8))
        else:
            os.truncate(damaged, int(rng.integers(len(whole[damaged]))))
        images = ImagePaths(paths, cache=folder)
        images.cached = image_cache.CachedFiles(folder, paths)  # and is not filled again
        found = [images.cached.read(number, path) for number, path in enumerate(paths)]
        assert None in found or damaged.read_bytes() == whole[damaged]
        assert all(content in (None, Path(path).read_bytes()) for content, path in zip(found, paths, strict=True))


def test_a_cache_may_be_deleted_while_it_is_used(paths, folder):
    images = prepared(paths, folder)
    for file in folder.iterdir():
        file.unlink()
    samples = [(0, index) for index in range(len(paths))]
    assert torch.equal(images.read_crops(samples, CROP), ImagePaths(paths, True).read_crops(samples, CROP))
    log = []
    images.finish(log.append)
    assert log[0].startswith("warning: 9 of 9 entries")
    assert_right(prepared(paths, folder), paths)


def test_a_full_disk_ends_the_filling_only(paths, folder, monkeypatch):
    write, written = image_cache._write, []

    def write_some(file, data):
        written.append(data)
        if len(written) > 2:
            file.write(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    monkeypatch.setattr(image_cache, "_write", write_some)
    monkeypatch.setattr(image_cache, "CHUNK_FILES", 3)
    log = []
    images = prepared(paths, folder, log)
    assert log == [
        f"warning: the image cache {folder} cannot be filled (No space left on device); "
        "the other images are read from their own files",
        f"images    3 of 9 are read from the image cache {folder}",
    ]
    assert_right(images, paths)
    assert [file.stat().st_size for file in folder.glob("*.pack")] == [sum(map(os.path.getsize, paths[:3]))]
    monkeypatch.undo()
    assert_right(prepared(paths, folder, log), paths)
    assert log[-1].startswith("images    9 of 9")


def test_one_process_at_a_time_fills(paths, folder, monkeypatch):
    monkeypatch.setattr(image_cache, "POLL_SECONDS", 0.01)
    log = []
    with open(folder / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process
        other = threading.Thread(target=prepared, args=(paths, folder, log))
        other.start()
        while not log:
            pass
        assert log == [f"images    waiting for another process that fills the image cache {folder}"]
        assert not list(folder.glob("*.pack"))
    other.join()
    assert log[-1].startswith("images    9 of 9")


# ---- the key ----


def test_the_data_set_has_it(paths, tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "root" / split / name).mkdir(parents=True)
            os.link(paths[1 if split == "train" else 2], tmp_path / "root" / split / name / "1.png")
    data = load_data("folder", str(tmp_path / "root"), image_cache=str(tmp_path / "made" / "here"))
    for images in data.lists.values():
        images.images.prepare()
        assert images.images.cached.read(0, images.images.path(0))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with refused(DataError, kind="unusable_image_cache", key="image_cache"):
        image_cache.open_cache(str(tmp_path / "file"))
