"""BitFit (Zaken et al. 2022, arXiv 2106.10199): every bias of a block trains, its norms' too."""

from collections.abc import Iterable

from torch import nn

from models.backbones.resnet import ResNet


def attach(blocks: Iterable[nn.Module]) -> None:
    """Lets every bias of the blocks train."""
    for block in blocks:
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.requires_grad_(True)


def attach_resnet(tower: ResNet) -> None:
    """Lets every bias inside the stages train: those of the BatchNorms."""
    attach(tower.stages)


def attach_whole_resnet(tower: ResNet) -> None:
    """Lets every bias of the tower train, of its stem and its attention pool too: LIFT's bias tuning of a ResNet."""
    attach([tower.net])
