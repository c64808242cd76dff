"""Logistic regression on the device: scikit-learn's objective, minimised by the L-BFGS that scikit-learn calls.

With y the class of an image, s_c = n / (C n_c) (class_weight="balanced") and C=1 for the penalty, on W and not on b:

    f(W, b) = 1/n sum_i s_y_i (logsumexp(W x_i + b) - (W x_i + b)_y_i) + 1/(2n) |W|^2

Two classes have one row, the logit of class 0 being 0. Only the sums over the images are computed here, some rows of
logits at a time; start, steps and stopping are scipy's and those of sklearn.linear_model.LogisticRegression (1.9.1).
So the result is scikit-learn's up to rounding, also if it stops before the optimum: after a few steps with many
classes, by the tolerance, or after 100 iterations with badly scaled features (where scikit-learn's own result depends
on the order of the images).
"""

import numpy as np
import torch
from torch import Tensor

ITERATIONS, TOLERANCE = 100, 1e-4  # scikit-learn's defaults; the tolerance is for the gradient's largest entry
LOGITS = 2**24  # in memory at a time: 64 MB in float32
# Multiply-adds a second, n D C in an iteration: 0.8e10 to 1.6e10 with scikit-learn 1.9.1 on one core of an AMD EPYC.
SKLEARN_RATE = 1e10


def sklearn_seconds(num_images: int, dim: int, num_classes: int) -> float:
    """An estimate of the seconds that scikit-learn's 100 iterations take, unless it stops earlier."""
    return ITERATIONS * num_images * dim * num_classes / SKLEARN_RATE


def fit(vectors: Tensor, labels: Tensor, num_classes: int, tolerance: float = TOLERANCE) -> Tensor:
    """The weights of balanced logistic regression, [C, D], or [1, D] for two classes, in the precision of `vectors`.

    vectors: [n, D], float32 or float64; labels: int64 [n], every class among them; both on the device that computes.
    """
    from scipy.optimize import minimize

    objective = Objective(vectors, labels, num_classes)
    stopping = {"maxiter": ITERATIONS, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    start = np.zeros(objective.rows * (vectors.shape[1] + 1))
    found = minimize(objective, start, method="L-BFGS-B", jac=True, options=stopping).x
    return torch.from_numpy(found).view(objective.rows, -1)[:, :-1].to(vectors)


class Objective:
    """f and its gradient, as the module's first lines define it: float64 [rows (D + 1)] -> float, float64 [same].

    The parameters are W beside b, row by row.
    """

    def __init__(self, vectors: Tensor, labels: Tensor, num_classes: int):
        self.vectors, self.labels = vectors, labels
        self.rows = num_classes if num_classes > 2 else 1
        self.class_weights = len(labels) / (num_classes * torch.bincount(labels, minlength=num_classes)).to(vectors)
        self.images = max(LOGITS // num_classes, 1)  # at a time

    @torch.no_grad()
    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        count, matrix = len(self.labels), torch.from_numpy(parameters).view(self.rows, -1).to(self.vectors)
        weight, bias = matrix[:, :-1].contiguous(), matrix[:, -1]
        loss = self.vectors.new_zeros((), dtype=torch.float64)
        gradient = torch.zeros_like(matrix)
        for x, y in zip(self.vectors.split(self.images), self.labels.split(self.images), strict=True):
            logits = torch.addmm(bias, x, weight.T)
            if self.rows == 1:
                logits = torch.nn.functional.pad(logits, (1, 0))
            log_p, of_image = logits.log_softmax(1), (torch.arange(len(y), device=y.device), y)
            s = self.class_weights[y]
            loss -= (s * log_p[of_image]).sum(dtype=torch.float64)
            residuals = log_p.exp_()
            residuals[of_image] -= 1
            residuals = (residuals * s[:, None])[:, -self.rows :]
            gradient[:, :-1] += residuals.T @ x
            gradient[:, -1] += residuals.sum(0)
        loss += weight.square().sum(dtype=torch.float64) / 2
        gradient[:, :-1] += weight
        return float(loss) / count, gradient.double().flatten().cpu().numpy() / count
