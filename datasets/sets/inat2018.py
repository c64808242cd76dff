"""iNaturalist 2018 (Van Horn et al. 2018): 437,513 training and 24,426 test images of 8,142 species, or of other ranks.

ROOT/train_val2018/SUPERCLASS/ID/*.jpg. The official train2018.json and val2018.json in ROOT take the place of the
published lists. The classes of a rank are its distinct names sorted, so an image's label is not its category's id, and
changes with the rank; a name that stands in two places of the tree is one class.
"""

import json
import os

import numpy as np

from datasets.base import DataSet, ImageList
from datasets.sets.published import Mend, image_list, parse_list, read_files, require_images, require_root
from utils.errors import DataError

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
LISTS = ("iNaturalist18_train.txt", "iNaturalist18_val.txt")
CATEGORIES = "categories.json"
OFFICIAL = ("train2018.json", "val2018.json")
OFFICIAL_ADDRESS = "https://github.com/visipedia/inat_comp/tree/master/2018"
MENDS = (Mend("", "train_val2018.tar.gz", "tar -xzf {root}/train_val2018.tar.gz -C {root}"),)


def build(name: str, root: str | None) -> DataSet:
    """The data set `name` over the images below `root`; its lists are fetched on first use. Raises DataError."""
    root = require_root(root, "iNaturalist 2018", LAYOUT)
    official = all(os.path.isfile(os.path.join(root, file)) for file in OFFICIAL)
    train, test, categories = _read_official(root) if official else _read_published(root)
    require_images((train, test), root, LAYOUT, MENDS)
    value_of = {category["id"]: category[RANKS[name]] for category in categories}
    classnames = sorted(set(value_of.values()))
    label_of_value = {value: label for label, value in enumerate(classnames)}
    label_of = {category: label_of_value[value] for category, value in value_of.items()}
    return DataSet(name, classnames, _relabel(train, label_of), _relabel(test, label_of), root)


def _read_published(root: str) -> tuple[ImageList, ImageList, list[dict]]:
    """Both lists, with the categories' ids as labels, and the categories."""
    try:
        train, test, categories = read_files((*LISTS, CATEGORIES), root)
    except DataError as error:
        raise DataError(f"{error}; the official {' and '.join(OFFICIAL)} in {root} would do as well") from error
    lists = (
        image_list(*parse_list(content, file), root, file) for file, content in zip(LISTS, (train, test), strict=True)
    )
    return *lists, json.loads(categories)


def _read_official(root: str) -> tuple[ImageList, ImageList, list[dict]]:
    """As _read_published, from the competition's own files; their images come in the order of the annotations."""
    (train, categories), (test, _) = (_read_json(os.path.join(root, file), root) for file in OFFICIAL)
    if not all(isinstance(category.get(rank), str) for category in categories for rank in RANKS.values()):
        categories = json.loads(read_files((CATEGORIES,), root)[0])  # during the competition names were hidden
    return train, test, categories


def _read_json(path: str, root: str) -> tuple[ImageList, list[dict]]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        paths = [files[annotation["image_id"]] for annotation in content["annotations"]]
        ids = np.array([annotation["category_id"] for annotation in content["annotations"]], np.int64)
        categories = [dict(category, id=int(category["id"])) for category in content["categories"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{path} is damaged or not the official file ({type(error).__name__}: {error}); "
            f"replace it from {OFFICIAL_ADDRESS}, or remove it to use the published lists"
        ) from error
    return image_list(paths, ids, root, path), categories


def _relabel(images: ImageList, label_of: dict[int, int]) -> ImageList:
    """The same images, with the labels of their categories."""
    ids, inverse = np.unique(images.labels, return_inverse=True)
    for unknown in set(ids.tolist()) - label_of.keys():
        path = images.images[np.flatnonzero(images.labels == unknown)[0]]
        raise DataError(f"{path} is of category {unknown}, which the list of categories lacks; replace the lists")
    return ImageList(images.images, np.array([label_of[i] for i in ids.tolist()], np.int64)[inverse])
