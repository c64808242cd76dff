"""Values that follow from other keys, or from the machine."""

import os
import secrets
from collections.abc import Callable, Collection
from typing import Any

from utils.config.naming import OUTPUT
from utils.config.parsing import NORMALISATIONS
from utils.errors import ConfigError
from utils.ranks import num_processes


def resolve_normalisation(values: dict[str, Any], of_backbone: Collection[str], given: Collection[str]) -> None:
    """Sets mean and std to None, to be read from the weights' description, where they are those of other weights.

    of_backbone: the keys that the backbone's file sets, and no later file; given: those on the command line. The mean
    of a known normalisation also sets its std, and the reverse.
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
    """Draws a seed for seed None, with a line to `warn`. Raises a ConfigError where it would be the wrong one."""
    if values["seed"] is not None:
        return
    is_test = values["test_only"] or values["test_train"]
    if is_test and not values["model_dir"]:
        message = (
            "seed None draws another seed each time, so the trained run cannot be found; give its seed, or "
            "model_dir DIR"
        )
        raise ConfigError(message, kind="seed_of_test", key="seed")
    if num_processes() > 1:
        message = "seed None would draw another seed in each process; give a seed"
        raise ConfigError(message, kind="seed_of_processes", key="seed")
    seed = values["seed"] = secrets.randbelow(2**31)
    warn(f"seed None: this run draws seed {seed}; 'seed {seed}' resumes, tests or repeats it")


def resolve_runs(values: dict[str, Any]) -> None:
    """Looks for model_dir and init_from in the working directory, then below output/."""
    for key in ("model_dir", "init_from"):
        folder = values[key]
        if folder and not os.path.isdir(folder) and (OUTPUT / folder).is_dir():
            values[key] = str(OUTPUT / folder)
