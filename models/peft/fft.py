"""Full fine-tuning: all parameters of a block train."""

from collections.abc import Sequence

from models.transformer import Block


def attach(blocks: Sequence[Block], size: None = None) -> None:
    """Lets every parameter of the blocks train."""
    for block in blocks:
        block.requires_grad_(True)
