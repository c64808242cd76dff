"""From the features of test crops to logits, and to the most probable classes."""

import torch
from torch import Tensor, nn


def mean_logits(head: nn.Module, features: Tensor) -> Tensor:
    """Features [K, b, D] of K crops -> the means of their logits [b, C]."""
    return sum(head(crop) for crop in features) / len(features)


def top_predictions(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most probable classes, int64 [b, k], and their probabilities, float32 [b, k]; logits float32 [b, C].

    Classes with equal logits are in the order of their numbers, so that the first is that of argmax.
    """
    remaining, classes = logits.clone(), []
    for _ in range(k):
        largest = remaining.argmax(1, keepdim=True)
        classes.append(largest)
        remaining.scatter_(1, largest, -torch.inf)
    found = torch.cat(classes, 1)
    return found, logits.softmax(1).gather(1, found)


def label_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of each image's label, float32 [b]; labels int64 [b]."""
    return logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
