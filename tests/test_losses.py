"""Losses against formulas written sample by sample, and a step in parts against a step whole."""

import math

import pytest
import torch

from utils.losses import LOSSES


def cross_entropy(z, y):
    """-log softmax(z)_y of one sample, z a list of numbers."""
    largest = max(z)
    return math.log(sum(math.exp(v - largest) for v in z)) + largest - z[y]


def logit_adjusted(z, y, counts):
    """Cross entropy of z + log pi."""
    priors = [n / sum(counts) for n in counts]
    return cross_entropy([v + math.log(p) for v, p in zip(z, priors, strict=True)], y)


# the loss of a whole step: logits (lists), labels, class counts, the head's scale -> a number
FORMULAS = {
    "CE": lambda z, y, counts, scale: sum(map(cross_entropy, z, y)) / len(y),
    "LA": lambda z, y, counts, scale: sum(logit_adjusted(a, b, counts) for a, b in zip(z, y, strict=True)) / len(y),
}


def step_loss(loss, logits, labels, parts=1):
    """As in a training step: the sum over the parts of the samples' losses, divided by the weight of the whole step."""
    weight = loss.total_weight(labels)
    size = -(-len(labels) // parts)
    return sum(loss(z, y).sum() / weight for z, y in zip(logits.split(size), labels.split(size), strict=True))


def random_case(case):
    """Logits of varied size, labels, and counts of a long tail."""
    generator = torch.Generator().manual_seed(case)
    batch, classes = (int(torch.randint(2, 9, (), generator=generator)) for _ in range(2))
    logits = 10 * torch.rand((), generator=generator) * torch.randn(batch, classes, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator)
    counts = torch.randint(1, 1000, (classes,), generator=generator)
    return logits.double(), labels, counts


def numeric_gradient(function, z, step=1e-5):
    """Of a function of a list of lists, by central differences."""
    gradient = [[0.0] * len(row) for row in z]
    for i, row in enumerate(z):
        for j in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(r) for r in z]
                moved[i][j] += sign * step
                ends.append(function(moved))
            gradient[i][j] = (ends[0] - ends[1]) / (2 * step)
    return torch.tensor(gradient, dtype=torch.float64)


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_its_formula_in_value_and_gradient(name, case):
    logits, labels, counts = random_case(case)
    scale = 25.0
    logits.requires_grad_()
    value = step_loss(LOSSES[name](counts, scale=scale), logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)

    def formula(z):
        return FORMULAS[name](z, labels.tolist(), counts.tolist(), scale)

    assert value.item() == pytest.approx(formula(logits.tolist()), rel=1e-6)
    assert torch.allclose(gradient, numeric_gradient(formula, logits.tolist()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_class_without_training_images_leaves_the_loss_finite(name):
    """Even that of a sample of this very class."""
    counts = torch.tensor([900, 0, 90, 10])
    logits = torch.zeros(4, 4, requires_grad=True)
    losses = LOSSES[name](counts, scale=25.0)(logits, torch.arange(4))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("counts", [[900, 0, 90, 10], [1, 0, 0, 1]])
def test_logit_adjustment_is_as_if_the_class_without_images_were_not_there(counts):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    kept = [c for c in range(4) if counts[c]]
    for label in kept:
        labels = torch.full((5,), label)
        found = LOSSES["LA"](torch.tensor(counts))(logits, labels)
        smaller = LOSSES["LA"](torch.tensor([counts[c] for c in kept]))
        expected = smaller(logits[:, kept], torch.full((5,), kept.index(label)))
        assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [8, 7, 5, 1])  # the last step of an epoch is smaller
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_step_in_parts_equals_the_step_whole(name, parts, size):
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(size, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(6, (size,), generator=generator)
    loss = LOSSES[name](torch.tensor([500, 200, 80, 30, 10, 2]), scale=25.0)
    whole, in_parts = step_loss(loss, logits, labels), step_loss(loss, logits, labels, parts)
    assert in_parts.item() == pytest.approx(whole.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (whole, in_parts)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-15)


def test_loss_of_large_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    for name in LOSSES:
        assert LOSSES[name](torch.tensor([5, 3, 1]), scale=25.0)(logits, torch.tensor([1])).isfinite().all()
