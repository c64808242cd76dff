"""ImageNet-LT (Liu et al. 2019): 115,846 training and 50,000 test images of 1,000 classes, from 1,280 to 5 a class.

ROOT/train/WNID/*.JPEG as ILSVRC 2012 has them; its validation images, which are the test set here, in ROOT/val/ or in
ROOT/val/WNID/.
"""

import os

from datasets.base import DataSet, ImageList
from datasets.sets.published import Mend, read_lists, require_images, require_root

LAYOUT = "train/n01440764/*.JPEG and val/*.JPEG (or val/n01440764/*.JPEG)"
KAGGLE = "ILSVRC/Data/CLS-LOC"  # where Kaggle's archive has train and val
UNPACK = (
    'for tar in {root}/train/*.tar; do mkdir -p "${{tar%.tar}}" && tar -xf "$tar" -C "${{tar%.tar}}" && rm "$tar"; done'
)
MENDS = (
    Mend("train/", "train/n*.tar", UNPACK),
    Mend(
        "train/",
        "ILSVRC2012_img_train.tar",
        f"mkdir -p {{root}}/train && tar -xf {{root}}/ILSVRC2012_img_train.tar -C {{root}}/train && {UNPACK}",
    ),
    Mend(
        "val/",
        "ILSVRC2012_img_val.tar",
        "mkdir -p {root}/val && tar -xf {root}/ILSVRC2012_img_val.tar -C {root}/val",
    ),
)


def build(name: str, root: str | None) -> DataSet:
    """The data set over the images below `root`; its lists are fetched on first use. Raises DataError."""
    from open_clip import IMAGENET_CLASSNAMES  # in the order of sorted WNIDs, as the labels

    root = require_root(root, "ImageNet-LT", LAYOUT)
    train, test = read_lists(("ImageNet_LT_train.txt", "ImageNet_LT_test.txt"), root)
    test = _as_on_disk(test, train, root)
    require_images((train, test), root, LAYOUT, MENDS, usual=KAGGLE)
    return DataSet(name, list(IMAGENET_CLASSNAMES), train, test, root)


def _as_on_disk(test: ImageList, train: ImageList, root: str) -> ImageList:
    """The test list with its images in val/ or in val/WNID/, as they lie there; a WNID is a class's folder in train."""
    wnids = {label: path.split("/")[-2] for path, label in zip(train.images, train.labels.tolist(), strict=True)}
    names = [os.path.basename(path) for path in test.images]
    flat = [f"{root}/val/{name}" for name in names]
    sorted_by_class = [f"{root}/val/{wnids[c]}/{name}" for name, c in zip(names, test.labels.tolist(), strict=True)]
    there = next((paths for paths in (flat, sorted_by_class) if os.path.exists(paths[0])), test.images)
    return ImageList(there, test.labels)
