"""Gradient checkpointing: transformer blocks are computed again in the backward pass, instead of saved for it.

A step then holds the input of each block and the saved activations of one block at a time (Chen et al. 2016, arXiv
1604.06174), for one more forward pass of the blocks. No bit changes: the same kernels compute the same tensors.
"""

from torch import nn

from models.backbones.tower import ImageTower, Tower
from utils.errors import ModelError


def checkpoint_blocks(model: nn.Module) -> int:
    """Sets every tower in `model` to recompute its blocks in the backward pass; returns the number of these blocks.

    Raises ModelError for a ResNet: a second pass would update the statistics of its BatchNorms twice.
    """
    towers = [module for module in model.modules() if isinstance(module, Tower)]
    if any(isinstance(tower, ImageTower) and tower.kind == "resnet" for tower in towers):
        raise ModelError(
            "checkpointing recomputes transformer blocks, which a ResNet does not have; leave it out, and save memory "
            "with accum_step",
            kind="checkpointing_of_a_resnet",
        )
    for tower in towers:
        tower.recomputes = True
    return sum(len(tower.blocks) for tower in towers)
