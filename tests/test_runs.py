"""Whole runs: every method, head, initialisation, loss and family of backbones trains and tests on digits_lt."""

import dataclasses
import json

import cases
import helpers
import numpy as np
import pytest
import torch
from helpers import assert_one_sentence, execute

import main as cli
from datasets import DATASETS
from datasets.base import DataSet
from datasets.loading.crops import build_test_crops
from datasets.sets import digits_lt
from models.heads import HEAD_INITS, HEADS
from models.heads.init import class_mean
from models.losses import LOSSES
from models.weights.load import load_backbone
from trainer import Trainer
from utils.config import config_names
from utils.config.schema import KEYS, methods_of
from utils.run import checkpoint

pytestmark = pytest.mark.slow

CHANCE = 10  # percent
FULL_CLIP = ("weights", "asset:clip_tiny.safetensors")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(method, options..., backbone=) -> results.json of a run of one epoch.

    With 8 images of a class at most to train with, and 10 to test with.
    """
    monkeypatch.chdir(tmp_path)
    data = digits_lt.build()
    train, test = data.train.subset(data.train.some_of_each(10, 8)), data.test.subset(slice(None, None, 5))
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: dataclasses.replace(data, train=train, test=test))

    def run(method, *options, backbone="clip_tiny"):
        quick = ("num_epochs", 1, "num_workers", 0, "output_dir", "run", "report", "False")
        flags = ["-d", "digits_lt", "-b", backbone, "-m", method]
        assert cli.main([*flags, *map(str, (*quick, *options))]) == 0
        return json.loads((tmp_path / "output/run/results.json").read_text())

    return run


@pytest.mark.parametrize("method", config_names("method"))
def test_every_method_trains_and_tests(method, run):
    """One epoch at a small learning rate suffices to beat chance by far; a random context needs longer."""
    results = run(method, "lr", 0.002)
    assert results["accuracy"]["overall"] > (2 * CHANCE if method == "coop" else 5 * CHANCE)
    assert (results["params"]["trained"] > 0) == (method != "zs")


@pytest.mark.parametrize("method", methods_of("blocks"))
def test_every_method_of_the_text_tower_trains_and_tests(method, run):
    results = run("coop", "coop", "False", f"l.{method}", "True", "lr", 0.002)
    assert results["accuracy"]["overall"] > 3 * CHANCE
    assert results["params"]["peft"] == results["params"]["trained"] > 0


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_trains_and_tests(loss_type, run):
    assert run("lift+", "loss_type", loss_type, "lr", 0.002)["accuracy"]["overall"] > 5 * CHANCE


@pytest.mark.parametrize(("head", "init"), cases.covering(list(HEADS), [*HEAD_INITS, "None"], together=1))
def test_every_head_and_every_start_train_and_test(head, init, run):
    """models/heads/test_heads.py has every pair of them, without a run."""
    results = run("lp", "classifier", head, "classifier_init", init)
    assert results["accuracy"]["overall"] > (2 * CHANCE if init == "None" else 5 * CHANCE)


@pytest.mark.parametrize("options", [(), ("coop_cls_pos", "front"), ("coop_cls_pos", "middle"), ("coop_init", "photo")])
def test_every_form_of_coop_trains_and_tests(options, run):
    results = run("coop", "num_epochs", 3, *options)
    assert results["params"]["trained"] == (5 if "photo" in options else 4) * 64
    assert results["accuracy"]["overall"] > (5 if "photo" in options else 2) * CHANCE


def test_everything_at_once(run):
    """Any combination: every method in both towers, context, adapters and projections."""
    options = [part for tower in "vl" for method in methods_of("blocks") for part in (f"{tower}.{method}", "True")]
    results = run("coop", "clip_adapter", "True", "proj_tuning", "True", "lr", 0.0005, *options)
    assert results["accuracy"]["overall"] > 2 * CHANCE


# ---- ResNets ----


@pytest.fixture(scope="module")
def clip_resnet(tmp_path_factory):
    """The options for a small CLIP ResNet with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    helpers.clip_resnet_pair(folder)
    return ("weights", folder / "clip_rn.safetensors", "lr", 0.002, "activation", "quick_gelu", "mean", "clip")


OF_RESNETS = ["lp", "fft", "bitfit", "ssf"]  # each in one of the two forms; with --cases full in both


@pytest.mark.parametrize(
    "method", [*(OF_RESNETS if cases.FULL else OF_RESNETS[:2]), "zs", "coop", "proj_tuning", "clip_adapter"]
)
def test_a_clip_resnet_trains_and_tests(method, run, clip_resnet, capsys):
    results = run(method, *clip_resnet, backbone="clip_rn")
    assert 0 <= results["accuracy"]["overall"] <= 100
    if method == "proj_tuning":  # there is no image projection: the attention pool ends in one
        assert results["params"]["trained"] == helpers.TEXT_DIM * helpers.CLIP_JOINT


@pytest.mark.parametrize("method", OF_RESNETS if cases.FULL else OF_RESNETS[2:])
def test_an_imagenet_resnet_trains_and_tests(method, run, tmp_path, monkeypatch):
    """It supports only images of 224 pixels, so there are few of them here."""
    data = digits_lt.build("digits_lt", None)
    train, test = (part.subset(slice(None, None, 25)) for part in (data.train, data.test))
    few = DataSet("digits_lt", data.classnames, train, test)
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: few)
    helpers.resnet_pair(tmp_path)
    options = ("weights", tmp_path / "rn.safetensors", "classifier_init", "None", "lr", 0.002, "mean", "imagenet")
    assert run(method, *options, backbone="rn")["params"]["trained"] > 0


@pytest.mark.parametrize("method", ["lift+", "lora", "pt", "adapter", "aft", "ln_tuning"])
def test_other_methods_refuse_a_resnet_by_name(method, clip_resnet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["-d", "digits_lt", "-b", "clip_rn", "-m", method]
    assert cli.main([*flags, *map(str, clip_resnet)]) == 2
    assert_one_sentence(capsys.readouterr().err)


# ---- texts that train ----


@pytest.mark.parametrize("options", [("coop", "True"), ("coop", "False", "l.lora", "True", "v.adapter", "True")])
def test_a_killed_run_of_trained_texts_resumes_bit_by_bit(config, options, few_images):
    def cfg(*more):
        return config("num_epochs", 3, "classifier_scale", 25, *options, *more, method="coop")

    whole = Trainer(cfg("output_dir", "whole"))
    expected = execute(whole)
    with Trainer(cfg()) as killed:
        killed.fit(1)
    resumed = Trainer(cfg())
    assert execute(resumed)["accuracy"] == expected["accuracy"]
    files = [run.run_dir.path / "checkpoint.safetensors" for run in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    tested = execute(Trainer(cfg("test_only", "True")))
    assert tested["per_class"] == expected["per_class"]


def test_frozen_text_stays_as_it_was(config, few_images):
    run = Trainer(config("coop", "False", "l.bitfit", "True", "l.bitfit_layers", 1, method="coop"))
    execute(run)
    fresh = load_backbone("clip_vit", run.cfg.weights)[0].text
    prefix, biases = "head.texts.tower.", [name for name, _ in fresh.blocks[1].named_parameters() if "bias" in name]
    names = {f"{prefix}blocks.1.{name}" for name in biases}
    assert set(checkpoint.trainable_tensors(run.model)) == names
    found = dict(run.model.named_parameters())
    for name, parameter in fresh.named_parameters():
        assert torch.equal(found[prefix + name], parameter) == (prefix + name not in names), name


@pytest.mark.parametrize("options", [("coop", "True"), ("coop", "False", "l.fft", "True", "clip_adapter", "True")])
def test_parts_change_nothing_for_trained_texts(config, options, few_images):
    def weights(*more):
        run = Trainer(config("num_epochs", 1, *FULL_CLIP, *options, *more, method="coop"))
        execute(run)
        return checkpoint.trainable_tensors(run.model)

    whole, parts = weights(), weights("accum_step", 4)
    for name in whole:
        assert (whole[name] - parts[name]).abs().max() < 2e-6, name


# ---- save_logits, and the number of images for the initialisation of a head ----


@pytest.mark.parametrize("method", ["zs", "lift+"])
def test_saved_logits_are_those_of_the_test(config, method, few_images):
    run = Trainer(config("save_logits", "True", method=method))
    results = execute(run)
    with np.load(run.run_dir.path / "logits_test.npz") as file:
        logits, labels = file["logits"], file["labels"]
    assert (logits.dtype, logits.shape) == (np.float32, (100, 10))
    assert labels.dtype == np.int64
    assert (labels == run.data.test.labels).all()
    assert results["accuracy"]["overall"] == pytest.approx(100 * (logits.argmax(1) == labels).mean())
    images = torch.from_numpy(run.data.test.images.pixels[:1]).permute(0, 3, 1, 2)
    crop = build_test_crops(run.cfg, 32)(images[0])
    with torch.no_grad():
        assert np.allclose(run.model(crop).numpy(), logits[:1], rtol=1e-4, atol=1e-4)

    before = (run.run_dir.path / "logits_test.npz").read_bytes()
    execute(Trainer(config("save_logits", "True", "tte", "True", "test_only", "True", method=method)))
    execute(Trainer(config("save_logits", "True", "test_train", "True", method=method)))
    assert (run.run_dir.path / "logits_test.npz").read_bytes() == before
    for what, count in (("tte", 100), ("train", 69)):
        with np.load(run.run_dir.path / f"logits_{what}.npz") as file:
            assert file["logits"].shape == (count, 10)


@pytest.mark.parametrize("images", [1, 10, 100])
def test_a_head_starts_from_so_many_images_a_class(config, images, monkeypatch):
    """LIFT's 1_shot, 10_shot and 100_shot."""
    gathered = []

    def record(backbone, classnames, features, *texts):
        gathered.append(features())
        return class_mean(backbone, classnames, lambda: gathered[0])

    monkeypatch.setitem(HEAD_INITS, "class_mean", record)
    execute(Trainer(config("init_head", f"{images}_shot", "num_epochs", 1, method="lp")))
    features, labels = gathered[0]
    assert np.bincount(labels).tolist() == [min(images, n) for n in (124, 80, 51, 33, 21, 14, 9, 5, 3, 2)]
    assert features.shape == (len(labels), 128)
    assert (features.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_the_tables_and_this_file_agree():
    assert {"zs", "lift+", "coop"} <= set(config_names("method"))
    assert KEYS["save_logits"].default is False
