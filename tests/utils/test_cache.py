"""Features from the cache: bit by bit those of a run without it, under a key of all that they depend on."""

import dataclasses
import functools
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import execute
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from datasets import DATASETS
from datasets.images import ImagePaths, ImagePixels
from datasets.loading.crops import TestCrops
from datasets.sets import digits_lt
from models.backbones.vit import VisionTransformer
from trainer import Trainer
from utils import cache as feature_cache
from utils.cache import FeatureCache
from utils.device import runtime
from utils.device.distributed import World
from utils.run import checkpoint


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The folder of a cache that keeps the features of the smallest model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "LEAST_WORK", 1)
    return tmp_path / "cache/lift_plus/features"


def files(place):
    return sorted(place.iterdir()) if place.exists() else []


# ---- whole runs ----


@pytest.fixture
def run(config, monkeypatch):
    """run(KEY, VALUE, ..., method=) -> results, logits, trained tensors, log, and crops that the tower tested."""
    data = digits_lt.build()
    few = dataclasses.replace(data, test=data.test.subset(slice(None, None, 5)))
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: few)
    seen, number = [], itertools.count()

    def count_images(module, images, out):
        if isinstance(module, VisionTransformer) and not torch.is_grad_enabled():
            seen.append(len(out))

    hook = register_module_forward_hook(count_images)

    def run(*options, method):
        seen.clear()
        options = ("save_logits", "True", "output_dir", f"run{next(number)}", *options)
        trainer = Trainer(config(*options, method=method))
        results = execute(trainer)
        trained = checkpoint.trained_tensors(trainer.model).values()
        return SimpleNamespace(
            results=results,
            logits=next(trainer.run_dir.path.glob("logits*")).read_bytes(),
            trained=torch.cat([torch.zeros(1), *(tensor.detach().flatten() for tensor in trained)]),
            log=(trainer.run_dir.path / "log.txt").read_text(),
            images=sum(seen),
        )

    yield run
    hook.remove()


def assert_same(a, b):
    assert a.logits == b.logits
    assert torch.equal(a.trained, b.trained)
    assert a.results["accuracy"] == b.results["accuracy"]
    assert a.results["per_class"] == b.results["per_class"]


@pytest.mark.parametrize("init", ["class_mean", "linear_probing"])
def test_a_head_starts_and_is_tested_from_the_cache_to_the_bit(init, run, place):
    start = functools.partial(run, "classifier_init", init, "num_epochs", 1, method="lp")
    without = start("feature_cache", "False")
    assert not files(place)
    first, second = start(), start()
    assert len(files(place)) == 2  # of the training images, and of the test images
    assert without.images == first.images == 318 + 100  # of the largest class 100 of 124
    assert second.images == 0
    assert_same(without, first)
    assert_same(without, second)
    assert "come from" not in without.log + first.log
    assert second.log.count("features  of 318 images come from") == 1
    assert second.log.count("features  of 100 images come from") == 1
    assert first.results["images_per_second"]["test"] > 0
    assert second.results["images_per_second"]["test"] is None  # of images that it did not compute


@pytest.mark.parametrize("method, crops", [("zs", 1), ("coop", 5), ("clip_adapter", 10), ("proj_tuning", 1)])
def test_the_test_crops_of_a_frozen_tower_come_from_the_cache_to_the_bit(method, crops, run, place):
    options = ("tte", crops > 1, "tte_crops", max(crops, 5), "num_epochs", 1)
    start = functools.partial(run, *options, method=method)
    first, second = start(), start()
    assert (first.images, second.images) == (100 * crops, 0)
    assert len(files(place)) == 1
    assert_same(first, second)


def test_methods_share_the_features_of_one_tower(run, place):
    run(method="zs")
    assert run("num_epochs", 1, method="coop").images == 0
    assert run("num_epochs", 1, "classifier_init", "semantic", method="lp").images == 0
    assert len(files(place)) == 1


def test_a_trained_tower_is_always_computed(run, place):
    for _ in range(2):
        assert run("num_epochs", 1, "classifier_init", "class_mean", method="lift+").images >= 100
    assert len(files(place)) == 1  # of the bare backbone, which the head starts from


def test_a_small_set_is_left_alone(run, place, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.parent.parent))
    run("classifier_init", "class_mean", "num_epochs", 1, method="lp")
    assert not files(place)


# ---- the cache alone ----


class Tower(nn.Module):
    """A feature [b, 4] of images [b, 3, 2, 2]; `calls` counts the batches."""

    dim = 4

    def __init__(self, frozen=True):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(48.0).view(12, 4).sin(), requires_grad=not frozen)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return (images.float().flatten(1) - 1) @ self.weight.detach().float()


def model(frozen=True, mean=0.0, dtype=torch.float32):
    tower = Tower(frozen).to(dtype)
    return SimpleNamespace(tower=tower, features=tower, mean=torch.tensor([mean] * 3), std=torch.ones(3))


PIXELS = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 3), np.uint8)
STEPS = [[(0, 6), (0, 1), (0, 2)], [(0, 3), (0, 4)]]
CENTRE = TestCrops(2, 0)


def gather(images=PIXELS, steps=STEPS, crops=CENTRE, model_=None, weights="abc", on=True, said=None):
    """The features [K, n, D] of a new cache; whether they came from it; batches that the tower computed."""
    model_ = model_ or model()
    cache = FeatureCache(on, weights, World(), [].append if said is None else said.append)
    pixels = PIXELS if isinstance(images, list) else images
    batches = [
        (torch.from_numpy(pixels[[index for _, index in step]]).permute(0, 3, 1, 2)[:, None], None) for step in steps
    ]
    batches = [(batch.repeat(1, crops.count, 1, 1, 1), labels) for batch, labels in batches]
    source = ImagePaths(images) if isinstance(images, list) else ImagePixels(images)
    parts = list(cache.features(model_, iter(batches), source, steps, crops))
    assert [part.shape[1] for part in parts] == [len(step) for step in steps]
    return torch.cat(parts, dim=1), cache.hit, model_.tower.calls


def test_the_second_time_nothing_is_computed(place):
    for crops in (CENTRE, TestCrops(2, 0, 5)):
        (first, *cold), (second, *warm) = gather(crops=crops), gather(crops=crops)
        assert (cold, warm) == ([False, 2 * crops.count], [True, 0])
        assert first.shape == (crops.count, 5, 4)
        assert torch.equal(first, second)
    assert len(files(place)) == 2


def test_whatever_the_features_depend_on_makes_another_key(place, monkeypatch):
    gather()
    pixels = PIXELS.copy()
    pixels[6, 0, 0, 0] ^= 1
    other_order = [STEPS[0][::-1], STEPS[1]]
    other_batches = [STEPS[0] + STEPS[1]]
    changed = [
        {"images": pixels},
        {"steps": other_order},
        {"steps": other_batches},
        {"crops": TestCrops(2, 1)},
        {"crops": TestCrops(3, 0)},
        {"crops": TestCrops(2, 0, 5)},
        {"weights": "abd"},
        {"model_": model(mean=0.5)},
        {"model_": model(dtype=torch.bfloat16)},
    ]
    for number, options in enumerate(changed, 2):
        assert not gather(**options)[1], options
        assert len(files(place)) == number
    unused = PIXELS.copy()
    unused[0] += 1
    assert gather(unused)[1]
    code = feature_cache._digest_of_code()
    for owner, name, value in (
        (runtime, "describe", lambda device: "another device"),
        (runtime, "versions", lambda: {"torch": "0"}),
        (torch, "are_deterministic_algorithms_enabled", lambda: True),
        (feature_cache, "_digest_of_code", lambda: code[::-1]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, value)
            assert not gather()[1], name
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not gather()[1]
    assert gather()[1]


def test_a_file_that_changes_makes_another_key(tmp_path):
    paths = [str(tmp_path / f"{index}.jpg") for index in range(7)]
    for path in paths[1:]:
        Path(path).write_bytes(b"123")
    assert [gather(paths)[1] for _ in range(2)] == [False, True]
    os.utime(paths[3], ns=(0, 5))
    assert [gather(paths)[1] for _ in range(2)] == [False, True]
    Path(paths[3]).write_bytes(b"1234")
    os.utime(paths[3], ns=(0, 5))
    assert [gather(paths)[1] for _ in range(2)] == [False, True]
    os.unlink(paths[3])  # whoever reads it says so
    assert not gather(paths)[1]


@pytest.mark.parametrize("damage", ["empty", "shorter", "a bit", "another file", "other features"])
def test_a_damaged_file_is_computed_anew_with_one_warning(damage, place):
    expected = gather()[0]
    (file,) = files(place)
    content = bytearray(file.read_bytes())
    if damage == "a bit":
        content[-3] ^= 1
    elif damage == "other features":
        gather(crops=TestCrops(2, 0, 5))
        content = next(other for other in files(place) if other != file).read_bytes()
    file.write_bytes({"empty": b"", "shorter": content[:-1], "another file": b"hello"}.get(damage, content))
    said = []
    found, hit, _ = gather(said=said)
    assert torch.equal(found, expected)
    assert not hit
    assert len(said) == 1
    assert said[0].startswith(f"warning: {file} is damaged")
    assert gather()[1]  # it was repaired


def test_what_is_not_kept(place, monkeypatch):
    """A trained tower's, those of a run that wants none, too few, too many, none at all, and of a stopped run."""
    for options in ({"model_": model(frozen=False)}, {"on": False}):
        assert not gather(**options)[1]
    assert not list(FeatureCache(True, "abc", World(), print).features(model(), [], ImagePixels(PIXELS), [], CENTRE))
    for name, value in (("LEAST_WORK", 5 * 48 + 1), ("LARGEST_BYTES", 5 * 4 * 4 - 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feature_cache, name, value)
            gather()
    batches = ((torch.zeros(len(step), 1, 3, 2, 2), None) for step in STEPS)
    parts = FeatureCache(True, "abc", World(), print).features(model(), batches, ImagePixels(PIXELS), STEPS, CENTRE)
    next(parts)
    parts.close()
    assert not files(place)
    monkeypatch.setattr(feature_cache, "LEAST_WORK", 5 * 48)
    monkeypatch.setattr(feature_cache, "LARGEST_BYTES", 5 * 4 * 4)
    gather()
    assert len(files(place)) == 1


def test_a_folder_that_cannot_be_written_costs_a_warning(place, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    for _ in range(2):
        said = []
        assert gather(said=said)[0].shape == (1, 5, 4)
        assert len(said) == 1
        assert said[0].startswith(f"warning: {place}")
        assert "cannot be written" in said[0]


def test_a_write_that_fails_leaves_nothing(place, monkeypatch):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", fail)
    said = []
    gather(said=said)
    assert "No space left" in said[0]
    assert not files(place)


def test_files_that_were_not_used_for_longest_go(place, monkeypatch):
    def kept(weights):
        hit = gather(weights=weights)[1]
        for age, file in enumerate(sorted(files(place), key=lambda file: -file.stat().st_mtime_ns)):
            os.utime(file, ns=(0, 10**9 * (100 - age)))
        return hit

    kept("first")
    monkeypatch.setattr(feature_cache, "FOLDER_BYTES", 3 * files(place)[0].stat().st_size)
    assert not kept("second")
    assert not kept("third")
    assert kept("first")  # used now
    assert not kept("fourth")
    assert len(files(place)) == 3
    assert [kept(weights) for weights in ("first", "third", "fourth", "second")] == [True, True, True, False]


def test_a_relative_cache_folder_counts_as_none(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert feature_cache.folder() == Path("/home/me/.cache/lift_plus/features")


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_keeps_its_share(rank, place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = [[[STEPS[0][r]], [STEPS[1][r]]] for r in range(2)]
    for r in (rank, 1 - rank):
        monkeypatch.setenv("RANK", str(r))
        first, second = gather(steps=shares[r]), gather(steps=shares[r])
        assert (first[1], second[1]) == (False, True)
        assert torch.equal(first[0], second[0])
    assert len(files(place)) == 2
