"""Places-LT (Liu et al. 2019): 62,500 training and 36,500 test images of 365 scenes, from 4,980 to 5 a class.

ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, the "easy" layout of Places365-Standard (Zhou et al. 2017). Test images
are of val/; the validation set is 20 images a class, which the training list leaves out.
"""

from datasets.base import DataSet
from datasets.sets.layout import LayoutFix, class_folders, require_images, require_root
from datasets.sets.published import KANG, PublishedFile, read_splits

LISTS = {
    "train": PublishedFile(f"{KANG}/Places_LT/Places_LT_train.txt", "6392252f8ae867bc8a5e841cc1b29e5b8ef4b636"),
    "val": PublishedFile(f"{KANG}/Places_LT/Places_LT_val.txt", "b93a2ca58ccb7f3b671c176f395a70bf52c95533"),
    "test": PublishedFile(f"{KANG}/Places_LT/Places_LT_test.txt", "e732e58b8aa718a2c1c11933375f5710652c2b93"),
}
LAYOUT = "train/airfield/*.jpg and val/airfield/*.jpg (Places365-Standard in its easy layout)"
ARCHIVE = "places365standard_easyformat.tar"
ADDRESS = f"http://data.csail.mit.edu/places/places365/{ARCHIVE}"
UNPACK = f"tar -xf {{root}}/{ARCHIVE} -C {{root}} --strip-components=1"
FIXES = (
    LayoutFix("", ARCHIVE, UNPACK),
    # the layouts with the classes sorted by first letter
    LayoutFix("", "data_*", f"wget -P {{root}} {ADDRESS} && {UNPACK}"),
)


def build(name: str, root: str | None, validation: bool = False) -> DataSet:
    """The data set of the images below `root`; its lists are fetched on first use. Raises DataError.

    validation: with the published validation list.
    """
    root = require_root(root, "Places-LT", LAYOUT)
    # the paths of the validation list are assumed to start with train/CLASS/ or val/CLASS/, as those of the others do
    lists = read_splits(LISTS, root, validation)
    require_images(list(lists.values()), root, LAYOUT, FIXES, usual="places365_standard")
    folders = class_folders(lists["train"])
    classnames = [folders[label] for label in sorted(folders)]
    return DataSet(name, classnames, lists["train"], lists["test"], root, lists.get("val"))
