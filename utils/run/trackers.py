"""Trackers: packages other than TensorBoard that collect the curves of many runs. Each has a row in TRACKERS.

A row is a function (package, name, folder, options) -> Tracker, which opens a run. The functions use the packages'
public interfaces and do not catch their errors: utils/run/log.py turns the first one into a warning.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.run.checkpoint import FINGERPRINTS

PROJECT = "lift_plus"  # the name under which a tracker shows the runs
Option = str | int | float | bool


class Tracker(NamedTuple):
    """An open run of a tracker. log: (step, {name: number}); finish: ends the run."""

    log: Callable[[int, Mapping[str, float]], object]
    finish: Callable[[], object]


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, Option]:
    """The settings except hashes and those that are off, in types that all trackers and TensorBoard accept."""
    named = {key: value for key, value in settings.items() if key not in FINGERPRINTS}
    chosen = {key: value for key, value in named.items() if value is not None and value is not False}
    return {key: value if isinstance(value, Option) else str(value) for key, value in chosen.items()}


def _wandb(wandb: Any, name: str, folder: Path, options: dict[str, Option]) -> Tracker:
    run = wandb.init(project=PROJECT, name=name, config=options, dir=str(folder))
    return Tracker(lambda step, values: run.log(dict(values), step=step), run.finish)


def _mlflow(mlflow: Any, name: str, folder: Path, options: dict[str, Option]) -> Tracker:
    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=name)
    mlflow.log_params(options)
    return Tracker(lambda step, values: mlflow.log_metrics(dict(values), step=step), mlflow.end_run)


def _trackio(trackio: Any, name: str, folder: Path, options: dict[str, Option]) -> Tracker:
    trackio.init(project=PROJECT, name=name, config=options)
    return Tracker(lambda step, values: trackio.log(dict(values), step=step), trackio.finish)


TRACKERS: dict[str, Callable[[Any, str, Path, dict[str, Option]], Tracker]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def open_tracker(kind: str, name: str, folder: Path, options: dict[str, Option]) -> Tracker:
    """Opens a run in a tracker, a row of TRACKERS. name, folder: of the run; options: see `hyperparameters`."""
    return TRACKERS[kind](importlib.import_module(kind), name, folder, options)
