"""Features from the cache equal those of a run without it, bit for bit, under a key of all their dependencies."""

import dataclasses
import functools
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import FULL
from helpers import train, weights
from torch import nn

import trainer
from datasets import DATASETS
from datasets.images import ImagePaths, ImagePixels
from datasets.sets import digits_lt
from models import extractor
from models import features as module
from models.features import cached_features
from models.weights.load import load_backbone
from utils.cache import TensorCache
from utils.device import environment, precision


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of a cache that stores the features of the smallest model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LEAST_WORK", 1)
    return tmp_path / "cache/lift_plus/features"


def files(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


# ---- the function ----


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


CROPS = torch.arange(5 * 2 * 12, dtype=torch.uint8).view(5, 2, 3, 2, 2)  # two of each of five images


def gather(model_=None, sizes=(3, 2), num_crops=2, enabled=True, **key):
    """The features [K, n, D] with a new cache; whether they came from it; batches that the tower computed."""
    model_, cache = model_ or model(), TensorCache("features", enabled, [].append)
    batches = iter(CROPS[:, :num_crops].split(list(sizes)))
    parts, hit = cached_features(model_, batches, sizes, num_crops, cache, lambda: {"images": "abc"} | key)
    parts = list(parts)
    assert [part.shape[1] for part in parts] == list(sizes)
    assert hit == (next(batches, None) is not None)  # then no batch is read
    return torch.cat(parts, dim=1), hit, model_.tower.calls


def test_the_second_time_nothing_is_computed(folder):
    for num_crops in (1, 2):
        (first, *cold), (second, *warm) = gather(num_crops=num_crops), gather(num_crops=num_crops)
        assert (cold, warm) == ([False, 2 * num_crops], [True, 0])
        expected = [model().features(crops) for crops in CROPS[:, :num_crops].unbind(1)]
        assert torch.equal(first, torch.stack(expected))
        assert torch.equal(first, second)
    assert len(files(folder)) == 2


def test_whatever_the_features_depend_on_is_in_the_key(folder, monkeypatch):
    gather()
    changed = [
        {"images": "abd"},
        {"weights": "other"},
        {"sizes": (5,)},
        {"num_crops": 1},
        {"model_": model(mean=0.5)},
        {"model_": model(dtype=torch.bfloat16)},
    ]
    for number, options in enumerate(changed, 2):
        assert not gather(**options)[1], options
        assert len(files(folder)) == number
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not gather()[1]


def test_features_that_are_not_cached(folder, monkeypatch):
    """Those of a trainable tower, of a run without a cache, too few, too many, and none."""

    def not_needed():
        raise AssertionError("the key is not needed")

    def compute(model_, enabled=True):
        cache = TensorCache("features", enabled, print)
        parts, hit = cached_features(model_, iter([CROPS]), [5], 2, cache, not_needed)
        assert len(list(parts)) == 1
        assert not hit

    compute(model(frozen=False))
    compute(model(), enabled=False)
    for name, value in (("LEAST_WORK", 2 * 5 * 48 + 1), ("LARGEST_BYTES", 2 * 5 * 4 * 4 - 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, value)
            compute(model())
    parts, hit = cached_features(model(), iter([]), [], 2, TensorCache("features", True, print), not_needed)
    assert (list(parts), hit) == ([], False)
    assert not files(folder)
    monkeypatch.setattr(module, "LEAST_WORK", 2 * 5 * 48)
    monkeypatch.setattr(module, "LARGEST_BYTES", 2 * 5 * 4 * 4)
    gather()
    assert len(files(folder)) == 1


# ---- images in the key ----


def test_pixels_are_hashed_in_order():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 3), np.uint8)
    digest = ImagePixels(pixels).digest([6, 1, 2])
    assert ImagePixels(pixels).digest([1, 6, 2]) != digest
    changed = pixels.copy()
    changed[0] += 1  # not among the indices
    assert ImagePixels(changed).digest([6, 1, 2]) == digest
    changed[6, 0, 0, 0] ^= 1
    assert ImagePixels(changed).digest([6, 1, 2]) != digest


def test_a_file_that_changes_has_another_hash(tmp_path):
    paths = [str(tmp_path / f"{index}.jpg") for index in range(7)]
    for path in paths[1:]:
        Path(path).write_bytes(b"123")
    digests = [ImagePaths(paths).digest([1, 2, 3])]

    def changed():
        digests.append(ImagePaths(paths).digest([1, 2, 3]))
        return digests[-1] not in digests[:-1]

    os.utime(paths[4], ns=(0, 5))
    assert not changed()
    os.utime(paths[3], ns=(0, 5))
    assert changed()
    Path(paths[3]).write_bytes(b"1234")
    os.utime(paths[3], ns=(0, 5))
    assert changed()
    os.unlink(paths[3])  # the loader reports it
    assert changed()


# ---- whole runs ----


@pytest.fixture
def run(config, monkeypatch):
    """run(KEY, VALUE, ..., method=) -> results, logits, trainable tensors, log, and crops that the tower tested."""
    data = digits_lt.build()
    test = data.test.subset(slice(None, None, 5))
    seen, number = [], itertools.count()

    def count_images(called, inputs, output):
        if hasattr(called, "resolution") and torch.is_inference_mode_enabled():  # an image encoder, in a test
            seen.append(len(output))

    handle = nn.modules.module.register_module_forward_hook(count_images)

    def run(*options, method, every=5):  # of so many training images one
        seen.clear()
        few = dataclasses.replace(data, train=data.train.subset(slice(None, None, every)), test=test)
        monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: few)
        options = ("save_logits", "True", "output_dir", f"run{next(number)}", *options)
        trainer, results = train(config(*options, method=method))
        return SimpleNamespace(
            results=results,
            logits=next(trainer.run_dir.path.glob("logits*")).read_bytes(),
            trainable=torch.cat([torch.zeros(1), *(tensor.flatten() for tensor in weights(trainer).values())]),
            log=(trainer.run_dir.path / "log.txt").read_text(),
            images=sum(seen),
        )

    yield run
    handle.remove()


def assert_same(a, b):
    assert a.logits == b.logits
    assert torch.equal(a.trainable, b.trainable)
    assert a.results["accuracy"] == b.results["accuracy"]
    assert a.results["per_class"] == b.results["per_class"]


@pytest.mark.parametrize("init", ["class_mean", "linear_probing"] if FULL else ["linear_probing"])
def test_a_head_starts_and_is_tested_from_the_cache_to_the_bit(init, run, folder):
    start = functools.partial(run, "classifier_init", init, "num_epochs", 1, method="lp", every=1)
    without = start("feature_cache", "False")
    assert not files(folder)
    first, second = start(), start()
    assert len(files(folder)) == 2  # of the training images, and of the test images
    assert without.images == first.images == 318 + 100  # of the largest class 100 of 124
    assert second.images == 0
    assert_same(without, first)
    assert_same(without, second)
    assert "come from" not in without.log + first.log
    assert second.log.count("features  of 318 images come from") == 1
    assert second.log.count("features  of 100 images come from") == 1
    assert first.results["images_per_second"]["test"] > 0
    assert second.results["images_per_second"]["test"] is None  # of images that it did not compute


TESTED = [("coop", 5), ("proj_tuning", 1)] + ([("zs", 1), ("clip_adapter", 10)] if FULL else [])


@pytest.mark.parametrize("method, crops", TESTED)
def test_the_test_crops_of_a_frozen_tower_come_from_the_cache_to_the_bit(method, crops, run, folder):
    options = ("tte", crops > 1, "tte_crops", max(crops, 5), "num_epochs", 1)
    start = functools.partial(run, *options, method=method)
    first, second = start(), start()
    assert (first.images, second.images) == (100 * crops, 0)
    assert len(files(folder)) == 1
    assert_same(first, second)


def test_methods_share_the_features_of_one_tower(run, folder):
    run(method="zs")
    assert run("num_epochs", 1, method="coop").images == 0
    assert run("num_epochs", 1, "classifier_init", "semantic", method="lp").images == 0
    assert len(files(folder)) == 1


def test_a_test_in_another_way_computes_its_own_features(run, folder, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    run(method="zs")
    changes = [("expand", 9), ("interpolation", "bilinear"), ("resize", "squash"), ("prec_test", "bf16")]
    changes += [("prec_test", "int8")] if precision.cpu_has_int8() else []
    for number, change in enumerate(changes, 2):
        assert run(*change, method="zs").images == 100, change
        assert len(files(folder)) == number


def test_another_machine_computes_its_own_features(run, folder):
    run(method="zs")
    changes = [
        (environment, "describe", lambda *device: {"torch": "another"}),
        (environment, "versions", lambda *device: {"torch": "another"}),
        (extractor, "sha256_of_code", lambda *folders: "another version"),
        (trainer, "environment", lambda device, size, plain=trainer.environment: plain(device, 2)),
    ]
    for number, change in enumerate(changes, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*change)
            assert run(method="zs").images == 100, change
        assert len(files(folder)) == number


def test_a_trained_tower_is_always_computed(run, folder):
    for _ in range(2):
        assert run("num_epochs", 1, "classifier_init", "class_mean", method="lift+", every=1).images >= 100
    assert len(files(folder)) == 1  # of the bare backbone, from which the head is initialised


def test_a_small_set_is_not_cached(run, folder, monkeypatch):
    monkeypatch.setattr(module, "LEAST_WORK", 2e10)
    run("classifier_init", "class_mean", "num_epochs", 1, method="lp", every=1)
    assert not files(folder)


def texts_features(cache, names, backbone, key="weights"):
    """The features of class names through the cache, and the number of texts that the tower encoded."""
    encoded = []
    handle = backbone.text.register_forward_hook(lambda tower, inputs, output: encoded.append(len(output)))
    backbone.recall = functools.partial(module.cached_text_features, cache, lambda: {"key": key}, backbone)
    features = backbone.encode_classnames(names)
    handle.remove()
    return features, sum(encoded)


def test_the_features_of_class_texts_come_from_the_cache_to_the_bit(folder, monkeypatch):
    lines, (backbone, _) = [], load_backbone("clip_tiny")
    names, cache = ["one", "two", "three"], TensorCache("features", True, lines.append)
    plain = backbone.encode_classnames(names)
    assert texts_features(cache, names, backbone)[1] == 3  # too few to be worth a file
    assert not files(folder)
    monkeypatch.setattr(module, "LEAST_TEXT_WORK", 1)
    first, second = texts_features(cache, names, backbone), texts_features(cache, names, backbone)
    assert (first[1], second[1], len(lines)) == (3, 0, 1)
    assert torch.equal(first[0], plain)
    assert torch.equal(second[0], plain)
    assert texts_features(cache, names[:2], backbone)[1] == 2  # other texts
    assert texts_features(cache, names, backbone, key="other weights")[1] == 3
