"""Long tails and shot groups: class counts, and the images of a long tail. They are the same in every run."""

from collections.abc import Mapping, Sequence

import numpy as np


def shot_groups(class_counts: np.ndarray, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
    """Masks [C] of the many- (> 100), medium- and few-shot (< 20 training images) classes (Liu et al. 2019)."""
    return {
        "many": class_counts > many,
        "medium": (class_counts >= few) & (class_counts <= many),
        "few": class_counts < few,
    }


def group_of_class(groups: Mapping[str, np.ndarray]) -> list[str]:
    """The name of each class's shot group; groups: masks [C]; each class is in one."""
    masks = np.stack(list(groups.values()))
    return [list(groups)[number] for number in masks.argmax(0)]


def long_tail_counts(largest: int, num_classes: int, imbalance_factor: float) -> list[int]:
    """Training images of each class, falling exponentially: int(largest * IF^(c / (C - 1))) (Cao et al. 2019)."""
    return [int(largest * imbalance_factor ** (c / (num_classes - 1))) for c in range(num_classes)]


def shuffled_by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The indices of each class, shuffled: one legacy numpy generator, seeded 0, for all classes in label order."""
    rng = np.random.RandomState(0)
    by_class = [np.flatnonzero(labels == c) for c in range(num_classes)]
    for indices in by_class:
        rng.shuffle(indices)
    return by_class


def tail_indices(labels: np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The indices of at most counts[c] images of each class c, class by class in shuffled order (Cao et al. 2019)."""
    by_class = shuffled_by_class(labels, len(counts))
    return np.concatenate([indices[:count] for indices, count in zip(by_class, counts, strict=True)])
