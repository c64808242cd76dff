"""Full fine-tuning: all parameters of a block train; in a ResNet, those of its four stages, in LIFT the whole tower."""

from torch import nn

from models.peft.method import BlockOptions, Method, Site


def attach(site: Site[nn.Module], options: BlockOptions) -> None:
    """Makes every parameter of the blocks trainable; in a ResNet of LIFT+, stem and pooling stay frozen."""
    for block in site.blocks:
        block.requires_grad_(True)


METHOD = Method(attach, BlockOptions, targets=("transformer", "resnet"), folds=True)
