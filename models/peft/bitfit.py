"""BitFit (Zaken et al. 2022, arXiv 2106.10199): every bias of a block trains, including those of its norms."""

from torch import nn

from models.peft.method import BlockOptions, Method, Site


def attach(site: Site[nn.Module], options: BlockOptions) -> None:
    """Makes every bias of the blocks trainable; in a ResNet of LIFT+ those are the BatchNorms' biases."""
    for block in site.blocks:
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.requires_grad_(True)


METHOD = Method(attach, BlockOptions, targets=("transformer", "resnet"), folds=True)
