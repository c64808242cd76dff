"""SSF (Lian et al. 2022, arXiv 2210.08823) of the outputs of a block's two norms.

    y <- y * scale + shift,   y the output of LN1 or LN2

scale starts at N(1, 0.02), shift at N(0, 0.02), as in `ssf`. The norms' own weights stay frozen (`ln_tuning` trains
them).
"""

from models.backbones.transformer import Block
from models.peft.method import BlockOptions, Method, Site
from models.peft.ssf import ScaleShift


def attach(site: Site[Block], options: BlockOptions) -> None:
    """Wraps the two norms of every block."""
    for block in site.blocks:
        block.norm1 = ScaleShift(block.norm1, block.dim)
        block.norm2 = ScaleShift(block.norm2, block.dim)


METHOD = Method(attach, BlockOptions, folds=True)
