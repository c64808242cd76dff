"""Memory: free bytes, the peak of a forward and backward pass, and the micro-batches that fit."""

import pytest
import torch
from helpers import refused, train, weights

from utils.config import schema
from utils.device import memory
from utils.errors import ConfigError

CPU = torch.device("cpu")
MB = 2**20


def test_peak_bytes_are_those_of_the_tensors_that_live_at_once():
    """40 bytes per row of 10 numbers; views, in-place results and earlier tensors do not count."""
    x = torch.randn(100, 10)
    row = 4 * 10

    def peak(function):
        return memory.peak_bytes(lambda: function(x) and None)

    assert memory.peak_bytes(lambda: None) == 0
    assert memory.peak_bytes(lambda: x.view(10, 100)[3:].t().unsqueeze(0)) == 0
    assert memory.peak_bytes(lambda: x.add_(1)) == 0
    assert memory.peak_bytes(lambda: x + 1) == 100 * row
    assert memory.peak_bytes(lambda: ((x + 1) * 2).exp()) == 2 * 100 * row  # operand and result
    assert memory.peak_bytes(lambda: [x + 1, x + 2, x + 3]) == 3 * 100 * row
    assert memory.peak_bytes(lambda: [x + 1 for _ in range(5)][:0]) == 5 * 100 * row
    assert memory.peak_bytes(lambda: [(x + 1).sum() for _ in range(5)]) == 100 * row + 5 * 4


@pytest.mark.parametrize("count", [1, 3, 8])
def test_peak_bytes_include_the_backward_pass(count):
    """The peak is at the last gradient: outputs of relu and exp, ones, and the gradients after and before relu."""
    x = torch.randn(count, 50, requires_grad=True)
    assert memory.peak_bytes(lambda: x.relu().exp().backward(torch.ones(count, 50))) == 5 * count * 50 * 4
    with torch.no_grad():
        assert memory.peak_bytes(lambda: x.relu().exp()) == 2 * count * 50 * 4


VERSION_2 = {"memory.max": "5000000\n", "memory.current": "3000000\n", "memory.stat": "anon 1\ninactive_file 400000\n"}
VERSION_1 = {
    "memory/memory.limit_in_bytes": "5000000\n",
    "memory/memory.usage_in_bytes": "3000000\n",
    "memory/memory.stat": "cache 1\ninactive_file 400000\ntotal_inactive_file 400000\n",
}
# Slurm: the job has the limit, and the step within it has none
JOB = {f"slurm/job_1/{name}": content for name, content in VERSION_2.items()}
STEP = {"slurm/job_1/step_0/memory.max": "max\n", "slurm/job_1/step_0/memory.current": "2000000\n"}
WITHIN = "0::/slurm/job_1/step_0\n"


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({}, None, 8_000 * 1024),
        ({}, "0::/\n", 8_000 * 1024),
        (VERSION_2, "0::/\n", 2_400_000),
        (VERSION_1, "5:devices:/\n4:memory:/\n0::/\n", 2_400_000),
        (VERSION_1, "4:memory:/docker/of/the/host\n", 2_400_000),
        (VERSION_2 | {"memory.max": "max\n"}, "0::/\n", 8_000 * 1024),
        (VERSION_1 | {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, "4:memory:/\n", 8_000 * 1024),
        (VERSION_2 | {"memory.current": "9000000\n"}, "0::/\n", 0),
        (JOB | STEP, WITHIN, 2_400_000),
        (JOB | STEP | VERSION_2 | {"memory.current": "4000000\n"}, WITHIN, 1_400_000),
        (JOB, "0::/elsewhere\n", 8_000 * 1024),
    ],
)
def test_free_memory_heeds_the_limits_of_its_groups(files, groups, expected, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9999999 kB\nMemFree:  1 kB\nMemAvailable:   8000 kB\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    if groups:
        (tmp_path / "groups").write_text(groups)
    for name, path in (("MEMINFO", "meminfo"), ("GROUPS", "groups"), ("CGROUP", "")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert memory.free_bytes(CPU) == expected
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert memory.free_bytes(CPU) == expected // 2


def test_free_memory_is_the_machines():
    assert 0 < memory.free_bytes(CPU) < 2**50


# ---- micro-batches ----


def compute(count):
    """Takes 10 MB and 3 MB for each image."""
    torch.zeros(MB // 4 * (10 + 3 * count))


def pick(images, accum_step, free_mb, monkeypatch, kept_mb=0):
    monkeypatch.setattr(memory, "free_bytes", lambda device: free_mb * MB)
    lines = []
    size = memory.pick_micro_batch_size(images, accum_step, compute, kept_mb * MB, CPU, lines.append)
    return size, lines


@pytest.mark.parametrize(
    ("free_mb", "size"),
    [(1000, 16), (117, 16), (115, 8), (70, 8), (66, 6), (46, 4), (40, 3), (34, 2), (10, 1), (0, 1)],
)
def test_a_step_takes_the_micro_batches_that_fit(free_mb, size, monkeypatch):
    """10 MB and 3 for each image must fit in a half; micro-batches are as even as can be."""
    found, (line,) = pick(16, None, free_mb, monkeypatch)
    assert found == size
    assert line.endswith(f"a step is {-(-16 // size)} x {size} images, 3 MB each, in 50% of {free_mb:,} MB free")


def test_gradients_and_momentum_need_memory_too(monkeypatch):
    assert pick(16, None, 120, monkeypatch)[0] == 16
    assert pick(16, None, 120, monkeypatch, kept_mb=5)[0] == 8


@pytest.mark.parametrize(("images", "accum_step", "size"), [(16, 1, 16), (16, 4, 4), (10, 4, 3), (3, 8, 1)])
def test_given_parts_are_taken(images, accum_step, size, monkeypatch):
    assert pick(images, accum_step, 0, monkeypatch) == (size, [])


@pytest.mark.slow
@pytest.mark.parametrize("free_mb", [0, 7])
def test_a_run_in_micro_batches_trains_as_a_whole_one(free_mb, config, few_images, monkeypatch, capsys):
    options = ("num_epochs", 1, "weights", "asset:clip_tiny.safetensors")
    whole = weights(train(config(*options, "output_dir", "whole"))[0])
    monkeypatch.setattr(memory, "free_bytes", lambda device: free_mb * MB)
    run, _ = train(config(*options, "accum_step", "None"))
    assert run.micro_batch_size < 16
    assert (run.micro_batch_size == 1) == (free_mb == 0)
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in run.model.parameters())
    assert f" x {run.micro_batch_size} images, " in capsys.readouterr().out
    for name, value in weights(run).items():
        assert (value - whole[name]).abs().max() < 1e-6, name


@pytest.mark.parametrize("loss", [name for name, row in schema.LOSSES.items() if row.couples_samples])
def test_losses_that_couple_samples_take_whole_steps(loss, config):
    with refused(ConfigError, kind="needs_whole_batches", key="loss_type"):
        config("loss_type", loss, "accum_step", "None")
