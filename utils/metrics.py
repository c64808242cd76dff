"""What a test says: accuracies in percent, over all images, over classes, and over groups of classes."""

import numpy as np


def score(
    labels: np.ndarray,
    predictions: np.ndarray,
    classnames: list[str],
    class_counts: np.ndarray,
    groups: dict[str, np.ndarray],
    harmonic_floor: float = 0.0,
) -> dict:
    """Scores in percent of predictions [n] against labels [n], both int in 0..C-1.

    classnames and class_counts (training images) have length C; groups: {name: mask [C]}. A class without test images
    counts nowhere; a group without any has the accuracy None. The harmonic mean takes a class's accuracy as
    `harmonic_floor` percent at least. Returns {"accuracy": {overall, mean_class, *groups}, "more": {macro_f1,
    worst_class, harmonic_mean, geometric_mean}, "per_class": [{name, train, test, accuracy}]}.
    """
    num_classes = len(classnames)
    total = np.bincount(labels, minlength=num_classes)
    predicted = np.bincount(predictions, minlength=num_classes)
    correct = np.bincount(labels[labels == predictions], minlength=num_classes)
    tested = total > 0
    accuracy = 100 * correct / np.maximum(total, 1)
    f1 = 100 * 2 * correct / np.maximum(total + predicted, 1)

    def mean_class(mask: np.ndarray) -> float | None:
        return float(accuracy[mask & tested].mean()) if (mask & tested).any() else None

    classes = accuracy[tested]
    some_zero, raised = not classes.all(), np.maximum(classes, harmonic_floor)
    return {
        "accuracy": {
            "overall": float(100 * correct.sum() / total.sum()),
            "mean_class": mean_class(tested),
            **{name: mean_class(mask) for name, mask in groups.items()},
        },
        "more": {
            "macro_f1": float(f1[tested].mean()),
            "worst_class": float(classes.min()),
            "harmonic_mean": 0.0 if not raised.all() else float(1 / np.mean(1 / raised)),
            "geometric_mean": 0.0 if some_zero else float(np.exp(np.log(classes).mean())),
        },
        "per_class": [
            {"name": name, "train": int(train), "test": int(test), "accuracy": float(value) if test else None}
            for name, train, test, value in zip(classnames, class_counts, total, accuracy, strict=True)
        ],
    }
