"""Averages of the tensors of runs: WiSE-FT, uniform and greedy soups; and the `about` of their checkpoints.

WiSE-FT  (1 - alpha) theta_0 + alpha theta_1, from the start to the end of a run (Wortsman et al. 2022,
         arXiv 2109.01903, equation 1)
soups    the mean of all runs, or of those that a greedy choice accepts (Wortsman et al. 2022,
         arXiv 2203.05482, section 2 and recipe 1)
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.run.checkpoint import FINGERPRINTS
from utils.run.mode import TESTED_OTHERWISE

AVERAGED = "averaged"  # key of the `about` of an average, which replaces "training"
OF_TEXTS = ("prompt", "prompt file")  # settings that change the logits of CLIP's own head
# keys of an `about` that are not the identity of its model
RECORDS = ("data", "trained_on", "training", AVERAGED, "model", "classnames", "shot_groups", "format", "sha256")
FIRST_OF_ALL = ("backbone", "weights", "classes")  # differences that explain others


def average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of tensors by name, computed in float64, in the types of the first.

    A state of weight 0 is ignored, and one of weight 1 is returned bit for bit. Integers, such as counts of batches,
    are those of the last state with a weight.
    """
    pairs = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight]
    last = pairs[-1][0]
    if len(pairs) == 1 and pairs[0][1] == 1:
        return dict(last)
    return {name: _weighted_sum(name, pairs) for name in last}


def _weighted_sum(name: str, pairs: Sequence[tuple[Mapping[str, Tensor], float]]) -> Tensor:
    last = pairs[-1][0][name]
    if not last.is_floating_point():
        return last
    return torch.stack([weight * state[name].double() for state, weight in pairs]).sum(0).to(last.dtype)


def greedy(
    states: Sequence[Mapping[str, Tensor]], score: Callable[[Mapping[str, Tensor], list[int]], float]
) -> list[int]:
    """The indices of the states in the greedy soup, the best one first.

    score(tensors, indices): the score of the mean of these states on validation images. The states are tried in the
    order of their own scores; each one joins if the score of the mean does not fall.
    """
    scores = [score(state, [number]) for number, state in enumerate(states)]
    order = sorted(range(len(states)), key=lambda number: -scores[number])
    chosen, best = order[:1], scores[order[0]]
    for number in order[1:]:
        candidate = [*chosen, number]
        found = score(average([states[each] for each in candidate], [1 / len(candidate)] * len(candidate)), candidate)
        if found >= best:
            chosen, best = candidate, found
    return chosen


# ---- records ----


def training_of(about: dict[str, Any]) -> dict[str, Any]:
    """The record of the training of a checkpoint; of an average, the values that its runs share; {} if unknown."""
    return about.get("training") or about.get(AVERAGED, {}).get("training", {})


def require_alike(first: dict[str, Any], other: dict[str, Any], paths: tuple[Path, Path]) -> None:
    """Raises a CheckpointError if two checkpoints are not of the same model; it names the first difference.

    first, other: their `about`.
    """
    sides = [_identity(about) for about in (first, other)]
    keys = dict.fromkeys([*FIRST_OF_ALL, *sides[0], *sides[1]])
    differing = next((key for key in keys if sides[0].get(key) != sides[1].get(key)), None)
    if differing is not None:
        values = f" ({sides[0].get(differing)} and {sides[1].get(differing)})" if differing not in FINGERPRINTS else ""
        _refuse(paths, f"they differ in {differing}{values}", key=differing)


def require_same_shapes(first: Mapping[str, Tensor], other: Mapping[str, Tensor], paths: tuple[Path, Path]) -> None:
    """Raises a CheckpointError if names or shapes differ; it names the first difference."""
    for name in sorted(first.keys() | other.keys()):
        if name not in first or name not in other:
            _refuse(paths, f"only {paths[name in other]} has {name}")
        if first[name].shape != other[name].shape:
            shapes = " and ".join(str(list(state[name].shape)) for state in (first, other))
            _refuse(paths, f"{name} has the shapes {shapes}")


def _refuse(paths: tuple[Path, Path], difference: str, key: str | None = None) -> None:
    message = (
        f"{paths[0]} and {paths[1]} cannot be averaged: {difference}; choose runs of the same backbone, weights, "
        "classes and method"
    )
    raise CheckpointError(message, kind="not_alike", path=paths[1], key=key)


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    settings = training_of(about).get("settings", {})
    computed = (*TESTED_OTHERWISE, *(OF_TEXTS if about.get("classifier") is None else ()))
    return {key: settings.get(key) for key in computed} | {
        key: value for key, value in about.items() if key not in RECORDS
    }


def describe_average(
    abouts: Sequence[dict[str, Any]], weights: Sequence[float], how: str, names: Sequence[str]
) -> dict[str, Any]:
    """The `about` of an average.

    abouts: of the averaged checkpoints, each with its "trained_on"; weights: of each in the average; how: in words;
    names: of the runs. Nothing was trained, so a record of the average replaces that of a training: it has the values
    that all runs share. The training images are those of all runs.
    """
    trainings = [training_of(about) for about in abouts]
    sources = [
        {"run": name, "checkpoint": about["sha256"], "weight": weight, "training": training}
        for name, about, weight, training in zip(names, abouts, weights, trainings, strict=True)
    ]
    shared = {key: _shared([training.get(key) for training in trainings]) for key in ("seed", "epochs")}
    shared["settings"] = _shared_items([training.get("settings", {}) for training in trainings])
    record = {"training": shared | {AVERAGED: how}, "sources": sources}
    images: list[dict[str, Any]] = []
    for about in abouts:
        images += [each for each in about["trained_on"] if each not in images]
    identity = {key: value for key, value in abouts[0].items() if key not in ("training", "format", "sha256")}
    return identity | {"trained_on": images, AVERAGED: record}


def _shared(values: Sequence[Any]) -> Any:
    """The value, if all are equal; else None."""
    return values[0] if all(value == values[0] for value in values) else None


def _shared_items(dicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The items that all dicts share."""
    first, *others = dicts
    return {key: value for key, value in first.items() if all(key in each and each[key] == value for each in others)}
