"""Memory: what is free, what a forward pass keeps, and the parts of a step that follow from both."""

import pytest
import torch
from helpers import train, weights
from torch import nn

from utils.device import memory
from utils.errors import ConfigError

CPU = torch.device("cpu")
MB = 2**20


class Frozen(nn.Module):
    """[n, 10] -> [n, 20] -> [n, 5]: the first layer is frozen, so it keeps nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 20).requires_grad_(False), nn.Linear(20, 5)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("count", [1, 3, 8])
def test_kept_bytes_are_those_of_the_saved_tensors(count):
    """The input of the trained layer, that is relu's output: once, though two operations keep it; and no weight."""
    model, x = Frozen(), torch.randn(count, 10)
    assert memory.kept_bytes(model, lambda: model(x)) == 4 * count * 20
    squared = memory.kept_bytes(model, lambda: model(x).square())  # and the outputs
    assert squared == 4 * count * (20 + 5)
    with torch.no_grad():
        assert memory.kept_bytes(model, lambda: model(x)) == 0


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
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.free_bytes(CPU) == expected // 2


def test_free_memory_is_the_machines():
    assert 0 < memory.free_bytes(CPU) < 2**50


@pytest.fixture(scope="module")
def whole():
    """The weights of a run whose steps are whole; empty until the first test has trained them."""
    return {}


@pytest.mark.parametrize(
    ("free_mb", "size"),
    [(1000, 16), (175, 16), (170, 8), (110, 8), (100, 6), (70, 4), (60, 3), (50, 2), (10, 1), (0, 1)],
)
def test_a_step_takes_the_parts_that_fit(free_mb, size, config, whole, few_images, monkeypatch, capsys):
    """10 MB and 3 for each image must fit in a third; parts are as even as can be. They train as the whole does."""
    options = ("num_epochs", 1, "weights", "asset:clip_tiny.safetensors")
    if not whole:
        whole.update(weights(train(config(*options, "output_dir", "whole"))[0]))
    monkeypatch.setattr(memory, "free_bytes", lambda device: free_mb * MB)
    monkeypatch.setattr(memory, "kept_bytes", lambda model, forward: (10 + 3 * len(count_of(forward))) * MB)
    run, _ = train(config(*options, "accum_step", "None"))
    assert run.micro_batch_size == size
    said = f"a step is {-(-16 // size)} x {size} images, 3 MB each, in a third of {free_mb:,} MB free"
    assert said in capsys.readouterr().out
    for name, value in weights(run).items():
        assert (value - whole[name]).abs().max() < 1e-6, name


def count_of(forward):
    """The images that a forward pass takes, one by one."""
    seen = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        forward()
    finally:
        hook.remove()
    return seen[0]


def test_what_couples_the_samples_of_a_step_takes_no_unknown_parts(config):
    with pytest.raises(ConfigError, match="LADE"):
        config("loss_type", "LADE", "accum_step", "None")
