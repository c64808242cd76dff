"""Projection tuning: trains the two projections into CLIP's joint space, and their biases, from pre-trained values.

Most CLIPs have no such bias. A CLIP ResNet has no image projection, so only the text projection is trained.
"""

from torch import nn

from models.heads.text_similarity import TextSimilarity
from models.peft.method import Method, NoOptions


def attach(head: TextSimilarity, options: NoOptions) -> None:
    """Turns the projections of CLIP's head from buffers into parameters."""
    for name in ("image_projection", "image_projection_bias", "text_projection", "text_projection_bias"):
        value = getattr(head, name)
        if value is not None:
            delattr(head, name)
            head.register_parameter(name, nn.Parameter(value))


METHOD = Method(attach, NoOptions, targets=("head",))
