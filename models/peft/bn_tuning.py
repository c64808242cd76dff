"""BatchNorm tuning (LIFT's bn_tuning) of a ResNet: the weight and bias of every BatchNorm train.

    training  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias,   over the images of a batch and their pixels
    testing   the same with the running mean and variance, which training moves by a tenth towards those of the batch

A batch is computed as a whole: each micro-batch of accum_step, and each of several processes, would have its own
statistics (utils/config/checking.py refuses both).
"""

from typing import cast

from torch import nn

from models.backbones.resnet import ResNet
from models.peft.method import Method, NoOptions, Site
from utils.run.checkpoint import MOVES_STATISTICS


def attach(site: Site[nn.Module], options: NoOptions) -> None:
    """Makes every BatchNorm of the tower trainable, including the stem's, and lets it update its statistics."""
    tower = cast(ResNet, site.tower)  # METHOD.targets
    for norm in tower.batch_norms:
        norm.requires_grad_(True)
        setattr(norm, MOVES_STATISTICS, True)
    tower.train(tower.training)


METHOD = Method(attach, NoOptions, targets=("resnet",), folds=True)
