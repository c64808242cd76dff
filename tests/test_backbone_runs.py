"""Whole runs of each published family, from a repository of the hub with small random weights."""

import dataclasses
import json
from pathlib import Path

import cases
import helpers
import numpy as np
import open_clip
import published
import pytest
import timm
import torch
from helpers import assert_near, assert_one_sentence, train
from published import MEAN, OPEN_CLIP, STD, TIMM
from text_towers import KINDS, tokenizer_of

import main as cli
from datasets import DATASETS
from datasets.loading.crops import build_test_crops
from datasets.sets import digits_lt
from models import load_run
from models.backbones import BACKBONES
from models.backbones.tokenizer import class_prompts
from models.weights.descriptions import read
from trainer import Trainer
from utils.config import load_config

FAMILIES = [*TIMM, *OPEN_CLIP]
OF_EACH_KIND = ["augreg", "dinov3", "eva02_clip", "siglip2"]  # learned positions, rotations, both, and no class token
QUICK = ("num_epochs", 1, "num_workers", 0, "batch_size", 32, "output_dir", "run", "report", "False")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """serve(...), see build_hub; runs are in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return published.build_hub(tmp_path, monkeypatch)


@pytest.fixture
def online(hub):
    """online(NAME) -> a context in which the hub has test/NAME."""
    return lambda name: hub({f"test/{name}": published.repository(name)[1]})


@pytest.fixture
def few_images(monkeypatch):
    """Up to four training images of each class of digits_lt, and every 25th image to test with: 2 of each class."""
    data = digits_lt.build()
    train, test = data.train.subset(data.train.some_of_each(10, 4)), data.test.subset(slice(None, None, 25))
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: dataclasses.replace(data, train=train, test=test))


@pytest.fixture
def run(few_images, capsys):
    """run(NAME, options...) -> results.json of a successful command."""

    def run(name, *options, method="lift+", file="results.json"):
        start = () if name in OPEN_CLIP else ("classifier_init", "class_mean")
        flags = ["-d", "digits_lt", "-b", f"hf-hub:test/{name}", "-m", method]
        status = cli.main([*flags, *map(str, (*QUICK, *start, *options))])
        assert (capsys.readouterr().err, status) == ("", 0)
        return json.loads(Path("output/run", file).read_text())

    return run


def config_of(name, *options, method="lift+"):
    """The configuration of such a command, in float32."""
    start = () if name in OPEN_CLIP else ("classifier_init", "class_mean")
    given = (*QUICK, "prec_train", "fp32", "prec_test", "fp32", *start, *options)
    return load_config("digits_lt", f"hf-hub:test/{name}", method, [str(option) for option in given])


def tokens_of(name, texts):
    """By open_clip's own tokenizer, or by SigLIP's, which has its own test (test_tokenizers.py)."""
    if name == "siglip2":
        return tokenizer_of(KINDS["siglip2"][1])(texts)
    return open_clip.get_tokenizer("ViT-B-16", context_length=OPEN_CLIP[name][1]["context_length"])(texts)


def described(name):
    """Interpolation and resize rule of a repository, as values of the keys."""
    given = TIMM[name][1] if name in TIMM else OPEN_CLIP[name][2]
    rule = given.get("crop_mode") or given.get("resize_mode")
    return given["interpolation"], "squash" if rule == "squash" else "shortest"


# ---- every family ----


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_and_tests_and_needs_the_hub_once(name, online, run):
    with online(name) as asked:
        results = run(name, "prec_train", "fp32", "prec_test", "fp32")
    assert any(path.endswith(".safetensors") for path in asked)
    settings = results["settings"]
    assert settings["backbone"] == results["weights"]["name"] == f"hf-hub:test/{name}"
    assert (settings["interpolation"], settings["resize"]) == described(name)
    assert (settings["mean"], settings["std"], settings["heads"]) == (MEAN, STD, 2)
    log = Path("output/run/log.txt").read_text()
    assert f"backbone  hf-hub:test/{name}, 32 pixels" in log
    assert "mean 0.4 0.5 0.6" in log
    assert (name in OPEN_CLIP) or "licence mit" in log

    tested = run(name, "prec_train", "fp32", "prec_test", "fp32", "test_only", "True", file="results_test.json")
    assert tested["accuracy"] == results["accuracy"]  # the server is off
    data = DATASETS["digits_lt"]()
    predicted = load_run("output/run").logits(data.test.images).argmax(1)
    assert 100 * (predicted == data.test.labels).mean() == pytest.approx(results["accuracy"]["overall"])


# ---- uses ----


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_zero_shot_logits_are_open_clips(name, online, run, few_images):
    """The whole command, from the picture to the saved logits."""
    with online(name):
        results = run(name, "prec_test", "fp32", "save_logits", "True", method="zs")
    assert results["params"]["trained"] == 0
    saved = np.load("output/run/logits_test.npz")
    theirs, _ = published.repository(name)
    data = DATASETS["digits_lt"]()
    assert np.array_equal(load_run("output/run").logits(data.test.images), saved["logits"])
    interpolation, resize = described(name)
    cfg = config_of(name, "interpolation", interpolation, "resize", resize, method="zs")
    crop = build_test_crops(cfg, 32)
    crops = torch.cat([crop(torch.from_numpy(pixels).permute(2, 0, 1)) for pixels in data.test.images.pixels])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        logits = theirs.get_logits((crops / 255 - mean) / std, tokens_of(name, class_prompts(data.classnames)))[0]
    assert_near(torch.from_numpy(saved["logits"]), logits, 2e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", ()),
        ("pt", ()),
        ("coop", ()),
        ("coop", ("coop", "False", "clip_adapter", "True")),
        ("coop", ("coop", "False", "l.lora", "True")),
        ("coop", ("l.pt", "True", "v.adapter", "True", "proj_tuning", "True", "clip_adapter", "True")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_methods_of_both_towers(method, options, online, run):
    with online("siglip2"):
        results = run("siglip2", *options, method=method)
    assert results["params"]["trained"] > 0
    tested = run("siglip2", *options, "test_only", "True", method=method, file="results_test.json")
    assert tested["accuracy"] == results["accuracy"]


@pytest.mark.parametrize("name", ["siglip2", "dinov3"])
def test_an_interrupted_run_resumes_bit_by_bit(name, online, few_images):
    with online(name):
        whole, expected = train(config_of(name, "num_epochs", 2, "output_dir", "whole"))
    with Trainer(config_of(name, "num_epochs", 2)) as killed:
        killed.fit(1)
    resumed, results = train(config_of(name, "num_epochs", 2))  # the server is off
    assert "resuming after epoch 1" in (resumed.run_dir.path / "log.txt").read_text()
    files = [each.run_dir.checkpoint.read_bytes() for each in (whole, resumed)]
    assert files[0] == files[1]
    assert results["accuracy"] == expected["accuracy"]


# ---- resolutions ----


@pytest.mark.parametrize("name", FAMILIES if cases.FULL else OF_EACH_KIND)
def test_a_run_in_bfloat16_at_another_resolution(name, online, run):
    """Its checkpoint is for that resolution."""
    options = ("resolution", 48, "prec_train", "bf16", "prec_test", "bf16")
    with online(name):
        results = run(name, *options)
    assert results["params"]["trained"] > 0
    log = Path("output/run/log.txt").read_text()
    assert "made for images of 32 pixels, used at 48" in log
    assert f"hf-hub:test/{name}, 48 pixels" in log
    tested = run(name, *options, "test_only", "True", file="results_test.json")
    assert tested["accuracy"] == results["accuracy"]


@pytest.mark.parametrize(("name", "method"), [("dinov3", "lift+"), ("laion", "fft")])
def test_a_checkpoint_is_tested_at_its_own_resolution(name, method, online, run):
    with online(name):
        results = run(name, "resolution", 48, "prec_test", "fp32", method=method)
    tested = run(name, "prec_test", "fp32", "test_only", "True", method=method, file="results_test.json")
    assert tested["accuracy"] == results["accuracy"]
    assert "48 pixels" in Path("output/run/log_test.txt").read_text()


def test_a_test_at_another_resolution_has_names_of_its_own(online, run):
    with online("dinov3"):
        run("dinov3", "resolution", 48)
    run("dinov3", "resolution", 40, "test_only", "True", file="results_test_resolution_40.json")
    log = Path("output/run/log_test_resolution_40.txt").read_text()
    assert "the run was trained with resolution 48; this test uses resolution 40" in log


# ---- resolutions of files of a family ----


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a CLIP ViT and ResNets of CLIP and ImageNet, clip_vit.safetensors, ..."""
    folder = tmp_path_factory.mktemp("files")
    for pair in (helpers.clip_pair, helpers.clip_resnet_pair, helpers.resnet_pair):
        pair(folder)
    return folder


@pytest.mark.parametrize(
    ("backbone", "resolution", "own"),
    [("clip_vit", 48, 64), ("clip_vit", 40, 64), ("clip_rn", 64, 96), ("clip_rn", 128, 96), ("rn", 50, 224)],
)
def test_a_resolution_of_a_file(backbone, resolution, own, files, few_images, hub):
    given = helpers.GIVEN[backbone]
    options = ["weights", files / f"{backbone}.safetensors", "mean", "half", "classifier_init", "class_mean"]
    options += ["heads", 2] if given.heads else []
    options += ["activation", given.activation] if given.activation else []
    command = ["-d", "digits_lt", "-b", backbone, "-m", "lp", "resolution", resolution, *QUICK, *options]
    assert cli.main(list(map(str, command))) == 0
    log = Path("output/run/log.txt").read_text()
    assert f"{resolution} pixels" in log
    assert f"made for images of {own} pixels, used at {resolution}" in log
    assert cli.main([*map(str, command), "test_only", "True"]) == 0
    accuracies = [json.loads(Path("output/run", file).read_text()) for file in ("results.json", "results_test.json")]
    assert accuracies[0]["accuracy"] == accuracies[1]["accuracy"]


@pytest.mark.parametrize(("backbone", "resolution"), [("clip_rn", 80), ("clip_rn", 130), ("clip_rn", 31)])
def test_a_resolution_that_an_attention_pool_does_not_take(backbone, resolution, files, hub, capsys):
    options = ["weights", files / f"{backbone}.safetensors", "mean", "half", "activation", "quick_gelu"]
    command = ["-d", "digits_lt", "-b", backbone, "-m", "lp", "resolution", resolution, *options]
    assert cli.main(list(map(str, command))) == 2
    assert_one_sentence(capsys.readouterr().err)
    assert not Path("output").exists()


# ---- names with the user's own file ----


def test_a_named_backbone_with_the_authors_file(few_images, hub, capsys):
    """-b dinov2_vit_s14 weights FILE needs no further key, and no network."""
    with torch.device("meta"):
        shapes = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
    state = {key: torch.randn(value.shape).div(20).bfloat16() for key, value in shapes.items()}
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, "dinov2_vits14_pretrain.pth")
    options = ["weights", "dinov2_vits14_pretrain.pth", "resolution", 28, *QUICK]
    command = ["-d", "digits_lt", "-b", "dinov2_vit_s14", "-m", "lift+", *map(str, options)]
    assert cli.main(command) == 0
    assert capsys.readouterr().err == ""
    settings = json.loads(Path("output/run/results.json").read_text())["settings"]
    assert (settings["activation"], settings["heads"], settings["mean"]) == ("gelu", 6, [0.485, 0.456, 0.406])
    log = Path("output/run/log.txt").read_text()
    assert "dinov2_vits14_pretrain.pth: made for images of 518 pixels, used at 28" in log
    assert "licence apache-2.0" in log


def test_a_named_clip_with_a_file_and_its_tokenizer_beside_it(few_images, hub, monkeypatch):
    """The name has the tokenizer's repository, from which existing files are not requested."""
    files = published.repository("siglip2")[1]
    Path("mine").mkdir()
    for file, content in files.items():
        if file != published.OPEN_CLIP_JSON:
            Path("mine", file).write_bytes(content)
    Path("described").mkdir()
    described = Path("described", published.OPEN_CLIP_JSON)
    described.write_bytes(files[published.OPEN_CLIP_JSON])
    row = BACKBONES["siglip2_vit_b16"]._replace(config=read(described, "it").config, normalisation="half")
    monkeypatch.setitem(BACKBONES, "siglip2_vit_b16", row)
    options = ["weights", "mine/open_clip_model.safetensors", *QUICK]
    with hub({}) as asked:
        assert cli.main(["-d", "digits_lt", "-b", "siglip2_vit_b16", "-m", "lift+", *map(str, options)]) == 0
    assert not asked
    assert json.loads(Path("output/run/results.json").read_text())["settings"]["mean"] == [0.5] * 3
