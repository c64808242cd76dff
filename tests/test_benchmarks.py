"""The benchmark: every stage runs, and the plain program computes what ours does."""

import dataclasses
import json
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import trainer
from benchmarks import ablation, fresh, report, run
from benchmarks.apart import read_trainer
from benchmarks.baseline import PlainImages, PlainText, plain_loader, plain_semantic
from benchmarks.inputs import normalised, plain_crops
from benchmarks.stages import STAGES
from benchmarks.stages_host import init
from benchmarks.timing import NEIGHBOURS, forward_flops, spread, take_turns, training_flops
from benchmarks.work import CPU, Plan
from datasets.loading.crops import TestCrops, TrainCrop
from datasets.loading.decode import decode
from models.backbones.backbone import Geometry
from models.backbones.tokenizer import VOCABULARY, class_prompts, tokenize
from models.backbones.vit import VisionTransformer
from models.heads import HEAD_INITS
from models.weights.load import load_backbone

GEOMETRY = Geometry(dim=128, depth=2, patch=8, resolution=32, joint=64, text_dim=64, text_depth=2)
TINY = Plan(GEOMETRY, 12, 4, 4, 1, 5, 4, 4, 3, 4, 2, (64,), names=8, repeats=2, starts=1, photos=6, workers=1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    plan = dataclasses.replace(TINY, options=("prec_train", "fp32", "prec_test", "fp32"))
    bench = run.make_bench(plan, torch.device("cpu"), folder)
    yield bench
    bench.plain.process.shutdown()


@pytest.fixture(scope="module")
def plain(bench):
    return read_trainer(*bench.plain_trainer)


# ---- the plain program computes the same ----


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_has_the_same_loss_and_gradients(bench, plain, steps):
    ours = bench.ours
    images, labels = bench.batch
    with torch.no_grad():  # Up is zero at first, and half of the gradients with it
        for p, q in zip(*(program.optimizer.param_groups[0]["params"] for program in (ours, plain)), strict=True):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
            q.copy_(p)
    trained = {name: p for name, p in ours.model.named_parameters() if p.requires_grad}
    theirs = {name: p for name, p in plain.model.named_parameters() if p.requires_grad}
    assert trained.keys() == theirs.keys()
    for _ in range(steps):
        loss = float(ours.train_step(images, labels)[0])
        assert plain.train_step(normalised(images, ours.cfg), labels) == pytest.approx(loss, rel=1e-5)
    for name, p in trained.items():  # SGD's momentum is the gradient, and then a sum of gradients
        momenta = [ours.optimizer.state[p]["momentum_buffer"], plain.optimizer.state[theirs[name]]["momentum_buffer"]]
        assert momenta[0].abs().max() > 0, name
        torch.testing.assert_close(*momenta, rtol=1e-4, atol=1e-5, msg=name)


def test_logits_are_the_same_with_one_crop_and_with_five(bench, plain):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    model = bench.ours.model.eval()
    for count in (1, 5):
        crops = TestCrops(32, expand=8, count=count).of_batch(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        floats = plain_crops(pixels, 32, count, bench.ours.cfg)
        with torch.no_grad():
            logits = torch.stack([model(crops[:, k]) for k in range(count)]).mean(0)
        theirs = plain.evaluate([(floats, torch.zeros(3, dtype=torch.int64))])
        torch.testing.assert_close(theirs, logits, rtol=1e-4, atol=1e-4)
    model.train()


def test_texts_give_the_same_rows(bench):
    backbone, _ = load_backbone("clip_vit", str(bench.weights))
    text = PlainText(GEOMETRY, VOCABULARY)
    text.load_state_dict(backbone.text.state_dict())
    names = ["golden eagle", "cat", "a rather long name of a thing"]
    projections = backbone.text_projection.detach(), backbone.image_projection.detach()
    rows = plain_semantic(text, *projections, tokenize(class_prompts(names)))
    torch.testing.assert_close(rows, HEAD_INITS["semantic"](backbone, names, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_images_are_the_same_within_two_grey_levels(bench, training):
    paths, cfg = bench.paths[:4], bench.ours.cfg
    crop = TrainCrop(32, seed=0, num_epochs=2) if training else TestCrops(32, 4)
    box = (lambda *at: crop.draw(*at)[0]) if training else None
    plain = PlainImages(paths, np.arange(4), 32, cfg.mean, cfg.std, box)
    (batch, labels), *_ = plain_loader(plain, [[(1, 0), (1, 3)]], num_workers=0)
    ours = torch.stack([crop(decode(paths[i]), 1, i) for i in (0, 3)])
    ours = ours if training else ours[:, 0]
    assert batch.shape == ours.shape and labels.tolist() == [0, 3]
    levels = (batch - normalised(ours, cfg)).abs() * 255 * torch.tensor(cfg.std).view(3, 1, 1)
    assert levels.max() < 2.1


# ---- the stages run ----


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("memory", "start", "init")])
def test_stage(bench, name):
    for row in STAGES[name](bench):
        assert np.isfinite(row.ours) and (row.ratio is None or row.ratio > 0)


@pytest.mark.parametrize(("name", "crops"), [("test", 5), ("tte", 5 * 4)])
def test_every_crop_is_computed_in_every_turn(bench, name, crops, monkeypatch):
    seen, forward = [], VisionTransformer.forward
    monkeypatch.setattr(VisionTransformer, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    STAGES[name](bench)
    assert sum(seen) == TINY.repeats * crops


def test_stage_init_takes_other_weights_of_names(bench):
    (row,) = init(bench)
    assert row.ratio > 0 and float(row.note.split()[-1]) < 1e-5


@pytest.mark.parametrize("name", [name for name in ablation.MEANS if name != "images"])
def test_ablation(bench, name):
    before = {key: value.clone() for key, value in bench.ours.model.named_buffers()}
    rows = ablation.MEANS[name](bench)
    assert all(row.ratio > 0 and row.target for row in rows)
    assert all(torch.equal(before[key], value) for key, value in bench.ours.model.named_buffers())


def test_profile_has_a_step_and_a_forward_pass(bench):
    step, forward = ablation.profile(bench, rows=200).removeprefix("training\n").split("\ntesting\n")
    assert "silu_backward" in step and "silu" in forward and "backward" not in forward.lower()
    assert bench.ours.model.training


@pytest.mark.parametrize("which", ["ours", "plain"])
def test_memory_is_that_of_the_model(bench, which):
    args = bench.plan, bench.device, bench.folder, bench.paths, bench.weights
    assert 0 <= fresh.peak_here_mb(which, *args) < 2000


def test_start_runs_main_up_to_its_first_step(bench, monkeypatch):
    def in_this_process(command, **_):  # a new one would import everything anew
        monkeypatch.setattr(sys, "argv", command[1:])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(command[1])
        return SimpleNamespace(returncode=ended.value.code or 0, stderr="")

    monkeypatch.setattr(trainer, "Trainer", trainer.Trainer)  # first_step.py puts its own there
    monkeypatch.setattr("benchmarks.fresh.subprocess.run", in_this_process)
    (row,) = STAGES["start"](dataclasses.replace(bench, plan=dataclasses.replace(TINY, options=("num_workers", "0"))))
    assert 0 < row.ours < 3600


def test_help_answers(capsys):
    with pytest.raises(SystemExit, match="0"):
        run.parse(["--help"])
    assert "--device" in capsys.readouterr().out


# ---- numbers ----


def test_flops_are_those_that_the_targets_count():
    assert forward_flops(CPU.geometry) == pytest.approx(35.1e9, rel=2e-3)
    assert training_flops(CPU.geometry, 32, 1000) == pytest.approx(69.1e9, rel=2e-3)


def test_turns_alternate_and_the_calmest_count(monkeypatch):
    order, shares = [], iter([0.0, 0.5, 0.05])
    monkeypatch.setattr(NEIGHBOURS, "patience", 1.0)
    monkeypatch.setattr(NEIGHBOURS, "wait", lambda: None)
    monkeypatch.setattr(NEIGHBOURS, "since", lambda mark: next(shares))
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, lambda: None, False)
    assert order == ["a", "b"] * 3 and [len(values) for values in seconds.values()] == [2, 2]
    assert NEIGHBOURS.met[-2:] == [0.0, 0.05]


def test_the_table_shows_ratios_first_and_the_machine_below(tmp_path):
    seconds = {"ours": [1.0, 2.0, 1.0], "plain": [4.0, 8.0, 5.0]}
    row = report.compare("training step", seconds | {"8 x 8 x 8": [1 / 64e9] * 3}, 16, "4", 2e9)
    assert (row.ratio, row.ours, row.plain, row.share, row.plain_share) == (4.0, 16.0, 3.2, 0.5, 0.1)
    assert row.spread == spread([4.0, 4.0, 5.0]) == 0.125 / 2
    about = report.machine(torch.device("cpu"), {"8 x 8 x 8": 64e9}) | {"neighbours": [0.1], "seconds": 3.0}
    table = report.table([row], about)
    assert "| training step | **4.00** ± 6 % | 16 | 3.2 | images/s | 50 % (10 %) | 4 |" in table
    assert "torch" in table and "cores" in table and "8 x 8 x 8: 64" in table
    report.write_json(tmp_path / "a" / "bench.json", [row], about)
    assert json.loads((tmp_path / "a" / "bench.json").read_text())["rows"][0]["ratio"] == 4.0
