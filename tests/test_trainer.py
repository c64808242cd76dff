"""Training: its step against the formula, accumulation, resuming, reproducibility; and the files of a run."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_near, execute, refused, train, weights
from oracles import PlainClip
from scipy.special import softmax
from sklearn.metrics import accuracy_score

import trainer
from datasets import DATASETS
from datasets.loading.loader import Loader
from datasets.loading.sampler import sequential_batches
from models.backbones.tokenizer import class_prompts, tokenize
from models.weights.load import load_backbone
from trainer import Trainer
from utils.config.schema import LOSSES as LOSS_ROWS
from utils.device.device import THREADS, pick_threads
from utils.device.precision import precision_name
from utils.errors import CheckpointError, ConfigError, ModelError
from utils.predictions import read_csv
from utils.run import checkpoint
from utils.run.directory import RunDir
from utils.run.log import RunLog
from utils.version import VERSION

CPU = torch.device("cpu")
CLIP_TINY = "asset:clip_tiny.safetensors"


def checkpoint_bytes(run):
    return (run.run_dir.path / "checkpoint.safetensors").read_bytes()


def killed_after(epochs, cfg):
    """Trains `cfg` for this number of epochs, and leaves it as a killed process does: without a test."""
    with Trainer(cfg) as run:
        run.fit(epochs)


def test_more_workers_than_cores_are_in_the_log_once(config, monkeypatch, capfd, few_images):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    run, _ = train(config("num_workers", 2, "num_epochs", 1))
    said, complained = capfd.readouterr()
    assert said.count("num_workers 2 is more than this core") == 1
    assert (run.run_dir.path / "log.txt").read_text().count("num_workers 2 is more than this core") == 1
    assert "worker" not in complained


# ---- the step ----


def test_three_steps_equal_the_formula(config, device):
    """LA loss and SGD with momentum and weight decay, written out in float64 on the recorded batches of the head."""
    cfg = config("v.adaptformer", "False", "num_epochs", 1, "classifier", "LinearClassifier")
    batches = []
    with Trainer(cfg) as run:
        start = {name: tensor.double().cpu() for name, tensor in weights(run).items()}
        for images, labels in run.train_batches():
            assert images.device.type == device.type
            batches.append((run.model.features(images).detach().double().cpu(), labels.cpu()))
            run.train_step(images, labels)

    counts = torch.tensor(run.data.class_counts, dtype=torch.float64)
    log_prior = (counts / counts.sum()).log()
    w, b = start["head.weight"].clone(), start["head.bias"].clone()
    momentum_w, momentum_b = torch.zeros_like(w), torch.zeros_like(b)
    assert len(batches) == math.ceil(342 / 16)
    for features, labels in batches:
        gradient_w, gradient_b = torch.zeros_like(w), torch.zeros_like(b)
        for feature, label in zip(features, labels, strict=True):
            z = w @ feature + b + log_prior
            p = (z - z.max()).exp()
            p = p / p.sum()
            p[label] -= 1
            gradient_w += p.outer(feature) / len(labels)
            gradient_b += p / len(labels)
        momentum_w = 0.9 * momentum_w + gradient_w + 5e-4 * w
        momentum_b = 0.9 * momentum_b + gradient_b + 5e-4 * b
        w, b = w - 0.02 * momentum_w, b - 0.02 * momentum_b
    trained = weights(run)
    assert torch.allclose(trained["head.weight"].double().cpu(), w, atol=1e-5)
    assert torch.allclose(trained["head.bias"].double().cpu(), b, atol=1e-5)


IN_PARTS = [(name, 4) for name, row in LOSS_ROWS.items() if not row.couples_samples]


@pytest.mark.slow
@pytest.mark.parametrize(("loss_type", "accum_step"), [("LA", 2), ("LA", 16), *IN_PARTS])
def test_parts_change_nothing(config, loss_type, accum_step, few_images, device):
    """69 images are not a multiple of 16: the last, smaller step weights each sample the same, too."""
    options = ("num_epochs", 1, "loss_type", loss_type)
    whole, parts = (Trainer(config(*options, "accum_step", number)) for number in (1, accum_step))
    for run in (whole, parts):
        with run:
            run.fit()
    whole, parts = weights(whole), weights(parts)
    for name in whole:
        assert (whole[name] - parts[name]).abs().max() < (1e-6 if device == CPU else 1e-5), name


def test_only_the_named_tensors_train(config, few_images):
    run = Trainer(config("v.lora", "True", "v.lora_layers", 1))
    execute(run)
    names = set(checkpoint.trainable_tensors(run.model))
    side = {f"tower.blocks.{i}.side.{part}" for i in (0, 1) for part in ("scale", *_pairs("norm", "down", "up"))}
    lora = {f"tower.blocks.1.attn.qkv.{x}.{part}.weight" for x in "qv" for part in ("down", "up")}
    assert names == side | lora | {"head.weight"}
    fresh, _ = load_backbone("clip_vit", run.cfg.weights)
    frozen = {name: p for name, p in run.model.tower.named_parameters() if not p.requires_grad}
    for name, parameter in fresh.image.named_parameters():
        wrapped = name.replace("blocks.1.attn.qkv.", "blocks.1.attn.qkv.wrapped.")
        assert torch.equal(frozen[wrapped], parameter), name


def _pairs(*modules):
    return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]


def test_the_learning_rate_falls_along_the_cosine(config, few_images):
    run, _ = train(config("num_epochs", 4, "lr", 0.1))
    rows = [json.loads(line) for line in (run.run_dir.path / "metrics.jsonl").read_text().splitlines()]
    last = {row["step"] // 5: row["lr"] for row in rows if row["step"] % 5 == 0}
    expected = {epoch + 1: 0.1 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)}
    assert last == pytest.approx(expected)


def test_a_loss_that_is_not_finite_stops_the_run(config):
    with pytest.raises(FloatingPointError, match="smaller lr"):
        train(config("lr", 1e30, "classifier", "LinearClassifier"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_low_precision_trains_float32_weights(config, monkeypatch, precision, few_images, device):
    """The logic of a GPU's precisions, run here: fp16 with loss scaling, bf16 without."""
    monkeypatch.setattr(trainer, "pick_precision", lambda wanted, device: (precision, None))
    run, results = train(config("num_epochs", 1))
    assert run.scaler.is_enabled() == (precision == torch.float16)
    assert {p.dtype for p in run.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in run.model.parameters() if not p.requires_grad} == {precision}
    plain = weights(train(config("num_epochs", 1, "output_dir", "plain", "prec_train", "fp32"))[0])
    moved = {name: (tensor - plain[name]).abs().max() for name, tensor in weights(run).items()}
    assert max(moved.values()) < 0.02


# ---- many steps ----


def plain_head(names):
    """Weights of the semantic head, from all 77 tokens of each prompt."""
    clip, _ = load_backbone("clip_tiny", CLIP_TINY)
    p = {name: value.detach() for name, value in clip.named_parameters()}
    return F.normalize(PlainClip(p).texts(tokenize(class_prompts(names))) @ p["image_projection"].T, dim=-1)


@pytest.mark.slow
def test_many_steps_are_those_of_the_plain_path(config, device, few_images):
    """Losses within 1e-4 of the plain model's, trained by autograd and SGD on the same batches; the same accuracy."""
    epochs = 6 if cases.FULL else 2  # of 18 steps
    run = Trainer(config("weights", CLIP_TINY, "batch_size", 4, "num_epochs", epochs))
    start = {name: value.detach().cpu().clone() for name, value in run.model.named_parameters()}
    images, batches, losses = [], [], []
    run.model.register_forward_pre_hook(lambda module, args: images.append(args[0].cpu()))

    def record(module, args, out):
        batches.append((images[-1], args[1].cpu(), run.optimizer.param_groups[0]["lr"]))
        losses.append(out.mean().item())

    run.loss.register_forward_hook(record)
    results = execute(run)
    assert len(batches) == 18 * epochs
    start["head.weight"] = plain_head(run.data.classnames)
    trained = set(checkpoint.trainable_tensors(run.model))
    plain = PlainClip({name: value.requires_grad_(name in trained) for name, value in start.items()})
    optimizer = torch.optim.SGD([start[name] for name in trained], 1, momentum=0.9, weight_decay=5e-4)
    log_prior = torch.from_numpy(run.data.class_counts / run.data.class_counts.sum()).float().log()
    for (images, labels, lr), found in zip(batches, losses, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        loss = F.cross_entropy(plain(images) + log_prior, labels)
        assert found == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = Loader(run.data.test, run.test_crops, sequential_batches(np.arange(100), 100), CPU, 0)
    with torch.no_grad():
        right = [(plain(images[:, 0]).argmax(1) == labels).float().mean() for images, labels in test]
    assert 100 * float(right[0]) == pytest.approx(results["accuracy"]["overall"], abs=1.001)  # one image of 100


@pytest.mark.slow
def test_bf16_is_as_accurate_as_float32(config, monkeypatch, few_images):
    """On average over seeds; frozen weights stored in bf16, trained ones in float32, on a CPU without bf16 as well."""

    options = ("weights", CLIP_TINY, "num_epochs", 1, "batch_size", 8)

    def accuracy(precision, seed):
        monkeypatch.setattr(trainer, "pick_precision", lambda wanted, device: (precision, None))
        folder = f"{precision_name(precision)}_{seed}"
        run, results = train(config(*options, "seed", seed, "output_dir", folder))
        stored = {(parameter.requires_grad, parameter.dtype) for parameter in run.model.parameters()}
        assert stored == {(True, torch.float32), (False, precision)}
        return results["accuracy"]["overall"]

    exact, rounded = ([accuracy(p, seed) for seed in cases.numbered(4, 2)] for p in (torch.float32, torch.bfloat16))
    assert abs(np.mean(exact) - np.mean(rounded)) < 1
    assert np.mean(exact) > 80


# ---- built, then used ----


@pytest.mark.slow
def test_what_is_asked_between_epochs_changes_nothing(config, few_images):
    """fit in pieces, with predictions, scores and features in between, trains the same bits as fit at once."""
    whole, results = train(config("output_dir", "whole", "save_logits", "True"))
    with Trainer(config("output_dir", "pieces")) as run:
        before = run.predict()
        run.fit(1)
        assert not np.array_equal(run.predict(), before)
        run.evaluate("train")
        run.features("test")
        run.fit()
        run.fit()  # nothing is left
        first, second, logits = run.evaluate(), run.evaluate("test"), run.predict("test")
    assert checkpoint_bytes(run) == checkpoint_bytes(whole)
    assert first == second
    assert first["accuracy"] == results["accuracy"]
    with np.load(whole.run_dir.logits()) as saved:
        assert np.array_equal(saved["logits"], logits)


def test_a_trainer_that_was_interrupted_within_an_epoch_is_built_anew(config, few_images):
    whole, _ = train(config("output_dir", "whole"))
    run = Trainer(config("output_dir", "interrupted"))
    run.fit(1)
    hook = run.loss.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.fit()
    hook.remove()
    with refused(ConfigError, kind="interrupted_epoch"):
        run.fit()
    run.close()
    resumed, _ = train(config("output_dir", "interrupted"))
    assert checkpoint_bytes(resumed) == checkpoint_bytes(whole)


def test_a_trainer_that_tests_does_not_train(config, few_images):
    train(config())
    with Trainer(config("test_only", "True")) as run, refused(ConfigError, kind="mode_does_not_train"):
        run.fit()


# ---- repetition and resumption ----


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(config, few_images):
    first, results = train(config("accum_step", 2, "num_workers", 0))
    second, again = train(config("accum_step", 2, "num_workers", 2, "output_dir", "again"))
    assert checkpoint_bytes(first) == checkpoint_bytes(second)
    assert results["accuracy"] == again["accuracy"]
    other, _ = train(config("accum_step", 2, "seed", 1))
    assert checkpoint_bytes(first) != checkpoint_bytes(other)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_by_bit(config, few_images):
    whole, expected = train(config("num_epochs", 3, "print_freq", 2, "output_dir", "whole"))
    cfg = config("num_epochs", 3, "print_freq", 2)
    killed_after(2, cfg)
    run_dir = Path(cfg.output_dir)
    with open(run_dir / "metrics.jsonl", "a") as metrics:  # as if it had been killed slightly later
        metrics.write('{"step": 12, "loss": 1.0}\n{"step": 1')
    assert not (run_dir / "results.json").exists()
    resumed, results = train(cfg)
    assert "resuming after epoch 2" in (run_dir / "log.txt").read_text()
    assert checkpoint_bytes(resumed) == checkpoint_bytes(whole)
    assert results["accuracy"] == expected["accuracy"]
    assert not (run_dir / "progress.safetensors").exists()
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 5, 7, 9, 10, 12, 14, 15]


@pytest.mark.parametrize("lacking", [("resize",), ("resize", "interpolation")])
def test_a_run_of_a_version_without_these_keys_resumes(config, few_images, lacking):
    """Its images were resized bicubically, by their short side."""
    cfg = config()
    killed_after(1, cfg)
    progress = RunDir(Path(cfg.output_dir)).progress
    tensors, about = checkpoint.load(progress)
    for key in lacking:
        del about["identity"][key]
    checkpoint.save(progress, tensors, about)
    for key, value in (("resize", "squash"), ("interpolation", "bilinear")):
        with refused(CheckpointError, kind="other_identity", path=progress, key=key):
            execute(Trainer(config(key, value, "output_dir", Path(cfg.output_dir).name)))
    _, results = train(cfg)
    assert "resuming after epoch 1" in (progress.parent / "log.txt").read_text()
    assert (results["settings"]["interpolation"], results["settings"]["resize"]) == ("bicubic", "shortest")


def test_the_weights_complete_the_configuration(config, few_images, monkeypatch):
    """Settings, test and files have their values; those set by the user stay."""
    monkeypatch.setattr(trainer, "described_values", lambda cfg: {"interpolation": "bilinear", "resize": "squash"})
    run, results = train(config("num_epochs", 1, "interpolation", "bicubic"))
    assert (run.cfg.interpolation, run.cfg.resize) == ("bicubic", "squash")
    assert (results["settings"]["interpolation"], results["settings"]["resize"]) == ("bicubic", "squash")
    assert (results["test"]["resize"], results["test"]["expand"]) == ("squash", 0)
    assert run.run_dir.saved_config()["resize"] == "squash"


@pytest.mark.slow
def test_an_unfinished_run_of_other_settings_is_not_continued(config, few_images):
    killed_after(None, config("output_dir", "run", "lr", 0.1))
    before = Path("output/run/config.yaml").read_text()
    with refused(CheckpointError, kind="other_identity", path="output/run/progress.safetensors", key="lr"):
        execute(Trainer(config("output_dir", "run")))
    assert Path("output/run/config.yaml").read_text() == before


def test_two_processes_at_work_in_one_directory(config, few_images):
    """The second one fails while the first one runs, and succeeds afterwards."""
    cfg = config("num_epochs", 1)
    with (
        RunLog(RunDir(Path(cfg.output_dir))),
        refused(ConfigError, kind="run_is_locked", path=cfg.output_dir),
    ):
        execute(Trainer(cfg))
    assert execute(Trainer(cfg))["epochs"] == 1


@pytest.mark.slow
def test_a_run_of_other_settings_is_not_replaced(config, few_images):
    run, _ = train(config("output_dir", "run"))
    before = {path: path.read_bytes() for path in run.run_dir.path.iterdir() if path.name != "log.txt"}
    for options, method, key in (
        (("seed", 5), "lift+", "seed"),
        (("lr", 0.1), "lift+", "lr"),
        ((), "lora", "v.lora"),
        ((), "zs", "zero_shot"),
    ):
        with refused(CheckpointError, kind="other_identity", path=run.run_dir.results(), key=key):
            train(config("output_dir", "run", *options, method=method))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_zero_shot_does_not_destroy_an_unfinished_run(config, few_images):
    killed_after(None, config("output_dir", "run"))
    with refused(CheckpointError, kind="unfinished_run", path="output/run/progress.safetensors"):
        train(config("output_dir", "run", method="zs"))
    assert Path("output/run", "progress.safetensors").exists()


@pytest.mark.slow
def test_a_finished_run_stays_until_its_repetition_has_ended(config, few_images):
    """The same command repeated, and killed: model and results of the first still exist, and it resumes."""
    run, results = train(config())
    kept = (run.run_dir.path / "results.json").read_bytes(), checkpoint_bytes(run)
    train(config("test_only", "True"))
    killed_after(0, config())
    assert ((run.run_dir.path / "results.json").read_bytes(), checkpoint_bytes(run)) == kept
    _, tested = train(config("test_only", "True"))
    assert tested["per_class"] == results["per_class"]
    _, again = train(config())
    assert again["per_class"] == results["per_class"]
    assert not (run.run_dir.path / "results_test.json").exists()  # of the first run


@pytest.mark.slow
def test_a_run_of_other_test_images_is_not_replaced(config, few_images, monkeypatch):
    run, _ = train(config())
    fewer = dataclasses.replace(run.data, test=run.data.test.subset(slice(50)))
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: fewer)
    with refused(CheckpointError, kind="other_images", path=Path(config().output_dir, "results.json")):
        train(config())
    assert train(config("test_only", "True"))[1]["accuracy"]


@pytest.mark.slow
def test_a_run_killed_while_testing_is_not_trained_again(config, few_images):
    killed_after(None, config())
    before = Path(config().output_dir, "metrics.jsonl").read_text()
    run, results = train(config())
    assert run.run_dir.metrics.read_text() == before
    assert results["images_per_second"]["train"] == pytest.approx(2 * 69 / results["seconds"]["train"])


def test_a_small_model_computes_in_one_thread():
    assert pick_threads(1_200_000) == 1
    assert pick_threads(86_000_000) == THREADS


# ---- predictions ----


@pytest.mark.parametrize("tte", [False, True])
def test_predictions_are_those_of_the_logits(config, tte, device, few_images):
    """The file of a test against softmax and argmax of its logits, and scikit-learn's accuracy."""
    run, results = train(config("weights", CLIP_TINY, "num_epochs", 1, "save_logits", "True", "tte", tte))
    with np.load(run.run_dir.logits(run.mode)) as file:
        logits, labels = file["logits"], file["labels"]
    found = read_csv(run.run_dir.predictions(run.mode), run.data.classnames)
    order = np.argsort(-logits, 1, kind="stable")[:, :5]
    probabilities = softmax(logits.astype(np.float64), 1)
    assert found.paths is None
    assert np.array_equal(found.labels, labels)
    assert np.array_equal(found.top_classes, order)
    assert found.top_probabilities == pytest.approx(np.take_along_axis(probabilities, order, 1), rel=1e-5)
    assert found.label_probability == pytest.approx(probabilities[np.arange(len(labels)), labels], rel=1e-5)
    assert results["accuracy"]["overall"] == pytest.approx(100 * accuracy_score(labels, found.predicted))
    assert len(np.unique(found.predicted)) > 1


def test_a_test_without_logits_keeps_the_predictions_alone(config, few_images):
    with Trainer(config("num_epochs", 1)) as run:
        run.fit()
        found, full = run.test("test"), run.test("test", logits=True)
        assert found.logits is None
        assert np.array_equal(full.logits, run.predict("test"))
        for field in ("labels", "top_classes", "top_probabilities", "label_probability"):
            assert np.array_equal(getattr(found, field), getattr(full, field))


# ---- files of a run ----


def test_the_files_of_a_run(config):
    run, results = train(config("num_epochs", 1))
    files = {path.name for path in run.run_dir.path.iterdir()}
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    curves = {"log.txt", "metrics.jsonl"}
    assert files - events == {"config.yaml", "checkpoint.safetensors", "results.json", "predictions_test.csv"} | curves
    assert json.loads((run.run_dir.path / "results.json").read_text()) == results
    assert (run.run_dir.path / "config.yaml").read_text() == run.cfg.dump()
    assert {
        "accuracy",
        "per_class",
        "params",
        "epochs",
        "seconds",
        "images_per_second",
        "peak_memory_mb",
        "seed",
    } < set(results)
    assert {"data", "weights", "versions", "device", "command"} < set(results)
    assert results["versions"]["lift_plus"] == VERSION
    assert list(results["accuracy"]) == ["overall", "mean_class", "many", "medium", "few"]
    assert [row["train"] for row in results["per_class"]] == [124, 80, 51, 33, 21, 14, 9, 5, 3, 2]
    assert [row["name"] for row in results["per_class"]][:3] == ["zero", "one", "two"]
    adaptformer, head = 2 * (2 * 128 + 128 * 2 + 2 + 128 * 2 + 128 + 1), 10 * 128  # r = 2: 10 classes, 2 blocks
    assert results["params"]["peft"] == adaptformer
    assert results["params"]["trained"] == adaptformer + head
    for phase, images in (("train", 342), ("test", 500)):
        assert results["images_per_second"][phase] == pytest.approx(images / results["seconds"][phase])
    assert 100 < results["peak_memory_mb"] < 24_000
    assert results["epochs"] == 1


def test_the_log_holds_what_was_printed(config, capsys, few_images):
    run, _ = train(config())
    printed = capsys.readouterr().out
    logged = (run.run_dir.path / "log.txt").read_text()
    for line in filter(None, printed.splitlines()):
        assert line in logged


@pytest.mark.slow
def test_tensorboard_reads_the_curves(config, few_images):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = train(config("print_freq", 2))
    events = EventAccumulator(str(run.run_dir.path)).Reload()
    assert {"train/loss", "train/lr", "train/accuracy", "train/images_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 5, 7, 9, 10]


def test_tensorboard_has_options_and_scores_of_the_test(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run, results = train(config("num_epochs", 1, "val_fraction", 0.1, "val_every", 1))
    assert len(run.run_dir.curves()) == 1  # the hparams tab, too, which torch would write to a folder of its own
    events = EventAccumulator(str(run.run_dir.path)).Reload()
    groups = {tag.partition("/")[0] for tag in events.Tags()["scalars"]}
    assert groups == {"train", "val", "test"}
    for group, accuracy in (("test", results["accuracy"]), ("val", run.evaluate("val")["accuracy"])):
        for name, value in accuracy.items():
            last = events.Scalars(f"{group}/{name}")[-1]
            assert (last.step, last.value) == (20, pytest.approx(value))  # 309 images in steps of 16

    def content(tag):
        return HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)

    options = content("session_start_info").session_start_info.hparams
    assert options["lr"].number_value == 0.02
    assert options["loss_type"].string_value == "LA"
    assert "v.lora" not in options and "training images" not in options
    metrics = {info.name.tag for info in content("experiment").experiment.metric_infos}
    assert metrics >= {f"test/{name}" for name in results["accuracy"]}


@pytest.mark.slow
def test_a_second_run_starts_anew(config, few_images):
    for _ in range(2):
        run, _ = train(config("print_freq", 2))
    assert len((run.run_dir.path / "metrics.jsonl").read_text().splitlines()) == 6
    assert len(list(run.run_dir.path.glob("events.out.tfevents*"))) == 1


# ---- testing ----


@pytest.mark.slow
def test_a_test_run_repeats_the_result_and_touches_nothing(config, few_images):
    options = ("weights", CLIP_TINY, "num_epochs", 1)
    run, results = train(config(*options))
    before = {path: path.read_bytes() for path in run.run_dir.path.iterdir()}
    tested, again = train(config(*options, "test_only", "True"))
    assert again["accuracy"] == results["accuracy"]
    assert again["per_class"] == results["per_class"]
    _, five = train(config(*options, "tte", "True", "test_only", "True"))
    _, on_train = train(config(*options, "test_train", "True"))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert {"results_test.json", "results_tte.json", "results_train.json"} <= {
        p.name for p in run.run_dir.path.iterdir()
    }
    assert five["accuracy"] != results["accuracy"]
    assert [row["test"] for row in on_train["per_class"]] == [25, 16, 10, 7, 4, 3, 2, 1, 0, 1]
    assert on_train["data"]["split"] == "train"


@pytest.mark.slow
def test_another_run_is_tested_by_its_folder(config, few_images):
    run, results = train(config("output_dir", "first", "seed", 3, "num_epochs", 1))
    _, tested = train(config("model_dir", run.run_dir.path, "test_only", "True"))
    assert tested["accuracy"] == results["accuracy"]
    assert (tested["seed"], tested["epochs"], tested["settings"]) == (3, 1, results["settings"])
    assert (run.run_dir.path / "results_test.json").exists()


@pytest.mark.slow
def test_the_wrong_checkpoint_is_refused(config, few_images):
    run, _ = train(config())
    options, path = ("model_dir", run.run_dir.path, "test_only", "True"), run.run_dir.checkpoint
    with refused(CheckpointError, kind="other_tensors", path=path):
        train(config(*options, method="lora"))
    with refused(CheckpointError, kind="other_tensors", path=path):
        train(config(*options, "v.adaptformer_dim", 4))
    cfg = config("seed", 9, "test_only", "True")
    with refused(CheckpointError, kind="no_checkpoint", path=Path(cfg.output_dir, "checkpoint.safetensors")):
        train(cfg)


def test_other_classes_of_the_same_number_are_refused(config, few_images, monkeypatch):
    run, _ = train(config())
    other = dataclasses.replace(run.data, classnames=list("0123456789"))
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: other)
    with refused(CheckpointError, kind="other_identity", path=run.run_dir.checkpoint, key="classes"):
        train(config("test_only", "True"))


def test_other_weights_of_the_same_shape_are_refused(config, random_clip, tmp_path, few_images):
    run, _ = train(config())
    state = torch.load(random_clip)
    state["visual.ln_post.bias"] += 1
    torch.save(state, tmp_path / "other.pt")
    shutil.copy(random_clip.with_name("open_clip_config.json"), tmp_path)
    with pytest.raises(CheckpointError) as caught:  # with hashes, so not in the golden file
        train(config("weights", tmp_path / "other.pt", "test_only", "True"))
    assert (caught.value.kind, caught.value.key) == ("other_identity", "weights")


def test_zero_shot_equals_clip_by_hand(config, device):
    run, results = train(config(method="zs"))
    assert results["params"]["trained"] == results["epochs"] == 0
    assert not (run.run_dir.path / "checkpoint.safetensors").exists()

    clip, _ = load_backbone("clip_vit", run.cfg.weights)
    from torchvision.transforms.functional import InterpolationMode, center_crop, normalize, resize

    images = torch.from_numpy(run.data.test.images.pixels).permute(0, 3, 1, 2)
    images = center_crop(resize(images, 36, InterpolationMode.BICUBIC, antialias=True), 32).float() / 255
    images = normalize(images, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    from open_clip import tokenize

    with torch.no_grad():
        text = clip.text(tokenize([f"a photo of a {name}." for name in run.data.classnames])) @ clip.text_projection
        image = clip.image(images) @ clip.image_projection
    predictions = (image @ torch.nn.functional.normalize(text, dim=-1).T).argmax(1)
    right = (predictions == torch.from_numpy(run.data.test.labels)).double().mean()
    assert results["accuracy"]["overall"] == pytest.approx(100 * float(right), abs=0.21)  # one image may tip


@pytest.mark.slow
def test_five_crops_average_the_logits(config, device, few_images):
    run, _ = train(config("num_epochs", 1))
    tested = Trainer(config("num_epochs", 1, "tte", "True", "test_only", "True"))
    counts = []
    tested.model.tower.register_forward_pre_hook(lambda tower, args: counts.append(len(args[0])))
    execute(tested)
    assert sum(counts) == 5 * 100


def test_starting_from_mean_features(config, device):
    run, results = train(config("classifier_init", "class_mean", "num_epochs", 1, "lr", 0))
    clip, _ = load_backbone("clip_vit", run.cfg.weights)
    images = torch.from_numpy(run.data.train.images.pixels).permute(0, 3, 1, 2)
    crops = torch.nn.functional.interpolate(images, 32, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(constant).view(3, 1, 1) for constant in (clip.mean, clip.std))
    with torch.no_grad():
        features = clip.image((crops / 255 - mean) / std)
    for c in range(10):
        expected = features[torch.from_numpy(run.data.train.labels) == c][:100].mean(0)
        assert torch.allclose(run.model.head.weight[c].cpu(), expected / expected.norm(), atol=1e-5)


@pytest.mark.slow
def test_the_mean_over_draws_is_tested(config, device, few_images):
    run, _ = train(config("num_epochs", 1))
    tested, results = train(
        config("num_epochs", 1, "test_only", "True", "tte", "True", "tte_draws", 2, "save_logits", "True")
    )
    assert results["test"]["draws"] == results["test"]["crops"] == 2
    found = np.load(run.run_dir.path / "logits_tte_draws2.npz")["logits"]
    images, model = run.data.test.images, tested.model.eval()
    with torch.inference_mode():
        for index in (0, 73):
            crops = tested.test_crops(images.read(index), 0, index)
            logits = model(crops.to(device)).mean(0).cpu().numpy()
            np.testing.assert_allclose(logits, found[index], rtol=1e-4, atol=1e-4)


def test_class_means_of_all_images(config):
    run, _ = train(config("classifier_init", "class_mean", "classifier_init_images", "None", "num_epochs", 1, "lr", 0))
    clip, _ = load_backbone("clip_vit", run.cfg.weights)
    images = torch.from_numpy(run.data.train.images.pixels).permute(0, 3, 1, 2)
    crops = F.interpolate(images, 32, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(constant).view(3, 1, 1) for constant in (clip.mean, clip.std))
    with torch.no_grad():
        features = clip.image((crops / 255 - mean) / std)
    labels = torch.from_numpy(run.data.train.labels)
    assert (labels == 0).sum() == 124  # more than LIFT+'s 100
    for c in (0, 9):
        assert_near(run.model.head.weight[c].detach(), F.normalize(features[labels == c].mean(0), dim=0))


# ---- initialisation from another run ----


@pytest.mark.slow
def test_training_starts_from_another_runs_tensors(config, few_images):
    first, _ = train(config("num_epochs", 1))
    options = ("num_epochs", 1, "lr", 0, "model_dir", first.run_dir.path, "loss_type", "CE")
    second, _ = train(config(*options))
    assert second.run_dir.path.name.endswith(f"_from_{first.run_dir.path.name}")
    files = [run.run_dir.path / "checkpoint.safetensors" for run in (first, second)]
    tensors = [checkpoint.load(file)[0] for file in files]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    with refused(CheckpointError):
        train(config(*options, "v.lora", "True"))


@pytest.mark.slow
def test_another_start_is_another_run(config, few_images):
    first, _ = train(config("num_epochs", 1))
    options = ("num_epochs", 1, "model_dir", first.run_dir.path, "output_dir", "second")
    train(config(*options))
    tensors, about = checkpoint.load(first.run_dir.checkpoint)
    checkpoint.save(first.run_dir.checkpoint, {name: value + 1 for name, value in tensors.items()}, about)
    with pytest.raises(CheckpointError) as caught:  # with its hash, so not in the golden file
        train(config(*options))
    assert (caught.value.kind, caught.value.key) == ("other_identity", "start")


def test_a_start_that_is_not_there(config):
    with refused(CheckpointError):
        train(config("model_dir", "nowhere"))


def test_tensors_of_an_earlier_run_with_other_classes(config, few_images, monkeypatch):
    """Rows are assigned to the classes of their names, in any order; a new class starts as without init_from."""
    first, _ = train(config("num_epochs", 1))
    digits = DATASETS["digits_lt"]

    def other_classes(*args):
        data = digits(*args)
        return dataclasses.replace(data, classnames=["nine", "sprocket", *data.classnames[2:9], "zero"])

    monkeypatch.setitem(DATASETS, "digits_lt", other_classes)
    options = ("num_epochs", 1, "lr", 0)
    fresh, _ = train(config(*options, "output_dir", "fresh"))
    second, content = train(config(*options, "init_from", first.run_dir.path))
    assert second.run_dir.path.name.endswith(f"_init_from_{first.run_dir.path.name}")
    assert content["started_from"] == str(first.run_dir.path)

    earlier, plain, found = (checkpoint.load(run.run_dir.checkpoint)[0] for run in (first, fresh, second))
    expected = earlier["head.weight"][[9, 1, *range(2, 9), 0]]
    expected[1] = plain["head.weight"][1]
    assert torch.equal(found.pop("head.weight"), expected)
    assert found.keys() == earlier.keys() - {"head.weight"}
    assert all(torch.equal(value, earlier[name]) for name, value in found.items())
    assert "new classes, which start as classifier_init semantic: sprocket" in second.run_dir.log().read_text()

    # other sizes, another head and other entries are left out, by name
    options = (*options, "output_dir", "third", "v.adaptformer_dim", 5, "classifier", "LinearClassifier")
    third, _ = train(config(*options, "init_from", first.run_dir.path))
    log = third.run_dir.log().read_text()
    assert "head.bias (another head)" in log
    assert "[2, 128] there, [5, 128] here" in log
    with refused(CheckpointError, kind="no_run"):
        train(config(*options, "init_from", "output/nothing"))
    with refused(ModelError, kind="not_a_start"):
        others = (
            "v.adaptformer",
            "False",
            "v.lora",
            "True",
            "classifier",
            "None",
            "coop",
            "True",
            "prec_train",
            "fp32",
        )
        train(config(*options[:4], *others, "init_from", first.run_dir.path, "output_dir", "fourth"))


def test_a_changed_earlier_run_is_another_run(config, few_images):
    first, _ = train(config("num_epochs", 1))
    options = ("num_epochs", 1, "init_from", first.run_dir.path, "output_dir", "second")
    train(config(*options))
    tensors, about = checkpoint.load(first.run_dir.checkpoint)
    checkpoint.save(first.run_dir.checkpoint, {name: value + 1 for name, value in tensors.items()}, about)
    for other in (options, options[:2] + options[4:]):
        with pytest.raises(CheckpointError) as caught:
            train(config(*other))
        assert (caught.value.kind, caught.value.key) == ("other_identity", "init")
