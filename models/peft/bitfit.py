"""BitFit (Zaken et al. 2022, arXiv 2106.10199): every bias of a block trains, its norms' too."""

from collections.abc import Sequence

from models.transformer import Block


def attach(blocks: Sequence[Block], size: None = None) -> None:
    """Lets every bias of the blocks train."""
    for block in blocks:
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.requires_grad_(True)
