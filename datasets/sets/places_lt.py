"""Places-LT (Liu et al. 2019): 62,500 training and 36,500 test images of 365 scenes, from 4,980 to 5 a class.

ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, the "easy" layout of Places365-Standard (Zhou et al. 2017).
"""

from datasets.base import DataSet
from datasets.sets.layout import LayoutFix, class_folders, require_images, require_root
from datasets.sets.published import KANG, PublishedFile, read_lists

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
    # the layouts that sort the classes by first letter
    LayoutFix("", "data_*", f"wget -P {{root}} {ADDRESS} && {UNPACK}"),
)


def build(name: str, root: str | None) -> DataSet:
    """The data set over the images below `root`; its lists are fetched on first use. Raises DataError."""
    root = require_root(root, "Places-LT", LAYOUT)
    train, test = read_lists((LISTS["train"], LISTS["test"]), root)
    require_images((train, test), root, LAYOUT, FIXES, usual="places365_standard")
    folders = class_folders(train)
    return DataSet(name, [folders[label] for label in sorted(folders)], train, test, root)
