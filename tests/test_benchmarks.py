"""The benchmark: every stage runs on a tiny model, and the baseline computes the same as this program."""

import dataclasses
import json
import multiprocessing

import cases
import fork_server
import pytest
import torch
from helpers import HALF, assert_near
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers, products, run, timing
from benchmarks.baseline import (
    PlainImages,
    PlainModel,
    Sizes,
    load_trainer,
    normalise,
    plain_loader,
    prepare_training,
    seconds_per_image,
    sequential_samples,
)
from benchmarks.timing import compare, peak_mb, spread, table, take_turns
from datasets.loading.crops import build_train_crop
from datasets.loading.loader import Loader
from models.weights.descriptions import Description
from models.weights.load import load_backbone

CPU = torch.device("cpu")
TINY = run.Plan(
    sizes=Sizes(dim=128, depth=2, patch=8, resolution=32, joint=64, text_dim=64, text_depth=2),
    num_classes=12,
    width=4,
    train_images=4,
    test_images=5,
    crops_images=4,
    memory_images=4,
    pipeline_images=4,
    workers=1,
    names=8,
    starts=1,
    repeats=2,
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    plan = dataclasses.replace(TINY, options=("prec_train", "fp32", "prec_test", "fp32"))
    return run.Setup(plan, CPU, tmp_path_factory.mktemp("bench"))


# ---- the baseline computes the same ----


@pytest.mark.parametrize("accum_step", [1, 2])
def test_steps_have_the_same_losses_and_gradients(setup, accum_step):
    images, labels = setup.batch(4)
    with setup.trainer(batch_size=4, accum_step=accum_step) as trainer:
        with torch.no_grad():  # Up is zero at first, and half of the gradients with it
            for p in trainer.model.parameters():
                if p.requires_grad:
                    p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        plain = load_trainer(CPU, setup.save(trainer))
        ours, theirs = (
            {name: p for name, p in program.model.named_parameters() if p.requires_grad} for program in (trainer, plain)
        )
        assert ours.keys() == theirs.keys()
        for _ in range(3):
            loss = float(trainer.train_step(images, labels)[0])
            assert plain.train_step(normalise(images), labels, accum_step) == pytest.approx(loss, rel=1e-5)
        for name, p in ours.items():  # SGD's momentum is a sum of gradients
            momenta = [trainer.optimizer.state[p]["momentum_buffer"]]
            momenta += [plain.optimizer.state[theirs[name]]["momentum_buffer"]]
            assert momenta[0].abs().max() > 0, name
            torch.testing.assert_close(*momenta, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("crops", [1, 5])
def test_logits_are_the_same(setup, crops):
    with setup.trainer(tte=crops > 1, expand=8) as trainer:
        samples = sequential_samples(len(trainer.data.test), 5)
        batches = list(Loader(trainer.data.test, trainer.test_crops, samples, CPU, 0))
        plain = load_trainer(CPU, setup.save(trainer))
        logits = plain.evaluate([(normalise(pixels), labels) for pixels, labels in batches])
        assert {pixels.shape[1] for pixels, _ in batches} == {crops}
        torch.testing.assert_close(logits, torch.from_numpy(trainer.predict("test")), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("crops", [0, 1, 5])
def test_images_are_the_same_within_two_grey_levels(setup, crops):
    with setup.trainer(tte=crops > 1, expand=8, num_epochs=2) as trainer:
        split, draw, cut = "test", None, trainer.test_crops
        if crops == 0:
            split, cut = "train", build_train_crop(trainer.cfg, 32)
            draw = cut.draw
        plain = PlainImages(setup.root, split, 32, draw, expand=8, crops=crops)
        samples = [[(1, 0), (1, 3)]]
        ((theirs, their_labels),) = plain_loader(plain, samples, 0)
        ((ours, our_labels),) = Loader(getattr(trainer.data, split), cut, samples, CPU, 0)
    assert torch.equal(our_labels, their_labels) and ours.shape == theirs.shape
    assert ((theirs - normalise(ours)).abs() * 255 * 0.28).max() < 2.1


# ---- the stages run ----


@pytest.mark.slow
def test_command_line_measures_every_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # the times of a start, which are not what is tested, may be those of a fork
    monkeypatch.setattr(
        run.subprocess, "run", lambda command, cwd, env, **_: fork_server.run(command[1:], cwd, env, check=True)
    )
    if not cases.FULL:  # the baseline's process, too; else it is a new one
        monkeypatch.setattr(timing, "get_context", lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setitem(products.SIZE, "cpu", 256)
    names = [name for name in run.STAGES if name != "memory"]  # tested below, in this process
    run.main(
        ["--stage", *names, "--repeats", "2", "--json", "a/bench.json", "prec_train", "fp32", "accum_step", "2"], TINY
    )
    table, content = capsys.readouterr().out, json.loads((tmp_path / "a/bench.json").read_text())
    rows = {row["what"].partition(",")[0]: row for row in content["rows"]}
    assert list(rows) == [
        "training step",
        "testing",
        "images",
        "semantic initialisation",
        "python start to first step",
    ]
    assert len(content["rows"]) == 7 and content["load"] >= 0
    assert [share["stage"] for share in content["shares"]] == ["train", "forward", "test"]
    assert all(0 < share["share"] < 2 for share in content["shares"])
    assert content["shares"][0]["precision"] == "fp32"
    for row in content["rows"]:
        assert f"| {row['what']} | " in table and 0 < row["ours"] < 1e6
        assert row["what"].startswith(("python start", "testing, images in memory")) or 0 < row["ratio"] < 1e3
    losses = rows["training step"]["note"].split()
    assert losses[-1] == losses[-3]  # of both programs, after three steps
    assert rows["training step"]["what"] == "training step, 4 images in 2 micro-batches"
    assert float(rows["semantic initialisation"]["note"].split()[-1]) < 1e-5


@pytest.mark.slow
def test_precisions_are_compared(tmp_path, capsys):
    run.main(["--precision", "--repeats", "2", "--json", str(tmp_path / "bench.json")], TINY)
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["columns"] == ["bf16", "float32"]
    assert content["rows"][0]["what"] == "products of a block, 4 x 17 rows"
    assert all(0 < row["ratio"] < 1e3 for row in content["rows"])
    assert "amp is " in capsys.readouterr().out


@pytest.mark.parametrize("program", ["ours", "plain"])
def test_memory_grows_with_the_images_of_a_step(setup, program):
    with setup.trainer() as trainer:
        file = setup.save(trainer)
    images, labels = setup.batch(4)
    if program == "ours":
        peak = peak_mb(CPU, run.prepare_training, (setup.command(), images, labels))
    else:
        peak = peak_mb(CPU, prepare_training, (file, normalise(images), labels, 2, 1))
    assert 0 <= peak < 2000


# ---- numbers ----


def test_flops_are_those_of_torchs_counter():
    """Counted in the baseline, whose backward pass also ends after the first block's attention."""
    sizes = dataclasses.replace(TINY.sizes, depth=3)
    model = PlainModel(sizes, 4, 2)
    images = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.tower(images)
    adapters = 4 * 128 * 4 * 17 * 3
    assert counter.get_total_flops() == products.forward_flops(sizes) + adapters
    with FlopCounterMode(display=False) as counter:
        model.tower(images).sum().backward()
    # torch computes the scores a second time in the backward pass of attention
    again = 2 * 2 * 17**2 * 128
    first = 2 * 128 * 4 * 17  # the first AdaptFormer's input needs no gradient
    assert counter.get_total_flops() == pytest.approx(products.training_flops(sizes, 4) + again - first, rel=0.02)


def test_vit_b16_needs_the_published_flops():
    assert products.forward_flops(Sizes()) == pytest.approx(35.1e9, rel=2e-3)
    assert products.training_flops(Sizes(), 32) == pytest.approx(69.1e9, rel=2e-3)


def test_a_share_is_the_work_in_the_time_of_products():
    share = products.Share("train", 5000.0, "bf16", 7e14, 0.49)
    line = products.table("NVIDIA H100", [share]).splitlines()[-1]
    assert line == "| NVIDIA H100 | training step | bf16 | 5,000.0 | 5,700 | 700.00 TFLOP/s | 49 % | 45 % |"


def test_turns_alternate():
    order = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 7.0}, 3, CPU)
    assert order == ["a", "b"] * 3
    assert seconds["b"] == [7.0] * 3 and len(seconds["a"]) == 3 and max(seconds["a"]) < 5


def test_the_loader_is_timed_from_the_first_batch_of_its_last_worker(monkeypatch):
    times = iter([0.0, 1.0, 1.5, 3.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    batches = [(torch.zeros(4, 3, 2, 2), torch.zeros(4))] * 4
    assert seconds_per_image(batches, 2, CPU) == 2.5 / 8


def test_rows_have_medians_of_the_turns():
    seconds = {"ours": [1.0, 2.0, 1.0], "plain": [4.0, 8.0, 5.0]}
    row = compare("training step", seconds, 16, "4")
    assert (row.ratio, row.ours, row.plain) == (4.0, 16.0, 3.2)
    assert row.spread == spread([4.0, 4.0, 5.0]) == 0.125 / 2
    about = {
        "columns": ("ours", "baseline"),
        "device": "CPU",
        "cores": 4,
        "date": "2026-01-01",
        "versions": {"torch": "2"},
        "seconds": 3.0,
    }
    lines = table([row], about | {"columns": ("ours", "baseline"), "load": 1.25})
    assert "| training step | **4.00** ± 6 % | 16 | 3.2 | images/s | 4 |" in lines
    assert "at the start: 1.2, averaged over a minute" in lines


# ---- peers ----


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """ViT-B/16 with a single block, and a few photographs."""
    work = peers.Work(tmp_path_factory.mktemp("peers"), batch=2, steps=1, images=2, depth=1)
    work.write()
    return work


@pytest.mark.parametrize("trains", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("name", ["ours in fp32", "timm, fp32", "timm, bf16"])
def test_peers_take_steps_and_tests_from_the_same_files(name, trains, work, monkeypatch):
    monkeypatch.setattr(peers, "CORES", 0)  # no workers
    program = peers.PEERS[name]
    assert not program.missing
    assert program.prepare(CPU, work, program.choice, trains)() > 0


def test_the_loop_with_timm_computes_what_our_model_computes(work):
    """With initial updates, which are zero: the same features from the same file."""
    plain = work.timm_model().eval()
    for block in plain.blocks:
        block.attn.qkv = peers.PlainLora(block.attn.qkv)
        for up in block.attn.qkv.up:
            torch.nn.init.zeros_(up.weight)
    description = Description("gelu", heads=12, mean=HALF, std=HALF)
    ours = load_backbone("vit", str(work.weights), description)[0].image
    images = torch.randn(2, 3, peers.SIDE, peers.SIDE)
    with torch.no_grad():
        expected = plain.forward_head(plain.forward_features(images), pre_logits=True)
        assert_near(ours(images), expected, 1e-5)


def test_the_ratio_of_peers_is_that_of_the_median_turn():
    result = peers.Result([1.0, 2.0, 1.0], [2.0, 2.0, 4.0], our_mb=100.0, their_mb=2000.0)
    found = peers.line("other", result, images=8)
    assert found.startswith("| other | **2.00** ±")
    assert found.endswith("| 8 | 4 | 100 | 2,000 |")
