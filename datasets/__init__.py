"""Data sets: image lists with labels, class names and class counts.

DATASETS has a row for each name: a function (name, root) that builds the data set from the images below `root`.

base.py      DataSet
images.py    ImageList: images, in files or in memory, with labels; image_cache.py: the bytes of files on slow disks
sets/        the published data sets
own/         the user's own pictures: folders, lists, class names, splits
decoding/    from an image file to its pixels, or the reason for a failure
loading/     from images to batches on the device
check/       checks of every image before training, and bad_images skip
"""

import dataclasses
from collections.abc import Callable

from datasets.base import DataSet
from datasets.check.bad_images import leave_out_bad
from datasets.image_cache import open_cache
from datasets.own import folder
from datasets.own.splits import hold_out_validation
from datasets.sets import cifar100_lt, digits_lt, imagenet_lt, inat2018, places_lt
from utils.errors import DataError

DATASETS: dict[str, Callable[..., DataSet]] = {
    "imagenet_lt": imagenet_lt.build,
    "places_lt": places_lt.build,
    "inat2018": inat2018.build,  # species
    "inat2018_k": inat2018.build,  # kingdoms
    "inat2018_p": inat2018.build,  # phyla
    "inat2018_c": inat2018.build,  # classes
    "inat2018_o": inat2018.build,  # orders
    "inat2018_f": inat2018.build,  # families
    "inat2018_g": inat2018.build,  # genera
    "inat2018_s": inat2018.build,  # species
    "cifar100": cifar100_lt.build,
    "cifar100_ir100": cifar100_lt.build,
    "cifar100_ir50": cifar100_lt.build,
    "cifar100_ir10": cifar100_lt.build,
    "digits_lt": digits_lt.build,
    "folder": folder.build,  # the user's own pictures; accepts FOLDER_KEYS, too
}
FOLDER_KEYS = ("train_list", "test_list", "val_list", "test_fraction", "classnames", "imbalance", "outside_root")
VALIDATION_SETS = ("imagenet_lt", "places_lt", "folder")  # their builders accept `validation`
TESTS = ("test_only", "test_train", "zero_shot")  # keys of commands that train nothing
# the keys of a configuration that choose the images
IMAGE_KEYS = ("dataset", "root", *FOLDER_KEYS, "bad_images", "val_fraction", "test_split", "val_every", *TESTS)


def build_data(cfg, validation: bool = False) -> DataSet:
    """The data set that `cfg` describes, with a validation set if any key needs one. Raises DataError.

    validation: also read one that no key needs, if there is one.
    """
    validates = cfg.test_split == "val" or (cfg.val_every is not None and not any(cfg[key] for key in TESTS))
    keys = ("many_threshold", "few_threshold", "shot_groups", "exif_orientation", "bit_depth", *FOLDER_KEYS)
    data = load_data(
        cfg.dataset,
        cfg.root,
        skip_bad=cfg.bad_images == "skip",
        val_fraction=cfg.val_fraction,
        image_cache=cfg.image_cache,
        validation=validates or validation,
        **{key: cfg[key] for key in keys},
    )
    if validates:
        data.split("val")  # raises a DataError if there is none
    return data


def load_data(
    name: str,
    root: str | None = None,
    *,
    many_threshold: int = 100,
    few_threshold: int = 20,
    shot_groups: str = "own",
    exif_orientation: bool | None = None,
    bit_depth: int | None = None,
    skip_bad: bool = False,
    val_fraction: float | None = None,
    image_cache: str | None = None,
    validation: bool = False,
    **own: str | float | None,
) -> DataSet:
    """The data set `name`, a row of DATASETS, with the images below `root`. Raises DataError.

    many_threshold, few_threshold: borders of the shot groups. shot_groups: the class counts that determine the groups,
    "own" or a name in DataSet.group_choices. exif_orientation: None is the data set's own; published ones are read as
    stored. bit_depth: bits that pictures of 16 bits use; None is all. skip_bad: without the images that
    scripts/check_data.py found to be bad. val_fraction: share of each class's training images that is held out as the
    validation set. image_cache: folder of a cache of the image files. validation: read the data set's own validation
    set, if it has one; that of val_list is read in any case. own: FOLDER_KEYS, for the user's own pictures.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set '{name}'; choose from {', '.join(DATASETS)}", kind="unknown_data_set")
    own = {key: value for key, value in own.items() if value}
    if own and name != "folder":
        key = next(iter(own))
        message = f"{key} is a key of -d folder; {name} has published images and labels, so leave {key} out"
        raise DataError(message, kind="not_a_folder_data_set", key=key)
    if few_threshold > many_threshold:
        message = (
            f"few_threshold {few_threshold} is above many_threshold {many_threshold}, so a class could be both; "
            "lower it"
        )
        raise DataError(message, kind="overlapping_thresholds", key="few_threshold")
    # val_fraction replaces a published list; beside a folder val/, which is read to notice it, it is an error
    reads = bool(validation or val_fraction) if name == "folder" else validation and not val_fraction
    more = {"validation": True} if reads and name in VALIDATION_SETS else {}
    data = DATASETS[name](name, root, **own, **more)
    data = dataclasses.replace(
        data,
        many_threshold=many_threshold,
        few_threshold=few_threshold,
        group_counts=data.group_choices.get(shot_groups),
    )
    if exif_orientation is not None:
        data = data.with_lists({k: images.with_orientation(exif_orientation) for k, images in data.lists.items()})
    if bit_depth is not None:
        data = data.with_lists({k: images.with_bit_depth(bit_depth) for k, images in data.lists.items()})
    if image_cache is not None:
        cache = open_cache(image_cache)
        data = data.with_lists({k: images.with_cache(cache) for k, images in data.lists.items()})
    if skip_bad:
        data = leave_out_bad(data, {"root": root, **own})
    return _with_held_out(data, val_fraction) if val_fraction else data


def _with_held_out(data: DataSet, val_fraction: float) -> DataSet:
    """The data set with a validation set from its training images. Raises DataError."""
    if data.val is not None:
        message = (
            f"{data.name} has a validation set, {len(data.val):,} images in a folder val/ or in val_list, so "
            "val_fraction has no effect; leave one of them out"
        )
        raise DataError(message, kind="needless_val_fraction", key="val_fraction")
    train, val = hold_out_validation(data.train, val_fraction, data.root)
    return dataclasses.replace(data, train=train, val=val)
