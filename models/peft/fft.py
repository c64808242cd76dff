"""Full fine-tuning: all parameters of a block train."""

from collections.abc import Iterable

from torch import nn

from models.backbones.resnet import ResNet


def attach(blocks: Iterable[nn.Module]) -> None:
    """Lets every parameter of the blocks train."""
    for block in blocks:
        block.requires_grad_(True)


def attach_resnet(tower: ResNet) -> None:
    """Lets every parameter of the stages train; stem and pooling stay."""
    attach(tower.stages)


def attach_whole_resnet(tower: ResNet) -> None:
    """Lets every parameter of the tower train, stem and pooling too: LIFT's full tuning of a ResNet."""
    attach([tower.net])
