"""LayerNorm tuning (LIFT's ln_tuning): the weights and biases of a block's norms train."""

from collections.abc import Sequence

from models.backbones.transformer import Block


def attach(blocks: Sequence[Block]) -> None:
    """Lets the two norms of every block train."""
    for block in blocks:
        block.norm1.requires_grad_(True)
        block.norm2.requires_grad_(True)
