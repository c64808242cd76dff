"""Losses for long tails: a table of modules, each built from the training images per class and the head's scale.

A loss returns one value per sample, multiplied by its weight if the loss has weights; a step's loss is their sum
divided by `total_weight` of the step's labels. So a step computed in micro-batches is the same as a step computed
whole, unless the loss couples its samples (`couples_samples` of its row in utils/config/schema.py). Options of a loss
are keyword arguments.
Symbols: z logits, y label, C classes, n_c training images of class c, pi_c = n_c / sum n, B samples of a step.
"""

import math
from keyword import iskeyword

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import schema
from utils.tables import Table

# Prior of a class without training images. Its log (-691) is finite and still removes the class from the softmax.
SMALLEST_PRIOR = 1e-300
SMALLEST_FLOAT = torch.finfo(torch.float32).tiny  # in place of 0, whose powers below 1 have no finite derivative


class CrossEntropy(nn.Module):
    """CE = -log softmax(z)_y."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits float32 [B, C], labels int64 [B] -> losses [B]."""
        return F.cross_entropy(logits, labels, reduction="none")

    def total_weight(self, labels: Tensor) -> Tensor | int:
        """The divisor of the sum of a step's losses: here the number of its samples."""
        return len(labels)

    def softmax_log_prior(self, class_counts: Tensor) -> Tensor:
        """Log of the class prior for which softmax(z) is the posterior at the loss's minimum, float64 [C], up to a
        constant: here of the training prior. Focal and LDAM have no closed form, and inherit it as an approximation.

        A class without images counts as one with a single image.
        """
        return class_counts.double().clamp(min=1).log()


class Focal(CrossEntropy):
    """(1 - p_y)^gamma CE, p = softmax(z) (Lin et al. 2017, arXiv 1708.02002, gamma = 2)."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0, gamma: float = 2.0):
        super().__init__(class_counts, scale)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = super().forward(logits, labels)
        others = -torch.expm1(-losses)  # 1 - p_y = 1 - e^-CE; expm1 keeps its digits near 0
        return others.clamp(min=SMALLEST_FLOAT) ** self.gamma * losses


class LDAM(CrossEntropy):
    """CE of z with z_y - s m_y in place of z_y: a margin m_c = n_c^(-1/4), scaled so that the largest is margin, and
    the head's scale s, `classifier_scale` (Cao et al. 2019, arXiv 1906.07413, margin = 0.5). The largest is taken over
    the classes with training images.
    """

    shifts: Tensor

    def __init__(self, class_counts: Tensor, scale: float = 1.0, margin: float = 0.5):
        super().__init__(class_counts, scale)
        margins = class_counts.double() ** -0.25  # infinite without images
        of_largest = (margins / margins[class_counts > 0].max()).clamp(max=1)
        self.register_buffer("shifts", (scale * margin * of_largest).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
        return super().forward(logits - self.shifts * is_label, labels)


class _Weighted(CrossEntropy):
    """w_y CE; a step divides by the sum of its samples' weights."""

    weights: Tensor

    def set_weights(self, weights: Tensor, class_counts: Tensor) -> None:
        """Sets the weights: float64 [C], divided by their mean over the classes with training images."""
        self.register_buffer("weights", (weights / weights[class_counts > 0].mean()).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.weights[labels] * super().forward(logits, labels)

    def total_weight(self, labels: Tensor) -> Tensor:
        return self.weights[labels].sum()

    def softmax_log_prior(self, class_counts: Tensor) -> Tensor:
        return super().softmax_log_prior(class_counts) + self.weights.double().log()


class ClassBalanced(_Weighted):
    """w_y CE, w_c = (1 - beta) / (1 - beta^n_c): the inverse of the effective number of images (Cui et al. 2019, arXiv
    1901.05555, beta = 0.9999). Weights are divided by their mean, a step by the sum of its samples' weights.
    """

    def __init__(self, class_counts: Tensor, scale: float = 1.0, beta: float = 0.9999):
        super().__init__(class_counts, scale)
        counts = class_counts.double().clamp(min=1)  # a class without images counts as one with a single image
        self.set_weights((1 - beta) / (1 - beta**counts), class_counts)


class Reweighted(_Weighted):
    """w_y CE, w_c = 1 / pi_c (GRW). Weights are divided by their mean, a step by the sum of its samples' weights."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)
        counts = class_counts.double().clamp(min=1)  # a class without images counts as one with a single image
        self.set_weights(counts.sum() / counts, class_counts)


class LogitAdjusted(CrossEntropy):
    """CE of z + tau log pi (Menon et al. 2021, arXiv 2007.07314, tau = 1)."""

    log_prior: Tensor

    def __init__(self, class_counts: Tensor, scale: float = 1.0, tau: float = 1.0):
        super().__init__(class_counts, scale)
        prior = class_counts.double() / class_counts.sum()
        self.register_buffer("log_prior", prior.clamp(min=SMALLEST_PRIOR).log().float())
        self.tau = tau

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits + self.tau * self.log_prior, labels)

    def softmax_log_prior(self, class_counts: Tensor) -> Tensor:
        return (1 - self.tau) * super().softmax_log_prior(class_counts)


class BalancedSoftmax(LogitAdjusted):
    """CE of z + log n (Ren et al. 2020, arXiv 2007.10740). log n_c is log pi_c plus the same number for every class,
    which a softmax ignores: the same function as LA with tau = 1.
    """

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)


class LADE(LogitAdjusted):
    """LA's loss (tau = 1) plus alpha R (Hong et al. 2021, arXiv 2012.00321, alpha = lambda = 0.1), where

    R = - sum_c pi_c [ mean of z_c over the step's samples of class c - d_c - lambda d_c^2 ],
    d_c = logsumexp over the step of (z_c - log pi_c + log(1/C)) - log B.

    The mean is 0 for a class that is not in the step. R is a property of the whole step: every sample's loss
    includes all of R, so that their mean includes it once, and a step cannot be computed in micro-batches.
    """

    prior: Tensor

    def __init__(self, class_counts: Tensor, scale: float = 1.0, alpha: float = 0.1, lambda_: float = 0.1):
        super().__init__(class_counts, scale)
        self.register_buffer("prior", (class_counts.double() / class_counts.sum()).float())
        self.alpha, self.lambda_ = alpha, lambda_

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits, labels) + self.alpha * self.regulariser(logits, labels)

    def regulariser(self, logits: Tensor, labels: Tensor) -> Tensor:
        """R, a scalar."""
        batch, num_classes = logits.shape
        of_label = logits.gather(1, labels[:, None]).squeeze(1)
        class_size = (labels[:, None] == labels).sum(1)  # of each sample's class in this step; bincount would sync
        means = (self.prior[labels] / class_size * of_label).sum()  # sum_c pi_c (mean of z_c)
        d = (logits - self.log_prior).logsumexp(0) - math.log(num_classes) - math.log(batch)
        return (self.prior * (d + self.lambda_ * d**2)).sum() - means


LOSSES: Table[type[CrossEntropy]] = Table({name: row.code for name, row in schema.LOSSES.items()})


def build_loss(cfg, class_counts: Tensor) -> CrossEntropy:
    """The loss that cfg.loss_type names, with its options; class_counts int64 [C]."""
    name = cfg.loss_type
    options = {option: cfg[schema.loss_key(name, option)] for option in schema.LOSSES[name].options}
    keywords = {f"{option}_" if iskeyword(option) else option: value for option, value in options.items()}
    return LOSSES[name](class_counts, scale=cfg.classifier_scale, **keywords)
