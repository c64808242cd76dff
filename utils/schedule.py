"""The learning rate."""

import math


def cosine_lr(lr: float, epoch: int, num_epochs: int) -> float:
    """lr * (1 + cos(pi epoch / num_epochs)) / 2, constant within an epoch (Loshchilov and Hutter 2017)."""
    return lr * (1 + math.cos(math.pi * epoch / num_epochs)) / 2
