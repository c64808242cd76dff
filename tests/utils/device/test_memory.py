"""Memory: how much is free, how much a forward pass saves for backward, and the micro-batches that fit."""

import pytest
import torch
from helpers import refused, train, weights
from torch import nn

from utils.config import schema
from utils.device import memory
from utils.errors import ConfigError

CPU = torch.device("cpu")
MB = 2**20


class Frozen(nn.Module):
    """[n, 10] -> [n, 20] -> [n, 5]: the first layer is frozen, so it saves nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 20).requires_grad_(False), nn.Linear(20, 5)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("count", [1, 3, 8])
def test_saved_bytes_are_those_of_the_saved_tensors(count):
    """relu's output, the input of the trainable layer: once, though two operations save it; and no weight."""
    model, x = Frozen(), torch.randn(count, 10)
    weights = list(model.parameters())
    assert memory.saved_for_backward_bytes(lambda: model(x), weights) == 4 * count * 20
    squared = memory.saved_for_backward_bytes(lambda: model(x).square(), weights)  # and the outputs
    assert squared == 4 * count * (20 + 5)
    with torch.no_grad():
        assert memory.saved_for_backward_bytes(lambda: model(x), weights) == 0
    x.requires_grad_()
    assert memory.saved_for_backward_bytes(lambda: model(x), weights) == 4 * count * 20
    assert memory.saved_for_backward_bytes(lambda: model(x)) == 4 * (count * 20 + 10 * 20 + 20 * 5)  # and the weights


VERSION_2 = {"memory.max": "5000000\n", "memory.current": "3000000\n", "memory.stat": "anon 1\ninactive_file 400000\n"}
VERSION_1 = {
    "memory/memory.limit_in_bytes": "5000000\n",
    "memory/memory.usage_in_bytes": "3000000\n",
    "memory/memory.stat": "cache 1\ninactive_file 400000\ntotal_inactive_file 400000\n",
}
# Slurm's: the limit is the job's, and the step within it has none
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


def loss_of(count):
    """The loss of so many images: 10 MB and 3 MB for each are saved for backward."""
    scale = torch.ones((), requires_grad=True)
    return (torch.zeros(MB // 4 * (10 + 3 * count)) * scale).sum()


def pick(images, accum_step, free_mb, monkeypatch, gradient_mb=0):
    monkeypatch.setattr(memory, "free_bytes", lambda device: free_mb * MB)
    lines = []
    size = memory.pick_micro_batch_size(images, accum_step, loss_of, (), gradient_mb * MB, CPU, lines.append)
    return size, lines


@pytest.mark.parametrize(
    ("free_mb", "size"),
    [(1000, 16), (175, 16), (170, 8), (110, 8), (100, 6), (70, 4), (60, 3), (50, 2), (10, 1), (0, 1)],
)
def test_a_step_takes_the_micro_batches_that_fit(free_mb, size, monkeypatch):
    """10 MB and 3 for each image must fit in a third; micro-batches are as even as can be."""
    found, (line,) = pick(16, None, free_mb, monkeypatch)
    assert found == size
    assert line.endswith(f"a step is {-(-16 // size)} x {size} images, 3 MB each, in a third of {free_mb:,} MB free")


def test_gradients_and_momentum_need_memory_too(monkeypatch):
    assert pick(16, None, 180, monkeypatch)[0] == 16
    assert pick(16, None, 180, monkeypatch, gradient_mb=20)[0] == 8


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
    assert f" x {run.micro_batch_size} images, " in capsys.readouterr().out
    for name, value in weights(run).items():
        assert (value - whole[name]).abs().max() < 1e-6, name


@pytest.mark.parametrize("loss", [name for name, row in schema.LOSSES.items() if row.couples_samples])
def test_losses_that_couple_samples_take_whole_steps(loss, config):
    with refused(ConfigError, kind="needs_whole_batches", key="loss_type"):
        config("loss_type", loss, "accum_step", "None")
