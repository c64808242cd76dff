"""Learning rates against torch.optim.lr_scheduler."""

import math

import pytest
import torch
from helpers import refused
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from utils.config import load_config
from utils.config.schema import KEYS
from utils.errors import ConfigError
from utils.schedule import SCHEDULES

LR = 0.02


def torchs(make_scheduler, num_steps):
    """The learning rates set by a scheduler of torch, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler, rates = make_scheduler(optimizer), []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(name, steps_per_epoch, num_epochs, warmup_epochs=0.0):
    steps = range(steps_per_epoch * num_epochs)
    return [SCHEDULES[name](LR, step, steps_per_epoch, num_epochs, warmup_epochs) for step in steps]


@pytest.mark.parametrize("num_epochs", [1, 2, 5, 20])
def test_cosine_is_torchs_stepped_once_an_epoch(num_epochs):
    rates = ours("cosine", 7, num_epochs)
    expected = torchs(lambda optimizer: CosineAnnealingLR(optimizer, num_epochs), num_epochs)
    for epoch in range(num_epochs):
        formula = LR * (1 + math.cos(math.pi * epoch / num_epochs)) / 2
        assert rates[7 * epoch : 7 * epoch + 7] == [formula] * 7  # to the last bit
        assert formula == pytest.approx(expected[epoch], rel=1e-9)


@pytest.mark.parametrize(
    "steps_per_epoch, num_epochs, warmup_epochs", [(7, 3, 1), (10, 2, 0.5), (3, 10, 4), (5, 2, 1.7)]
)
def test_warmup_cosine_is_torchs(steps_per_epoch, num_epochs, warmup_epochs):
    steps, warmup = steps_per_epoch * num_epochs, round(warmup_epochs * steps_per_epoch)

    def make(optimizer):
        rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, steps - warmup)], [warmup])

    rates = ours("warmup_cosine", steps_per_epoch, num_epochs, warmup_epochs)
    assert rates == pytest.approx(torchs(make, steps), rel=1e-6)
    assert max(rates) == rates[warmup] == LR


def test_warmup_cosine_without_a_warm_up_is_torchs_cosine_of_each_step():
    assert ours("warmup_cosine", 6, 4) == pytest.approx(
        torchs(lambda optimizer: CosineAnnealingLR(optimizer, 24), 24), rel=1e-6
    )


# ---- the configuration ----


def load(*options, warn=lambda line: None):
    return load_config("digits_lt", "clip_tiny", "lift+", [str(option) for option in options], warn)


def test_the_configuration_lists_the_schedules():
    assert KEYS["schedule"].choices == tuple(SCHEDULES)


def test_a_warm_up_as_long_as_the_training_is_refused():
    assert load("schedule", "warmup_cosine", "warmup_epochs", 1.5, "num_epochs", 2).warmup_epochs == 1.5
    with refused(ConfigError, kind="warmup_too_long", key="warmup_epochs"):
        load("schedule", "warmup_cosine", "warmup_epochs", 2, "num_epochs", 2)


def test_a_warm_up_without_effect_is_reported():
    lines = []
    load("warmup_epochs", 1, warn=lines.append)
    assert lines == ["warmup_epochs has no effect with schedule cosine; it is for schedule warmup_cosine"]
    lines.clear()
    load("warmup_epochs", 1, "schedule", "warmup_cosine", warn=lines.append)
    assert lines == []
