"""Places-LT (Liu et al. 2019): 62,500 training and 36,500 test images of 365 scenes, from 4,980 to 5 a class.

ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, the "easy" layout of Places365-Standard (Zhou et al. 2017).
"""

from datasets.base import DataSet
from datasets.sets.published import Mend, read_lists, require_images, require_root

LAYOUT = "train/airfield/*.jpg and val/airfield/*.jpg (Places365-Standard in its easy layout)"
ARCHIVE = "places365standard_easyformat.tar"
ADDRESS = f"http://data.csail.mit.edu/places/places365/{ARCHIVE}"
UNPACK = f"tar -xf {{root}}/{ARCHIVE} -C {{root}} --strip-components=1"
MENDS = (
    Mend("", ARCHIVE, UNPACK),
    Mend("", "data_*", f"wget -P {{root}} {ADDRESS} && {UNPACK}"),  # the layouts that sort the classes by first letter
)


def build(name: str, root: str | None) -> DataSet:
    """The data set over the images below `root`; its lists are fetched on first use. Raises DataError."""
    root = require_root(root, "Places-LT", LAYOUT)
    train, test = read_lists(("Places_LT_train.txt", "Places_LT_test.txt"), root)
    require_images((train, test), root, LAYOUT, MENDS, usual="places365_standard")
    folders = {label: path.split("/")[-2] for path, label in zip(train.images, train.labels.tolist(), strict=True)}
    return DataSet(name, [folders[label] for label in sorted(folders)], train, test, root)
