"""BatchNorm tuning (LIFT's bn_tuning) of a ResNet: the weight and bias of every BatchNorm train.

    training  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias,   over the images of a step and their pixels
    testing   the same with the running mean and variance, which training moves by a tenth towards a step's

So a step's images are computed together: with accum_step or on several processes each part would have its own
statistics (utils/config/checking.py refuses both).
"""

from models.backbones.resnet import ResNet


def attach(tower: ResNet) -> None:
    """Lets every BatchNorm of the tower train, and its statistics follow the images."""
    for norm in tower.batch_norms:
        norm.requires_grad_(True)
        norm.moves_statistics = True  # read by ResNet.train and by utils/checkpoint.py
    tower.train(tower.training)
