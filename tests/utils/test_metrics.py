"""Scores against scikit-learn and scipy; shot groups at their borders; the learning rate."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from datasets.long_tail import shot_groups
from utils.metrics import score
from utils.schedule import cosine_lr


def random_case(case):
    """Labels with some classes untested, predictions of varied quality, training counts of a long tail."""
    rng = np.random.default_rng(case)
    classes = int(rng.integers(2, 12))
    tested = rng.choice(classes, size=int(rng.integers(1, classes + 1)), replace=False)
    labels = rng.choice(tested, size=int(rng.integers(5, 200)))
    random = rng.integers(classes, size=len(labels))
    predictions = np.where(rng.random(len(labels)) < rng.random(), labels, random)
    counts = rng.choice([0, 1, 19, 20, 21, 99, 100, 101, 500], size=classes)
    return labels, predictions, [f"class {c}" for c in range(classes)], counts


@pytest.mark.parametrize("case", range(40))
def test_scores_are_scikit_learns_and_scipys(case):
    labels, predictions, names, counts = random_case(case)
    groups = shot_groups(counts)
    found = score(labels, predictions, names, counts, groups)
    tested = np.unique(labels)
    recalls = metrics.recall_score(labels, predictions, labels=tested, average=None, zero_division=0)

    accuracy = found["accuracy"]
    assert accuracy["overall"] == pytest.approx(100 * metrics.accuracy_score(labels, predictions))
    assert accuracy["mean_class"] == pytest.approx(100 * recalls.mean())
    for name, mask in groups.items():
        inside = mask[tested]
        expected = pytest.approx(100 * recalls[inside].mean()) if inside.any() else None
        assert accuracy[name] == expected, name

    f1 = metrics.f1_score(labels, predictions, labels=tested, average="macro", zero_division=0)
    assert found["more"] == {
        "macro_f1": pytest.approx(100 * f1),
        "worst_class": pytest.approx(100 * recalls.min()),
        "harmonic_mean": pytest.approx(stats.hmean(100 * recalls)),
        "geometric_mean": pytest.approx(stats.gmean(100 * recalls) if recalls.all() else 0),
    }

    assert [row["name"] for row in found["per_class"]] == names
    assert [row["train"] for row in found["per_class"]] == counts.tolist()
    assert [row["test"] for row in found["per_class"]] == [int((labels == c).sum()) for c in range(len(names))]
    per_class = dict(zip(tested.tolist(), 100 * recalls, strict=True))
    for c, row in enumerate(found["per_class"]):
        assert row["accuracy"] == (pytest.approx(per_class[c]) if c in per_class else None)


def test_mean_class_accuracy_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    labels, predictions = np.arange(50) % 5, rng.integers(5, size=50)
    names, counts = list("abcde"), np.ones(5, int)
    expected = 100 * metrics.balanced_accuracy_score(labels, predictions)
    assert score(labels, predictions, names, counts, {})["accuracy"]["mean_class"] == pytest.approx(expected)


def test_untested_class_is_told_and_shifts_nothing():
    """Class 1 has no test image, and with it the few-shot group none; that it was predicted once changes no recall."""
    labels, predictions = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    counts = np.array([200, 5, 50])
    found = score(labels, predictions, ["a", "b", "c"], counts, shot_groups(counts))
    assert found["accuracy"] == {"overall": 75, "mean_class": 75, "many": 50, "medium": 100, "few": None}
    assert found["more"]["worst_class"] == 50
    assert found["more"]["harmonic_mean"] == pytest.approx(200 / 3)
    assert found["per_class"][1] == {"name": "b", "train": 5, "test": 0, "accuracy": None}


def test_scores_are_plain_numbers():
    """They go into a JSON file."""
    import json

    labels, predictions, names, counts = random_case(0)
    found = score(labels, predictions, names, counts, shot_groups(counts))
    assert json.loads(json.dumps(found)) == found


def test_shot_groups_at_their_borders():
    """many > 100, 20 <= medium <= 100, few < 20; every class is in exactly one."""
    counts = np.array([0, 1, 19, 20, 21, 99, 100, 101, 5000])
    groups = shot_groups(counts)
    assert list(groups) == ["many", "medium", "few"]
    assert counts[groups["few"]].tolist() == [0, 1, 19]
    assert counts[groups["medium"]].tolist() == [20, 21, 99, 100]
    assert counts[groups["many"]].tolist() == [101, 5000]
    assert (sum(mask.astype(int) for mask in groups.values()) == 1).all()


@pytest.mark.parametrize("num_epochs", [1, 2, 5, 20])
def test_learning_rate_is_torchs_cosine(num_epochs):
    """lr (1 + cos(pi epoch / num_epochs)) / 2, against torch's CosineAnnealingLR stepped once an epoch."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs)
    for epoch in range(num_epochs):
        assert cosine_lr(0.02, epoch, num_epochs) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert cosine_lr(0.02, 0, num_epochs) == 0.02
    assert math.isclose(cosine_lr(0.02, 1, 2), 0.01)
