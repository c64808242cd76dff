"""Class priors by name (uniform, training, or a file), and the prior of a trained model."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax

from models.losses import build_loss
from utils import posthoc
from utils.config import Config
from utils.errors import DataError
from utils.files import read_limited
from utils.text import shortened

BYTES = 10_000_000  # of a file
LARGEST_SHARE = 1e100  # so that sums are finite


def model_log_prior(cfg: Config, counts: np.ndarray) -> tuple[np.ndarray, str]:
    """The log of the class prior in the softmax of a run's model, [C], and its origin in words.

    counts: training images of each class. See the table in docs/after_training.md.
    """
    if cfg.zero_shot:
        return uniform(len(counts)), "uniform, as the prior of zero-shot CLIP is unknown"
    tensor = torch.from_numpy(counts)
    log_prior = build_loss(cfg, tensor).softmax_log_prior(tensor).numpy()
    return log_softmax(log_prior), f"the prior of its loss, {cfg.loss_type}"


def named_log_prior(name: str, counts: np.ndarray, classnames: Sequence[str]) -> np.ndarray:
    """The log of a prior, [C]: uniform, training, or of a file. Raises DataError."""
    if name == "uniform":
        return uniform(len(counts))
    if name == "training":
        return posthoc.training_log_prior(counts)
    return posthoc.log_prior(read_prior(Path(name), classnames))


def uniform(num_classes: int) -> np.ndarray:
    """The log of the uniform prior, [C]."""
    return np.full(num_classes, -np.log(num_classes))


def read_prior(path: Path, classnames: Sequence[str]) -> np.ndarray:
    """The shares or counts in a file, float64 [C]: a line per class, with its name or number and a value >= 0.

    A first line whose value is not a number is a header. Raises DataError.
    """
    try:
        text = read_limited(path, BYTES, shell_pipe=True).decode("utf-8-sig")
        rows = [(line, row) for line, row in enumerate(csv.reader(io.StringIO(text)), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not CSV in UTF-8"
        message = f"{path} cannot be read as a class prior ({reason}); --target takes uniform, training or a CSV file"
        raise DataError(message, kind="unreadable_prior", path=path) from error
    if rows and len(rows[0][1]) == 2 and not _is_number(rows[0][1][1]):
        del rows[0]

    # names first, as a class may be called "3"
    numbers = {str(number): number for number in range(len(classnames))}
    times = Counter(classnames)
    numbers |= {name: number for number, name in enumerate(classnames) if times[name] == 1}
    values = np.full(len(classnames), np.nan)
    for line, row in rows:
        label, value = (numbers.get(row[0].strip()), _share(row[1])) if len(row) == 2 else (None, None)
        if label is None or value is None or not np.isnan(values[label]):
            message = (
                f"{path}, line {line}: '{shortened(','.join(row))}' is not CLASS,SHARE of another class; a line has "
                "the name or the number of a class, and a number of at least 0"
            )
            raise DataError(message, kind="wrong_prior", path=path, line=line)
        values[label] = value
    if np.isnan(values).any():
        name = classnames[int(np.isnan(values).argmax())]
        message = f"{path} has no line for class '{shortened(name)}'; add one, as a prior needs a line for each class"
        raise DataError(message, kind="incomplete_prior", path=path)
    if not values.sum():
        raise DataError(f"{path} has only zeros; add a share above 0", kind="wrong_prior", path=path)
    return values


def _share(text: str) -> float | None:
    """A share or a count; None for other texts."""
    value = float(text) if _is_number(text) else math.nan
    return value if 0 <= value < LARGEST_SHARE else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
