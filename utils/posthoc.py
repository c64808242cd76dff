"""Ways to adjust logits after training: priors, temperature, and CLIP's own label bias. Arithmetic in float64.

z are logits [n, C] and y labels [n]. softmax(z) is the posterior under a class prior, P(y|x) = P(x|y) P(y) / P(x), so
another prior adds the difference of the logs: z + log target - log source (Saerens et al. 2002).
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import optimize
from scipy.special import logsumexp

from utils.errors import ModelError
from utils.metrics import class_scores

ROWS = 1024  # of logits that are processed at a time, so that temporaries stay small
SMALLEST_PRIOR = 1e-300  # of a class that a target leaves out; its log (-691) is finite
TAUS = np.linspace(0, 2, 41)
NORM_TAUS = np.linspace(0, 1, 21)


# ---- priors ----


def log_prior(counts: np.ndarray) -> np.ndarray:
    """log pi [C] of the shares of these counts or weights; a share of 0 counts as 1e-300."""
    return np.log(np.maximum(counts / np.sum(counts), SMALLEST_PRIOR))


def training_log_prior(counts: np.ndarray) -> np.ndarray:
    """log pi [C] of training images; a class without any counts as having one, as in the losses' weights.

    With a prior of 0, post-hoc logit adjustment would predict no other class.
    """
    return log_prior(np.maximum(counts, 1))


def class_weights(labels: np.ndarray, log_target: np.ndarray) -> np.ndarray:
    """The importance weight of each image, float64 [n], mean 1, for a target class prior.

    w_i = target_y / (share of y among the labels). Classes without images are left out.
    """
    shares = np.bincount(labels, minlength=len(log_target)) / len(labels)
    weights = np.exp(log_target)[labels] / shares[labels]
    return weights / weights.mean()


# ---- measures ----


def nll(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Weighted mean of -log softmax(z)_y over the images."""
    total = sum(
        float((each * (logsumexp(z, axis=1) - z[np.arange(len(y)), y])).sum())
        for z, y, each in _chunks(logits, labels, weights)
    )
    return total / len(labels) if weights is None else total / float(weights.sum())


def _chunks(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Logits in float64, labels and weights (None = ones), ROWS images at a time."""
    weights = np.ones(len(labels)) if weights is None else weights
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        yield logits[rows].astype(np.float64), labels[rows], weights[rows]


# ---- temperature ----


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The temperature T with the lowest NLL of z / T (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    The NLL is convex in 1 / T, so it is the root of the derivative, the mean of E[z] - z_y, E under softmax(z / T).
    Raises ModelError if there is none: all images are correct, or not more than by chance.
    """

    def slope(beta: float) -> float:
        total = 0.0
        for z, y, each in _chunks(logits, labels, weights):
            p = np.exp(beta * (z - z.max(axis=1, keepdims=True)))
            expected = (p * z).sum(axis=1) / p.sum(axis=1)
            total += float((each * (expected - z[np.arange(len(y)), y])).sum())
        return total / len(labels)

    if slope(0.0) >= 0:
        message = (
            "no temperature fits, as the logits of the fitting images are no better than chance; "
            "fit on other images, or choose a number: --temperature T"
        )
        raise ModelError(message, kind="no_temperature")
    if all((z[np.arange(len(y)), y] == z.max(axis=1)).all() for z, y, _ in _chunks(logits, labels)):
        message = (
            "no temperature fits, as the model is correct on every fitting image, so that the best is 0; "
            "fit on validation images, or choose a number: --temperature T"
        )
        raise ModelError(message, kind="no_temperature")
    upper = 1.0
    while slope(upper) < 0:  # ends, as the slope grows to a positive limit
        upper *= 2
    return 1 / optimize.brentq(slope, 0.0, upper, xtol=1e-12, rtol=1e-12)


# ---- CLIP's label bias ----


def fit_label_bias(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log q [C], the log of the label prior that a zero-shot model has learnt (Zhu et al. 2023, arXiv 2310.08106).

    The model's softmax is P(x|y) q(y) / P(x), so on images with class shares pi the posterior is softmax(z - log q +
    log pi). log q minimises its NLL, which is convex in log q; the gradient is pi - mean softmax. It is unconstrained,
    found by L-BFGS, and then shifted so that q sums to 1. A class without images has the mean log q of the others.
    """
    counts = np.bincount(labels, minlength=logits.shape[1])
    present = np.flatnonzero(counts)
    shares = counts[present] / len(labels)
    number = np.full(len(counts), -1)
    number[present] = np.arange(len(present))

    def value_and_gradient(log_q: np.ndarray) -> tuple[float, np.ndarray]:
        value, mean = 0.0, np.zeros(len(present))
        for z, y, _ in _chunks(logits, labels):
            shifted = z[:, present] - log_q + np.log(shares)
            norms = logsumexp(shifted, axis=1)
            value += float((norms - shifted[np.arange(len(y)), number[y]]).sum())
            mean += np.exp(shifted - norms[:, None]).sum(axis=0)
        return value / len(labels), shares - mean / len(labels)

    start = np.zeros(len(present))
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-15, "gtol": 1e-9}
    found = optimize.minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    log_q = np.zeros(len(counts))
    log_q[present] = found.x - found.x.mean()
    return log_q - logsumexp(log_q)


# ---- sweeps ----


def sweep(
    taus: np.ndarray, adjusted: Callable[[float], np.ndarray], labels: np.ndarray
) -> tuple[float, list[tuple[float, float]]]:
    """The tau with the best mean class accuracy of adjusted(tau) [n, C]; and all pairs (tau, accuracy in percent).

    Ties are broken by the lowest NLL with equally weighted classes.
    """
    accuracies = [_mean_class_accuracy(adjusted(tau), labels) for tau in taus]
    best = [float(tau) for tau, accuracy in zip(taus, accuracies, strict=True) if accuracy == max(accuracies)]
    if len(best) > 1:
        num_classes = adjusted(best[0]).shape[1]
        weights = class_weights(labels, np.full(num_classes, -np.log(num_classes)))
        best.sort(key=lambda tau: nll(adjusted(tau), labels, weights))
    return best[0], list(zip(map(float, taus), accuracies, strict=True))


def _mean_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes with images, percent."""
    scores = class_scores(labels, logits.argmax(1), logits.shape[1])
    return float(scores.accuracy[scores.images > 0].mean())
