"""The most probable classes and their probabilities, against a sort and scipy's softmax."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from models.outputs import label_probabilities, mean_logits, top_predictions


@pytest.mark.parametrize("shape, k", [((7, 12), 5), ((3, 4), 4), ((1, 1), 1), ((0, 6), 3)])
def test_top_predictions_are_the_first_of_a_stable_sort(shape, k, device):
    """Numbers of few values, so that most rows have classes with equal logits."""
    logits = torch.randint(-3, 3, shape, generator=torch.Generator().manual_seed(0)).float()
    classes, probabilities = (found.cpu() for found in top_predictions(logits.to(device), k))
    expected = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k]
    assert np.array_equal(classes.numpy(), expected)
    assert classes.dtype == torch.int64
    exact = np.take_along_axis(softmax(logits.double().numpy(), axis=1), expected, axis=1)
    assert probabilities.numpy() == pytest.approx(exact, rel=1e-6)
    if k == shape[1]:
        assert probabilities.sum(1).tolist() == pytest.approx([1.0] * shape[0])


def test_the_first_of_equal_classes_is_that_of_argmax():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]])
    assert top_predictions(logits, 4)[0].tolist() == [[1, 2, 4, 0]]
    assert logits.tolist() == [[1.0, 3.0, 3.0, 0.0, 3.0]]  # not changed


def test_logits_that_softmax_takes_to_zero_keep_their_order(device):
    classes, probabilities = top_predictions(torch.tensor([[0.0, -500.0, -400.0, 300.0]], device=device), 4)
    assert classes.tolist() == [[3, 0, 2, 1]]
    assert probabilities.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_label_probabilities(device):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    expected = softmax(logits.double().numpy(), axis=1)[np.arange(6), labels.numpy()]
    found = label_probabilities(logits.to(device), labels.to(device))
    assert found.cpu().numpy() == pytest.approx(expected, rel=1e-6)


def test_mean_logits_are_those_of_the_crops():
    head, features = torch.nn.Linear(3, 2), torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(2))
    expected = np.mean([head(crop).detach().numpy() for crop in features], axis=0)
    assert mean_logits(head, features).detach().numpy() == pytest.approx(expected, rel=1e-5)
