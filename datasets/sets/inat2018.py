"""iNaturalist 2018 (Van Horn et al. 2018): 437,513 training and 24,426 test images of 8,142 species, or of other ranks.

ROOT/train_val2018/SUPERCLASS/ID/*.jpg. The official train2018.json and val2018.json in ROOT replace the published
lists. The classes of a rank are its distinct names sorted, so an image's label is not its category's id, and changes
with the rank; a name that occurs twice in the tree is one class.
"""

import json
import os

import numpy as np

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.sets.layout import LayoutFix, require_images, require_root
from datasets.sets.published import BYTES, KANG, PublishedFile, image_list, parse_list, read_files
from utils.errors import DataError
from utils.files import read_json
from utils.text import visible

RANKS = {
    "inat2018": "name",
    "inat2018_k": "kingdom",
    "inat2018_p": "phylum",
    "inat2018_c": "class",
    "inat2018_o": "order",
    "inat2018_f": "family",
    "inat2018_g": "genus",
    "inat2018_s": "name",
}
LAYOUT = "train_val2018/SUPERCLASS/ID/*.jpg"
LISTS = {
    "train": PublishedFile(f"{KANG}/iNaturalist18/iNaturalist18_train.txt", "4accdb7584d2f0a5106c40a33ed6afa392189bcc"),
    "test": PublishedFile(f"{KANG}/iNaturalist18/iNaturalist18_val.txt", "4c23900857fd0f5adcd4cc0dffef345039eeb05f"),
    "categories": PublishedFile(
        "shijxcs/LIFT-plus/main/datasets/iNaturalist2018/categories.json", "5804f413dc401661710ea810d7bcd3abf4c632e2"
    ),
}
OFFICIAL = ("train2018.json", "val2018.json")
OFFICIAL_ADDRESS = "https://github.com/visipedia/inat_comp/tree/master/2018"
FIXES = (LayoutFix("", "train_val2018.tar.gz", "tar -xzf {root}/train_val2018.tar.gz -C {root}"),)


def build(name: str, root: str | None) -> DataSet:
    """The data set `name` of the images below `root`; its lists are fetched on first use. Raises DataError."""
    root = require_root(root, "iNaturalist 2018", LAYOUT)
    official = all(os.path.isfile(os.path.join(root, file)) for file in OFFICIAL)
    train, test, categories = _read_official(root) if official else _read_published(root)
    require_images((train, test), root, LAYOUT, FIXES)
    value_of = {category["id"]: category[RANKS[name]] for category in categories}
    classnames = sorted(set(value_of.values()))
    label_of_value = {value: label for label, value in enumerate(classnames)}
    label_of = {category: label_of_value[value] for category, value in value_of.items()}
    return DataSet(name, classnames, _relabel(train, label_of), _relabel(test, label_of), root)


def _read_published(root: str) -> tuple[ImageList, ImageList, list[dict]]:
    """Both lists, with the ids of the categories as labels, and the categories."""
    try:
        train, test, categories = read_files(list(LISTS.values()), root)
    except DataError as error:
        message = f"{error}; the official {' and '.join(OFFICIAL)} in {root} would do as well"
        raise DataError(message, kind=error.kind, path=error.path, key=error.key) from error
    lists = [
        image_list(*parse_list(content, file.name), root, file.name)
        for file, content in ((LISTS["train"], train), (LISTS["test"], test))
    ]
    return lists[0], lists[1], json.loads(categories)


def _read_official(root: str) -> tuple[ImageList, ImageList, list[dict]]:
    """The same as _read_published, from the competition's files; the images are in the order of the annotations."""
    (train, categories), (test, _) = (_read_json(os.path.join(root, file), root) for file in OFFICIAL)
    if not all(isinstance(category.get(rank), str) for category in categories for rank in RANKS.values()):
        # the names were hidden during the competition
        categories = json.loads(read_files((LISTS["categories"],), root)[0])
    return train, test, categories


def _read_json(path: str, root: str) -> tuple[ImageList, list[dict]]:
    """The images of an official file, with the ids of the categories as labels, and the categories."""
    try:
        content = read_json(path, BYTES)
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        paths = [files[annotation["image_id"]] for annotation in content["annotations"]]
        ids = np.array([annotation["category_id"] for annotation in content["annotations"]], np.int64)
        categories = [_category(category) for category in content["categories"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        message = (
            f"{path} is damaged or not the official file ({type(error).__name__}: {error}); "
            f"replace it from {OFFICIAL_ADDRESS}, or remove it to use the published lists"
        )
        raise DataError(message, kind="damaged_official_file", path=path) from error
    return image_list(paths, ids, root, path), categories


def _category(category: dict) -> dict:
    """A category with a number as its id. Raises a ValueError for control characters in its names."""
    if any(isinstance(value, str) and visible(value) != value for value in category.values()):
        raise ValueError(f"control characters in {category!r:.100}")
    return dict(category, id=int(category["id"]))


def _relabel(images: ImageList, label_of: dict[int, int]) -> ImageList:
    """The same images, with the labels of their categories."""
    ids, inverse = np.unique(images.labels, return_inverse=True)
    for unknown in set(ids.tolist()) - label_of.keys():
        path = images.images.paths[np.flatnonzero(images.labels == unknown)[0]]
        message = f"{path} is of category {unknown}, which the list of categories lacks; replace the lists"
        raise DataError(message, kind="unknown_category", path=path)
    return images.with_labels(np.array([label_of[i] for i in ids.tolist()], np.int64)[inverse])
