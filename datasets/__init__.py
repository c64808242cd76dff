"""The data sets: a table of builders, each called with (name, root)."""

from collections.abc import Callable

from datasets import cifar100_lt, digits_lt, folder
from datasets.base import DataSet

DATASETS: dict[str, Callable[[str, str | None], DataSet]] = {
    "cifar100": cifar100_lt.build,
    "cifar100_ir100": cifar100_lt.build,
    "cifar100_ir50": cifar100_lt.build,
    "cifar100_ir10": cifar100_lt.build,
    "digits_lt": digits_lt.build,
    "folder": folder.build,
}
