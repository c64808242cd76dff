"""LayerNorm tuning (LIFT's ln_tuning): the weights and biases of a block's norms train."""

from models.backbones.transformer import Block
from models.peft.method import BlockOptions, Method, Site


def attach(site: Site[Block], options: BlockOptions) -> None:
    """Makes the two norms of every block trainable."""
    for block in site.blocks:
        block.norm1.requires_grad_(True)
        block.norm2.requires_grad_(True)


METHOD = Method(attach, BlockOptions, folds=True)
