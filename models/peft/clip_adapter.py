"""CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544): a bottleneck in CLIP's joint space for images, and one for texts.

    z <- z + Up(ReLU(Down(LN(z)))),   z the projected feature of an image or of a class's text

Down and Up start as in `adapter`, so the output is unchanged before training.
"""

import dataclasses

from models.heads.text_similarity import TextSimilarity
from models.peft.adapter import Bottleneck
from models.peft.method import Method


@dataclasses.dataclass(frozen=True)
class Options:
    """dim: width of the bottlenecks."""

    dim: int = 4


def attach(head: TextSimilarity, options: Options) -> None:
    """Fills the two adapter slots of CLIP's head."""
    head.image_adapter = Bottleneck(head.joint_dim, options.dim)
    head.text_adapter = Bottleneck(head.joint_dim, options.dim)


METHOD = Method(attach, Options, targets=("head",))
