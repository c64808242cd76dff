"""The data sets: a table of builders, each called with (name, root)."""

from collections.abc import Callable

from datasets import cifar100_lt, digits_lt, folder, imagenet_lt, inat2018, places_lt
from datasets.base import DataSet

DATASETS: dict[str, Callable[[str, str | None], DataSet]] = {
    "cifar100": cifar100_lt.build,
    "cifar100_ir100": cifar100_lt.build,
    "cifar100_ir50": cifar100_lt.build,
    "cifar100_ir10": cifar100_lt.build,
    "imagenet_lt": imagenet_lt.build,
    "places_lt": places_lt.build,
    **dict.fromkeys(inat2018.RANKS, inat2018.build),
    "digits_lt": digits_lt.build,
    "folder": folder.build,
}
