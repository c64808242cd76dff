"""The data sets: a table of builders, each called with (name, root), and the one function that reads the configuration.

`folder` takes the keys of the user's own data, too.
"""

import dataclasses
from collections.abc import Callable

from datasets.base import DataSet
from datasets.check.bad_images import leave_out_bad
from datasets.own import folder
from datasets.sets import cifar100_lt, digits_lt, imagenet_lt, inat2018, places_lt
from utils.errors import DataError

DATASETS: dict[str, Callable[..., DataSet]] = {
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
IMBALANCED = ("cifar100_ir50", "cifar100_ir10")  # whose groups LIFT takes from imbalance 100
FOLDER_KEYS = ("train_list", "test_list", "test_fraction", "classnames", "imbalance", "outside_root")


def build_data(cfg) -> DataSet:
    """The data set that cfg.dataset names, with cfg's shot thresholds. Raises DataError."""
    values = (cfg.train_list, cfg.test_list, cfg.test_fraction, cfg.classnames, cfg.imbalance, cfg.outside_root)
    own = {key: value for key, value in zip(FOLDER_KEYS, values, strict=True) if value}
    if own and cfg.dataset != "folder":
        key = next(iter(own))
        raise DataError(
            f"{key} belongs to -d folder; {cfg.dataset} has published images and labels, so leave {key} out"
        )
    many, few = cfg.many_threshold, cfg.few_threshold
    if few > many:
        raise DataError(f"few_threshold {few} is above many_threshold {many}, so a class could be both; lower it")
    data = DATASETS[cfg.dataset](cfg.dataset, cfg.root, **own)
    groups = cifar100_lt.counts("cifar100_ir100") if cfg.shot_groups == "ir100" and cfg.dataset in IMBALANCED else None
    data = dataclasses.replace(data, many_threshold=many, few_threshold=few, group_counts=groups)
    if cfg.exif_orientation is not None:  # else as the data set's own: published ones are read as stored
        train, test = (
            dataclasses.replace(images, exif_orientation=cfg.exif_orientation) for images in (data.train, data.test)
        )
        data = dataclasses.replace(data, train=train, test=test)
    return leave_out_bad(data, {"root": cfg.root, **own}) if cfg.bad_images == "skip" else data
