"""Losses for long tails: a table of modules, each built with the training images per class and the head's scale.

A loss gives one value a sample, weighted where it weights; a step's loss is their sum divided by `total_weight` of the
step's labels. So a step computed in parts is the same as a step computed whole, unless the loss couples its samples.
Symbols: z logits, y label, C classes, n_c training images of class c, pi_c = n_c / sum n, B samples of a step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of a class without training images: its log, -691, is finite and takes the class out of a softmax of any real logits.
SMALLEST_PRIOR = 1e-300


class CrossEntropy(nn.Module):
    """CE = -log softmax(z)_y."""

    couples_samples = False  # True: a sample's loss depends on the others of its step, which then cannot go in parts

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits float32 [B, C], labels int64 [B] -> losses [B]."""
        return F.cross_entropy(logits, labels, reduction="none")

    def total_weight(self, labels: Tensor) -> Tensor | int:
        """What the sum of a step's losses is divided by: here the number of its samples."""
        return len(labels)


class Focal(CrossEntropy):
    """(1 - p_y)^gamma CE, p = softmax(z), gamma = 2 (Lin et al. 2017, arXiv 1708.02002)."""

    gamma = 2

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = super().forward(logits, labels)
        return (-torch.expm1(-losses)) ** self.gamma * losses  # p_y = e^-CE; expm1 keeps the digits of 1 - p_y near 0


class LDAM(CrossEntropy):
    """CE of z with z_y - s m_y in place of z_y: a margin m_c = n_c^(-1/4), scaled so that the largest is 0.5, and s the
    head's scale (Cao et al. 2019, arXiv 1906.07413). The largest is taken over the classes with training images.
    """

    largest_margin = 0.5

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)
        margins = class_counts.double() ** -0.25  # infinite without images
        margins = self.largest_margin * margins / margins[class_counts > 0].max()
        self.register_buffer("shifts", (scale * margins.clamp(max=self.largest_margin)).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
        return super().forward(logits - self.shifts * is_label, labels)


class _Weighted(CrossEntropy):
    """w_y CE, the weights divided by their mean over the classes with images; a step divides by the sum of its w_y."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)
        weights = self.weigh(class_counts.double().clamp(min=1))  # without images: as with one, to stay finite
        self.register_buffer("weights", (weights / weights[class_counts > 0].mean()).float())

    def weigh(self, class_counts: Tensor) -> Tensor:
        """class_counts float64 [C], at least 1 -> weights [C], up to a factor."""
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.weights[labels] * super().forward(logits, labels)

    def total_weight(self, labels: Tensor) -> Tensor:
        return self.weights[labels].sum()


class ClassBalanced(_Weighted):
    """w_y CE, w_c = (1 - beta) / (1 - beta^n_c), beta = 0.9999: one over the effective number of images (Cui et al.
    2019, arXiv 1901.05555). Weights are divided by their mean, a step by the sum of its samples' weights.
    """

    beta = 0.9999

    def weigh(self, class_counts: Tensor) -> Tensor:
        return (1 - self.beta) / (1 - self.beta**class_counts)


class Reweighted(_Weighted):
    """w_y CE, w_c = 1 / pi_c (GRW). Weights are divided by their mean, a step by the sum of its samples' weights."""

    def weigh(self, class_counts: Tensor) -> Tensor:
        return class_counts.sum() / class_counts


class LogitAdjusted(CrossEntropy):
    """CE of z + log pi (Menon et al. 2021, arXiv 2007.07314, tau = 1)."""

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)
        prior = class_counts.double() / class_counts.sum()
        self.register_buffer("log_prior", prior.clamp(min=SMALLEST_PRIOR).log().float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits + self.log_prior, labels)


class BalancedSoftmax(LogitAdjusted):
    """CE of z + log n (Ren et al. 2020, arXiv 2007.10740). log n_c is log pi_c plus the same number for every class,
    which a softmax does not see: this is LA by another name.
    """


class LADE(LogitAdjusted):
    """LA's loss plus alpha R, alpha = lambda = 0.1 (Hong et al. 2021, arXiv 2012.00321), where

    R = - sum_c pi_c [ mean of z_c over the step's samples of class c - d_c - lambda d_c^2 ],
    d_c = logsumexp over the step of (z_c - log pi_c + log(1/C)) - log B.

    The mean is 0 for a class that is not in the step. R belongs to the step: every sample's loss carries it whole, so
    their mean carries it once.
    """

    couples_samples = True
    alpha = 0.1
    lambda_ = 0.1

    def __init__(self, class_counts: Tensor, scale: float = 1.0):
        super().__init__(class_counts, scale)
        self.register_buffer("prior", (class_counts.double() / class_counts.sum()).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits, labels) + self.alpha * self.regulariser(logits, labels)

    def regulariser(self, logits: Tensor, labels: Tensor) -> Tensor:
        """R, a scalar."""
        batch, num_classes = logits.shape
        of_label = logits.gather(1, labels[:, None]).squeeze(1)
        class_size = (labels[:, None] == labels).sum(1)  # of each sample's class in this step; bincount would wait
        means = (self.prior[labels] / class_size * of_label).sum()  # sum_c pi_c (mean of z_c)
        d = (logits - self.log_prior).logsumexp(0) - math.log(num_classes) - math.log(batch)
        return (self.prior * (d + self.lambda_ * d**2)).sum() - means


LOSSES: dict[str, type[CrossEntropy]] = {
    "CE": CrossEntropy,
    "Focal": Focal,
    "LDAM": LDAM,
    "CB": ClassBalanced,
    "GRW": Reweighted,
    "BS": BalancedSoftmax,
    "LA": LogitAdjusted,
    "LADE": LADE,
}


def build_loss(cfg, class_counts: Tensor) -> nn.Module:
    """The loss that cfg.loss_type names; class_counts int64 [C]."""
    return LOSSES[cfg.loss_type](class_counts, scale=cfg.classifier_scale)
