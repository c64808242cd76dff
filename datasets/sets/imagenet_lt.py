"""ImageNet-LT (Liu et al. 2019): 115,846 training and 50,000 test images of 1,000 classes, from 1,280 to 5 a class.

ROOT/train/WNID/*.JPEG as ILSVRC 2012 has them; its validation images, which are the test set here, in ROOT/val/ or in
ROOT/val/WNID/. The validation set here is 20 images a class of ILSVRC's training images that the long tail leaves out.
"""

import os

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.sets.layout import LayoutFix, class_folders, require_images, require_root
from datasets.sets.published import KANG, PublishedFile, read_splits
from utils.imports import submodule

LISTS = {
    "train": PublishedFile(f"{KANG}/ImageNet_LT/ImageNet_LT_train.txt", "a063f095fcd475db4cf8b0658c4b73955535bbf9"),
    "val": PublishedFile(f"{KANG}/ImageNet_LT/ImageNet_LT_val.txt", "3ed3188b2f44829ce2dec1cc27040d8d40984088"),
    "test": PublishedFile(f"{KANG}/ImageNet_LT/ImageNet_LT_test.txt", "76a2fb9749d6cd29e765cc4f8c270f2504131e2f"),
}

LAYOUT = "train/n01440764/*.JPEG and val/*.JPEG (or val/n01440764/*.JPEG)"
KAGGLE = "ILSVRC/Data/CLS-LOC"  # the folder of train and val in Kaggle's archive
UNPACK = (
    'for tar in {root}/train/*.tar; do mkdir -p "${{tar%.tar}}" && tar -xf "$tar" -C "${{tar%.tar}}" && rm "$tar"; done'
)
FIXES = (
    LayoutFix("train/", "train/n*.tar", UNPACK),
    LayoutFix(
        "train/",
        "ILSVRC2012_img_train.tar",
        f"mkdir -p {{root}}/train && tar -xf {{root}}/ILSVRC2012_img_train.tar -C {{root}}/train && {UNPACK}",
    ),
    LayoutFix(
        "val/",
        "ILSVRC2012_img_val.tar",
        "mkdir -p {root}/val && tar -xf {root}/ILSVRC2012_img_val.tar -C {root}/val",
    ),
)


def build(name: str, root: str | None, validation: bool = False) -> DataSet:
    """The data set over the images below `root`; its lists are fetched on first use. Raises DataError.

    validation: with the published validation list.
    """
    root = require_root(root, "ImageNet-LT", LAYOUT)
    lists = read_splits(LISTS, root, validation)
    lists["test"] = _as_on_disk(lists["test"], lists["train"], root)
    # the paths of the validation list are assumed to start with train/WNID/, as those of the training list do
    require_images(list(lists.values()), root, LAYOUT, FIXES, usual=KAGGLE)
    classnames = submodule("open_clip.zero_shot_metadata").IMAGENET_CLASSNAMES  # of sorted WNIDs, as the labels
    return DataSet(name, list(classnames), lists["train"], lists["test"], root, lists.get("val"))


def _as_on_disk(test: ImageList, train: ImageList, root: str) -> ImageList:
    """The test list with its images in val/ or in val/WNID/, as they are on disk; WNID: a class's folder in train/."""
    labels, wnids = test.labels.tolist(), class_folders(train)
    names = [os.path.basename(path) for path in test.images.paths]
    flat = [f"{root}/val/{name}" for name in names]
    in_folders = [f"{root}/val/{wnids[label]}/{name}" for name, label in zip(names, labels, strict=True)]
    found = next((paths for paths in (flat, in_folders) if os.path.exists(paths[0])), test.images.paths)
    return ImageList.of_paths(found, test.labels)
