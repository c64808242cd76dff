"""Optimizers against their formulas, and interrupted and resumed runs with them."""

import json
import math

import pytest
import torch
from helpers import refused, train

from trainer import Trainer
from utils import optim
from utils.config import load_config
from utils.config.schema import KEYS
from utils.errors import CheckpointError
from utils.optim import OPTIMIZERS

LR, WEIGHT_DECAY, MOMENTUM = 0.1, 0.03, 0.8
STEPS = 5


def run_steps(name):
    """Five steps from a fixed start along fixed gradients: the start, the gradients and the end, float64."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(STEPS + 1, 4, dtype=torch.float64, generator=generator)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = OPTIMIZERS[name]([parameter], lr=LR, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    return start, gradients, parameter.detach()


def test_sgd_is_its_formula():
    x, gradients, found = run_steps("SGD")
    momentum = torch.zeros(4, dtype=torch.float64)
    for gradient in gradients:
        momentum = MOMENTUM * momentum + gradient + WEIGHT_DECAY * x
        x = x - LR * momentum
    assert torch.allclose(found, x, rtol=1e-12)


def test_adamw_is_its_formula():
    """Algorithm 2 of Loshchilov and Hutter 2019, whose weight decay here is multiplied by the learning rate."""
    x, gradients, found = run_steps("AdamW")
    mean = square = torch.zeros(4, dtype=torch.float64)
    for t, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        x = x - LR * step - LR * WEIGHT_DECAY * x
    assert torch.allclose(found, x, rtol=1e-9)


@pytest.fixture
def no_luck():
    """Memory that is not initialised is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_on_a_gpu_a_step_without_finite_gradients_changes_nothing(name, steps_before, device, no_luck, monkeypatch):
    """In fp16; the CPU has the fused optimizers, too. torch leaves momentum uninitialised in a first such step."""
    options, gradients = {"lr": LR, "weight_decay": WEIGHT_DECAY, "momentum": MOMENTUM}, [1.0, -2.0, 0.5]
    plain = torch.nn.Parameter(torch.ones(10))
    optimizer = OPTIMIZERS[name]([plain], **options)
    for gradient in gradients:
        plain.grad = torch.full_like(plain, gradient)
        optimizer.step()

    monkeypatch.setattr(optim, "_are_on_gpu", lambda parameters: True)
    parameter = torch.nn.Parameter(torch.ones(10, device=device))
    optimizer, scaler = OPTIMIZERS[name]([parameter], **options), torch.amp.GradScaler(device.type, init_scale=4.0)
    for gradient in [*gradients[:steps_before], math.inf, *gradients[steps_before:]]:
        scaler.scale((parameter * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    torch.testing.assert_close(parameter.cpu(), plain)
    assert scaler.get_scale() == 2.0


# ---- the configuration, and whole runs ----


def test_the_configuration_lists_the_optimizers():
    assert KEYS["optimizer"].choices == tuple(OPTIMIZERS)


def test_momentum_without_effect_is_reported():
    lines = []
    load_config("digits_lt", "clip_tiny", "lift+", ["momentum", "0.5", "optimizer", "AdamW"], lines.append)
    assert lines == ["momentum has no effect with optimizer AdamW; it is for optimizer SGD"]


def test_a_run_takes_its_optimizer_and_schedule(config, few_images):
    options = ("optimizer", "AdamW", "lr", 0.001, "schedule", "warmup_cosine", "warmup_epochs", 1, "print_freq", 1)
    run, results = train(config(*options))
    assert run.run_dir.path.name.endswith("_optimizer_AdamW_lr_0.001_schedule_warmup_cosine_warmup_epochs_1.0")
    chosen = {"optimizer": "AdamW", "schedule": "warmup_cosine", "warmup_epochs": 1.0}
    assert results["settings"].items() >= chosen.items()
    rows = [json.loads(line) for line in (run.run_dir.path / "metrics.jsonl").read_text().splitlines()]
    cosine = [0.001 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    assert [row["lr"] for row in rows] == pytest.approx([0.0002, 0.0004, 0.0006, 0.0008, 0.001, *cosine])


def test_an_interrupted_run_with_adamw_resumes_bit_for_bit(config, few_images):
    options = ("optimizer", "AdamW", "lr", 0.001, "num_epochs", 3, "schedule", "warmup_cosine", "warmup_epochs", 0.5)
    whole, expected = train(config(*options, "output_dir", "whole"))

    with Trainer(config(*options, "output_dir", "resumed")) as interrupted:
        interrupted.fit(1)
    with refused(CheckpointError, kind="other_identity", path="output/resumed/progress.safetensors", key="optimizer"):
        train(config(*options, "optimizer", "SGD", "output_dir", "resumed"))
    resumed, results = train(config(*options, "output_dir", "resumed"))
    first, second = (run.run_dir.checkpoint.read_bytes() for run in (whole, resumed))
    assert first == second
    assert results["accuracy"] == expected["accuracy"]
