"""From lists to batches: the order of samples, the same batches with any workers, and decoding against Pillow."""

import dataclasses
import multiprocessing
import os
import random
import re
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from PIL import Image

from datasets import images as image_module
from datasets.images import ImageList
from datasets.loading.crops import TestCrops, TrainCrop
from datasets.loading.loader import Loader, to_device
from datasets.loading.sampler import TrainBatchSampler, epoch_order, sequential_batches
from datasets.loading.workers import default_workers, workers_note
from utils.errors import DataError

CPU = torch.device("cpu")


# ---- order ----


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_order_is_a_permutation_of_seed_and_epoch_alone(size):
    orders = {(seed, epoch): epoch_order(seed, epoch, size) for seed in range(3) for epoch in range(4)}
    np.random.seed(5)  # independent of the global state
    for (seed, epoch), order in orders.items():
        assert sorted(order.tolist()) == list(range(size))
        assert np.array_equal(order, epoch_order(seed, epoch, size))
    if size >= 10:
        assert len({tuple(order.tolist()) for order in orders.values()}) == 12


def test_orders_are_uniform():
    """Over epochs, the six orders of three samples occur equally often."""
    _, counts = np.unique([epoch_order(0, epoch, 3) for epoch in range(6000)], axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("size, batch_size, last", [(10, 4, 2), (12, 4, 4), (3, 8, 3), (1, 1, 1), (9, 1, 1)])
def test_steps_cover_every_sample_once_an_epoch(size, batch_size, last):
    steps = TrainBatchSampler(size, batch_size, seed=3, num_epochs=4)
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
    whole = list(TrainBatchSampler(10, 4, seed=1, num_epochs=4))
    resumed = TrainBatchSampler(10, 4, seed=1, num_epochs=4, first_epoch=first_epoch)
    assert list(resumed) == whole[first_epoch * 3 :]
    assert len(resumed) == len(whole) - first_epoch * 3


def test_batch_size_does_not_change_the_order():
    def flat(batch_size):
        return [sample for step in TrainBatchSampler(10, batch_size, seed=1, num_epochs=2) for sample in step]

    assert flat(3) == flat(7) == flat(10)


def test_test_order_is_the_lists_own():
    steps = sequential_batches(np.array([4, 2, 9, 7, 1]), 2)
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
    return ImageList.of_paths(paths, np.arange(10) % 3)


@pytest.fixture(scope="module")
def memory():
    """Ten pictures in memory."""
    images = np.random.default_rng(0).integers(0, 256, (10, 20, 20, 3), dtype=np.uint8)
    return ImageList.of_pixels(images, np.arange(10) % 4)


def batches(images, workers, batch_size=4, first_epoch=0):
    steps = TrainBatchSampler(10, batch_size, seed=5, num_epochs=3, first_epoch=first_epoch)
    return list(Loader(images, TrainCrop(16, seed=5, num_epochs=3), steps, CPU, workers))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "memory"])
def test_batches_are_the_same_whoever_reads_them(kind, request):
    """In this process, in one or three others, after resuming: the same images, in the same order, to the last bit."""
    images = request.getfixturevalue(kind)
    whole = batches(images, workers=0)
    assert [len(labels) for _, labels in whole] == [4, 4, 2] * 3
    for other in (batches(images, workers=workers) for workers in (0, 1, 3)):
        for (x, y), (x2, y2) in zip(whole, other, strict=True):
            assert torch.equal(x, x2) and torch.equal(y, y2)
    for first_epoch in (1, 2):
        resumed = batches(images, workers=3, first_epoch=first_epoch)
        for (x, y), (x2, y2) in zip(whole[3 * first_epoch :], resumed, strict=True):
            assert torch.equal(x, x2) and torch.equal(y, y2)
    for batch_size in (1, 3, 10):
        other = batches(images, workers=0, batch_size=batch_size)
        assert torch.equal(torch.cat([x for x, _ in whole]), torch.cat([x for x, _ in other]))
        assert torch.equal(torch.cat([y for _, y in whole]), torch.cat([y for _, y in other]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_pass_is_as_the_first(workers, files):
    loader = Loader(files, TrainCrop(16, 0, 2, mda=False), TrainBatchSampler(10, 4, 0, 2), CPU, workers)
    for (x, y), (x2, y2) in zip(list(loader), list(loader), strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_empty_step_is_an_empty_batch(kind, request):
    """The share of one of many processes in a last, small step."""
    images = request.getfixturevalue(kind)
    ((x, y),) = Loader(images, TrainCrop(16, 0, 1), [[]], CPU, 0)
    assert x.shape == (0, 3, 16, 16) and x.dtype == torch.uint8
    assert y.shape == (0,) and y.dtype == torch.int64


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_batch_holds_the_crops_and_labels_of_its_samples(kind, request):
    images = request.getfixturevalue(kind)
    steps = TrainBatchSampler(10, 4, seed=5, num_epochs=3)
    crop = TrainCrop(16, seed=5, num_epochs=3)
    for step, (x, y) in zip(steps, batches(images, workers=0), strict=True):
        assert x.dtype == torch.uint8 and x.shape == (len(step), 3, 16, 16)
        assert y.dtype == torch.int64 and y.tolist() == [images.labels[index] for _, index in step]
        for image, (epoch, index) in zip(x, step, strict=True):
            assert torch.equal(image, crop(images.images.read(index), epoch, index))


def test_large_jpegs_are_decoded_smaller_where_that_is_asked_for(photo, tmp_path, monkeypatch):
    """To the fraction required by their crops, which are nearly those of the whole image."""
    seen = []
    reader = image_module.decode
    monkeypatch.setattr(image_module, "decode", lambda *args: seen.append(reader(*args)) or seen[-1])
    photo.resize((1280, 854), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    images = ImageList.of_paths([str(tmp_path / "large.jpg")], np.zeros(1, np.int64))
    for crop in (TrainCrop(64, seed=0, num_epochs=1), TestCrops(64, 9, count=5)):
        loaded = []
        for gap in (None, 2.0):
            ((x, _),) = Loader(images, dataclasses.replace(crop, reducing_gap=gap), [[(0, 0)]], CPU, 0)
            loaded.append(x.float())
        whole, reduced = loaded
        assert [image.shape[1] for image in seen[-2:]] == [854, 214]  # a quarter: 214 >= 2 * 73, and 107 is not
        assert 0 < (whole - reduced).abs().mean() < 3


def test_batches_go_to_a_gpu_beside_its_steps(monkeypatch):
    """Copied on the other stream: steps wait for the copy, and its memory is retained until they have used it."""
    done = []

    class Stream:
        def wait_stream(self, other):
            done.append(("wait", other))

        def __enter__(self):
            done.append("begin")

        def __exit__(self, *_):
            done.append("end")

    class Recorded:
        def to(self, device, non_blocking):
            done.append(("to", device, non_blocking))
            return self

        def record_stream(self, stream):
            done.append(("record", stream))

    copies, steps, gpu = Stream(), Stream(), torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    batch = Recorded(), Recorded()
    assert to_device(batch, gpu, copies) == batch
    copied = ["begin", ("to", gpu, True), ("to", gpu, True), "end"]
    assert done == [*copied, ("wait", copies), ("record", steps), ("record", steps)]


def test_test_batches_hold_all_crops(files):
    crops = TestCrops(16, 4, count=5)
    loaded = list(Loader(files, crops, sequential_batches(np.arange(10), 4), CPU, 0))
    assert [tuple(x.shape) for x, _ in loaded] == [(4, 5, 3, 16, 16)] * 2 + [(2, 5, 3, 16, 16)]
    assert torch.equal(loaded[2][0][1], crops(files.images.read(9)))
    assert torch.cat([y for _, y in loaded]).tolist() == files.labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_leaves_the_global_generators_alone(memory, workers):
    def state():
        return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = state()
    batches(memory, workers)
    assert state() == before


def test_memory_is_not_changed(memory):
    before = memory.images.pixels.copy()
    batches(memory, workers=0)
    assert np.array_equal(memory.images.pixels, before)


def test_small_sets_in_memory_need_no_workers(memory, files):
    assert default_workers(memory) == 0
    assert default_workers(files) >= 1
    assert default_workers(ImageList.of_pixels(np.zeros((2000, 32, 32, 3), np.uint8), np.zeros(2000, int))) >= 1


def cores(monkeypatch, number, processes=1):
    """As on a machine with this number of cores, in one of `processes` processes of torchrun."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(number)))
    for name, value in {"RANK": 0, "WORLD_SIZE": processes, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    "number, processes, workers, expected",
    [
        (2, 1, None, None),
        (2, 1, 0, None),
        (2, 1, 2, None),
        (64, 4, 16, None),
        (1, 2, 0, None),
        (2, 1, 3, "num_workers 3 is more than these 2 cores can run at once, .*; num_workers 2 is one per core"),
        (1, 1, 2, "num_workers 2 is more than this core can run at once, .*; num_workers 1 is one per core"),
        (64, 4, 17, "num_workers 17 in each of 4 processes is more than these 64 cores can .*; num_workers 16 is one"),
        (2, 4, 1, "num_workers 1 in each of 4 processes is more than these 2 cores can .*; num_workers 1 is one"),
    ],
)
def test_more_workers_than_cores_are_one_sentence(monkeypatch, number, processes, workers, expected):
    cores(monkeypatch, number, processes)
    note = workers_note(workers)
    assert note is None if expected is None else re.match(expected, note)


def test_no_worker_is_left_behind(files):
    iterator = iter(Loader(files, TrainCrop(16, 0, 1), TrainBatchSampler(10, 2, 0, 1), CPU, 2))
    next(iterator)
    assert multiprocessing.active_children()
    iterator.close()
    assert not multiprocessing.active_children()


# ---- unreadable images ----


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "file, content, kind",
    [
        ("gone.jpg", None, "missing_image"),
        ("gone.png", None, "missing_image"),
        ("text.jpg", b"hello", "undecodable_image"),
        ("text.png", b"hello", "undecodable_image"),
        ("empty.jpg", b"", "undecodable_image"),
    ],
)
def test_unreadable_image_is_an_error_with_its_path(workers, file, content, kind, files, tmp_path):
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    images = ImageList.of_paths([*files.images.paths[:9], str(path)], files.labels)
    loader = Loader(images, TrainCrop(16, 0, 1), TrainBatchSampler(10, 4, 0, 1), CPU, workers)
    with helpers.refused(DataError, kind=kind, path=path):  # not in a worker's traceback
        list(loader)


# ---- workers ----


class Threads:
    """A crop with the number of threads of its process as pixels."""

    shape = (3, 1, 1)

    def of_batch(self, images, samples):
        return torch.full((len(images), 3, 1, 1), torch.get_num_threads(), dtype=torch.uint8)


def test_workers_have_one_thread_each_and_the_main_process_keeps_its_own(memory):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loaded = list(Loader(memory, Threads(), sequential_batches(np.arange(10), 4), CPU, 2))
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert torch.cat([x for x, _ in loaded]).eq(1).all()
    assert after == 3


def used(pids):
    """Open files, and resident memory in MB, of some processes."""
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return files, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_grows_over_the_epochs(workers, photo, tmp_path):
    """If they were never freed, the images of three epochs would be 96 MB, and the files 120."""
    paths = [str(tmp_path / f"{i}.{'png' if i % 4 == 0 else 'jpg'}") for i in range(40)]
    for i, path in enumerate(paths):
        os.link(paths[i % 4], path) if i > 3 else photo.save(path)
    steps = TrainBatchSampler(40, 8, seed=0, num_epochs=5)
    seen = []
    for number, _ in enumerate(
        Loader(ImageList.of_paths(paths, np.zeros(40, int)), TrainCrop(32, 0, 5), steps, CPU, workers)
    ):
        if number in (2 * steps.per_epoch - 1, 5 * steps.per_epoch - 1):
            seen.append(used([os.getpid(), *(child.pid for child in multiprocessing.active_children())]))
        if number == 5 * steps.per_epoch - 2:
            time.sleep(0.1)
    (files_before, before), (files_after, after) = seen
    assert files_after <= files_before + 20  # some are batches on their way
    assert after <= before + 50


def test_errors_of_other_kinds_are_not_explained_away(memory):
    class Broken:
        shape = (3, 1, 1)

        def of_batch(self, images, samples):
            raise RuntimeError("a mistake")

    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="a mistake") as caught:
            list(Loader(memory, Broken(), sequential_batches(np.arange(10), 4), CPU, workers))
    assert "in of_batch" in str(caught.value.__cause__)  # where it was made, in the worker
