"""SSF (Lian et al. 2022, arXiv 2210.08823) of what the two norms of a block give.

    y <- y * scale + shift,   y the output of LN1 or LN2

scale starts at N(1, 0.02), shift at N(0, 0.02), as in `ssf`. The norms' own weights stay (`ln_tuning` trains those).
"""

from collections.abc import Sequence

from models.backbones.transformer import Block
from models.peft.ssf import ScaleShift


def attach(blocks: Sequence[Block]) -> None:
    """Wraps the two norms of every block."""
    for block in blocks:
        block.norm1 = ScaleShift(block.norm1, block.dim)
        block.norm2 = ScaleShift(block.norm2, block.dim)
