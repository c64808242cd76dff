"""Values that depend on other keys, or on the machine."""

import os
import secrets
from collections.abc import Callable, Collection
from typing import Any

from utils.config.naming import OUTPUT
from utils.config.parsing import NORMALISATIONS
from utils.errors import ConfigError
from utils.ranks import num_processes


def resolve_normalisation(values: dict[str, Any], of_backbone: Collection[str], given: Collection[str]) -> None:
    """Sets mean and std to None (from the weights' description), if their values belong to other weights.

    of_backbone: the keys that the backbone's file sets, and no later file; given: those on the command line. The mean
    of a known normalisation also sets its std, and vice versa.
    """
    if values["weights"] and "weights" not in of_backbone:
        for key in ("mean", "std"):
            if key in of_backbone and key not in given:
                values[key] = None
    for mean, std in NORMALISATIONS.values():
        for key, constant, other, its_constant in (("mean", mean, "std", std), ("std", std, "mean", mean)):
            is_free = values[other] is None or (key in given and other not in given)
            if values[key] == constant and is_free:
                values[other] = its_constant


def resolve_seed(values: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Draws a seed for seed None, and sends `warn` a line. Raises a ConfigError for tests and for several processes."""
    if values["seed"] is not None:
        return
    is_test = values["test_only"] or values["test_train"]
    if is_test and not values["model_dir"]:
        message = (
            "seed None draws a new seed each time, so the trained run cannot be found; set its seed, or model_dir DIR"
        )
        raise ConfigError(message, kind="seed_of_test", key="seed")
    if num_processes() > 1:
        message = "seed None would draw a different seed in each process; set a seed"
        raise ConfigError(message, kind="seed_of_processes", key="seed")
    seed = values["seed"] = secrets.randbelow(2**31)
    warn(f"seed None: this run uses seed {seed}; add 'seed {seed}' to resume, test or repeat it")


def resolve_runs(values: dict[str, Any]) -> None:
    """Looks for model_dir and init_from in the working directory, then below output/."""
    for key in ("model_dir", "init_from"):
        folder = values[key]
        if folder and not os.path.isdir(folder) and (OUTPUT / folder).is_dir():
            values[key] = str(OUTPUT / folder)
