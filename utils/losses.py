"""Losses for long tails: a table of modules, each built with the training images per class and the head's scale.

A loss gives one value a sample, weighted where it weights; a step's loss is their sum divided by `total_weight` of the
step's labels. So a step computed in parts is the same as a step computed whole.
"""

import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_PRIOR = 1e-12  # of a class without training images: keeps the loss finite, and its logit out of the softmax


class CrossEntropy(nn.Module):
    """-log softmax(z)_y."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits float32 [B, C], labels int64 [B] -> losses [B]."""
        return F.cross_entropy(logits, labels, reduction="none")

    def total_weight(self, labels: Tensor) -> Tensor | int:
        """What the sum of a step's losses is divided by: here the number of its samples."""
        return len(labels)


class LogitAdjusted(CrossEntropy):
    """Cross entropy of z + log pi, pi_c = n_c / sum n (Menon et al. 2021, arXiv 2007.07314, tau = 1)."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)
        prior = class_counts.double() / class_counts.sum()
        self.register_buffer("log_prior", prior.clamp(min=SMALLEST_PRIOR).log().float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits + self.log_prior, labels)


LOSSES: dict[str, type[nn.Module]] = {
    "CE": CrossEntropy,
    "LA": LogitAdjusted,
}


def build_loss(cfg, class_counts: Tensor) -> nn.Module:
    """The loss that cfg.loss_type names; class_counts int64 [C]."""
    return LOSSES[cfg.loss_type](class_counts, scale=cfg.classifier_scale)
