"""Adjustments after training against an analytic posterior, scipy's optimum, a loop, and a known label bias."""

import numpy as np
import pytest
import torch
from helpers import refused
from scipy import optimize, special, stats
from sklearn.metrics import log_loss

from models.losses import LOSSES
from utils import posthoc
from utils.errors import ModelError
from utils.metrics import expected_calibration_error

CLASSES = 5
MEANS = np.random.default_rng(7).normal(0, 1, (CLASSES, 2))  # of the classes' Gaussians, of unit covariance
LONG_TAIL = np.array([1000, 300, 90, 27, 8])


def log_likelihoods(points):
    """log P(x|y) of Gaussians, float64 [n, C]."""
    return np.stack([stats.multivariate_normal(mean).logpdf(points) for mean in MEANS], axis=1)


def draw(counts, seed=0):
    """Points of each class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), counts)
    return rng.normal(0, 1, (len(labels), 2)) + MEANS[labels], labels


def random_logits(case, images=400):
    """Logits, float32, that are better than chance, and labels."""
    rng = np.random.default_rng(case)
    labels = rng.integers(CLASSES, size=images)
    logits = rng.normal(0, rng.uniform(0.3, 5), (images, CLASSES))
    logits[np.arange(images), labels] += rng.uniform(0.5, 2)
    return logits.astype(np.float32), labels


# ---- priors ----


def test_another_prior_gives_the_posterior_of_bayes():
    points, _ = draw(LONG_TAIL)
    source, target = LONG_TAIL / LONG_TAIL.sum(), np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    densities = np.exp(log_likelihoods(points))
    of_source, of_target = (densities * prior for prior in (source, target))
    logits = np.log(of_source / of_source.sum(axis=1, keepdims=True))
    moved = logits + posthoc.log_prior(target) - posthoc.log_prior(source)
    expected = of_target / of_target.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(special.softmax(moved, axis=1), expected, rtol=1e-9)


def test_priors_are_finite_without_images():
    assert posthoc.log_prior(np.array([3, 0, 1])) == pytest.approx(np.log([0.75, 1e-300, 0.25]))
    assert posthoc.training_log_prior(np.array([3, 0, 1])) == pytest.approx(np.log([0.6, 0.2, 0.2]))


def fitted_logits(loss, points, labels):
    """Logits of the linear model that minimises a loss, the Gaussians' true family. L-BFGS in float64."""
    x = torch.from_numpy(np.column_stack([points, np.ones(len(points))]))
    weights = torch.zeros(3, CLASSES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-6)
    y = torch.from_numpy(labels)

    def closure():
        optimizer.zero_grad()
        value = loss(x @ weights, y).sum() / loss.total_weight(y)
        value.backward()
        return value

    optimizer.step(closure)
    return (x @ weights).detach().numpy()


@pytest.mark.parametrize(
    ("name", "options", "is_balanced"),
    [
        ("CE", {}, False),
        ("LA", {}, True),
        ("LA", {"tau": 0.5}, False),
        ("LA", {"tau": 2.0}, False),
        ("BS", {}, True),
        ("GRW", {}, True),
        ("CB", {"beta": 0.99}, False),
    ],
)
def test_the_softmax_of_a_trained_model_stands_for_the_prior_of_its_loss(name, options, is_balanced):
    """Trained on a long tail, then moved from that prior to a uniform one, every loss leads to the same posterior."""
    counts = 40 * LONG_TAIL
    points, labels = draw(counts)
    loss = LOSSES[name](torch.from_numpy(counts), **options).double()
    logits = fitted_logits(loss, points, labels)
    balanced = logits - loss.softmax_log_prior(torch.from_numpy(counts)).numpy()
    expected = special.softmax(log_likelihoods(points), axis=1)
    weights = posthoc.class_weights(labels, np.full(CLASSES, -np.log(CLASSES)))

    def distance(found):
        return np.average(np.abs(special.softmax(found, axis=1) - expected).sum(axis=1), weights=weights)

    assert distance(balanced) < 0.05
    if not is_balanced:
        assert distance(logits) > 0.2


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_finite_prior(name):
    counts = torch.tensor([100, 10, 1, 0])
    assert LOSSES[name](counts).softmax_log_prior(counts).isfinite().all()


def test_weights_make_one_prior_stand_for_another():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    weights = posthoc.class_weights(labels, np.log([0.2, 0.3, 0.5]))
    shares = np.bincount(labels, weights) / weights.sum()
    assert shares == pytest.approx([0.2, 0.3, 0.5])
    assert weights.mean() == pytest.approx(1)
    own = posthoc.class_weights(labels, np.log([0.6, 0.3, 0.1]))
    assert own == pytest.approx(np.ones(100))


# ---- measures ----


@pytest.mark.parametrize("case", range(5))
def test_nll_is_scikit_learns(case):
    logits, labels = random_logits(case, images=3000)
    probabilities = special.softmax(logits.astype(float), axis=1)
    weights = np.random.default_rng(case).uniform(0, 2, len(labels))
    columns = {"labels": np.arange(CLASSES)}
    assert posthoc.nll(logits, labels) == pytest.approx(log_loss(labels, probabilities, **columns))
    expected = log_loss(labels, probabilities, sample_weight=weights, **columns)
    assert posthoc.nll(logits, labels, weights) == pytest.approx(expected)


@pytest.mark.parametrize("case", range(5))
def test_a_weight_of_two_in_the_calibration_error_is_an_image_twice(case):
    logits, labels = random_logits(case)
    weights = np.random.default_rng(case).integers(0, 4, len(labels))
    twice = np.repeat(np.arange(len(labels)), weights)
    expected = expected_calibration_error(logits[twice], labels[twice])
    assert expected_calibration_error(logits, labels, weights=weights.astype(float)) == pytest.approx(expected)


# ---- temperature ----


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", range(6))
def test_the_temperature_is_scipys_optimum(case, weighted):
    logits, labels = random_logits(case, images=1500)
    weights = np.random.default_rng(case).uniform(0, 2, len(labels)) if weighted else None

    def loss(log_temperature):
        p = special.softmax(logits.astype(float) / np.exp(log_temperature), axis=1)
        return log_loss(labels, p, sample_weight=weights, labels=np.arange(CLASSES))

    found = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    assert posthoc.fit_temperature(logits, labels, weights) == pytest.approx(np.exp(found.x), rel=1e-4)


@pytest.mark.parametrize("factor", [0.01, 0.5, 3.0, 1000.0])
def test_the_temperature_of_scaled_logits_is_scaled(factor):
    logits, labels = random_logits(1)
    scaled = (factor * logits.astype(float)).astype(np.float64)
    expected = factor * posthoc.fit_temperature(logits, labels)
    assert posthoc.fit_temperature(scaled, labels) == pytest.approx(expected, rel=1e-6)


def test_true_posteriors_have_the_temperature_one():
    points, labels = draw(40 * LONG_TAIL)
    logits = log_likelihoods(points) + np.log(LONG_TAIL)
    assert posthoc.fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)
    balanced = posthoc.class_weights(labels, np.full(CLASSES, -np.log(CLASSES)))
    assert posthoc.fit_temperature(log_likelihoods(points), labels, balanced) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_without_a_best_temperature_are_refused(sign):
    labels = np.arange(20) % CLASSES
    with refused(ModelError, kind="no_temperature"):
        posthoc.fit_temperature(sign * np.eye(CLASSES)[labels], labels)


# ---- CLIP's label bias ----


@pytest.mark.parametrize("counts", [40 * LONG_TAIL, [4000] * CLASSES, 40 * LONG_TAIL[::-1]])
def test_a_known_label_bias_is_recovered(counts):
    """A model that has learnt P(x|y) q(y) has the bias q, for any class shares of the fitting images."""
    q = np.array([0.05, 0.4, 0.25, 0.1, 0.2])
    points, labels = draw(counts)
    found = posthoc.fit_label_bias(log_likelihoods(points) + np.log(q), labels)
    assert np.exp(found).sum() == pytest.approx(1)
    assert np.exp(found) == pytest.approx(q, abs=0.02)


def test_the_mean_posterior_is_the_class_shares_at_the_label_bias():
    logits, labels = random_logits(3)
    shares = np.bincount(labels) / len(labels)
    log_q = posthoc.fit_label_bias(logits, labels)
    mean = special.softmax(logits - log_q + np.log(shares), axis=1).mean(axis=0)
    assert mean == pytest.approx(shares, abs=1e-6)  # the gradient is zero, and the problem is convex


def test_the_label_bias_minimises_the_nll():
    logits, labels = random_logits(4)
    shares = np.bincount(labels) / len(labels)

    def loss(log_q):
        return log_loss(labels, special.softmax(logits - log_q + np.log(shares), axis=1), labels=np.arange(CLASSES))

    log_q = posthoc.fit_label_bias(logits, labels)
    found = optimize.minimize(loss, np.zeros(CLASSES), method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-12})
    assert loss(log_q) <= found.fun + 1e-9
    rng = np.random.default_rng(0)
    assert all(loss(log_q) <= loss(log_q + rng.normal(0, 0.1, CLASSES)) for _ in range(20))


def test_a_class_without_images_has_the_mean_label_bias():
    logits, labels = random_logits(5)
    keep = labels != 2
    log_q = posthoc.fit_label_bias(logits[keep], labels[keep])
    others = np.delete(np.arange(CLASSES), 2)
    assert log_q[2] == pytest.approx(log_q[others].mean())
    without = posthoc.fit_label_bias(logits[keep][:, others], np.searchsorted(others, labels[keep]))
    assert log_q[others] - log_q[others].mean() == pytest.approx(without - without.mean(), abs=1e-6)


# ---- sweeps ----


def test_a_sweep_finds_the_training_prior():
    """A model of the training prior is best at tau 1 for equally weighted classes; its curve is that of a loop."""
    points, labels = draw(20 * LONG_TAIL)
    logits = log_likelihoods(points) + posthoc.log_prior(LONG_TAIL)

    def adjusted(tau):
        return logits - tau * posthoc.log_prior(LONG_TAIL)

    tau, curve = posthoc.sweep(posthoc.TAUS, adjusted, labels)
    assert [each for each, _ in curve] == pytest.approx(np.arange(0, 2.01, 0.05))
    for each, accuracy in curve[::10]:
        predicted = adjusted(each).argmax(1)
        assert accuracy == pytest.approx(100 * np.mean([(predicted[labels == c] == c).mean() for c in range(CLASSES)]))
    assert tau == pytest.approx(1, abs=0.3)
    assert dict(curve)[tau] == max(accuracy for _, accuracy in curve)


def test_equal_accuracies_are_decided_by_the_balanced_nll():
    labels = np.array([0, 0, 0, 1])
    logits = np.array([[4.0, 0], [4, 0], [4, 0], [0, 4]])
    tau, curve = posthoc.sweep(np.linspace(-1, 1, 5), lambda tau: logits + [tau, 0], labels)
    assert {accuracy for _, accuracy in curve} == {100}
    assert tau == 0
