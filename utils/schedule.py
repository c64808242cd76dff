"""Learning rates over a run, by name: `schedule warmup_cosine` on the command line chooses from SCHEDULES.

A schedule is a function (lr, step, steps_per_epoch, num_epochs, warmup_epochs) -> the learning rate of an optimizer
step. `step` counts from 0 over the whole run, so that a resumed run needs no state.
"""

import math
from collections.abc import Callable

from utils.config import schema
from utils.tables import Table

Schedule = Callable[[float, int, int, int, float], float]


def cosine(lr: float, step: int, steps_per_epoch: int, num_epochs: int, warmup_epochs: float = 0.0) -> float:
    """lr * (1 + cos(pi epoch / num_epochs)) / 2, constant in an epoch, no warm-up (Loshchilov and Hutter 2017,
    arXiv 1608.03983)."""
    epoch = step // steps_per_epoch
    return lr * (1 + math.cos(math.pi * epoch / num_epochs)) / 2


def warmup_cosine(lr: float, step: int, steps_per_epoch: int, num_epochs: int, warmup_epochs: float = 0.0) -> float:
    """lr * (step + 1) / w in the w steps of the warm-up (Goyal et al. 2017, arXiv 1706.02677), then step by step
    lr * (1 + cos(pi (step - w) / (steps - w))) / 2.

    w is `warmup_epochs` in whole steps, steps the number of the whole run. The rate would be 0 in the step after the
    last.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    cosine_steps = steps_per_epoch * num_epochs - warmup_steps
    return lr * (1 + math.cos(math.pi * (step - warmup_steps) / cosine_steps)) / 2


SCHEDULES: Table[Schedule] = Table(schema.SCHEDULES)
