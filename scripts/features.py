"""Writes the image features of a run's tower, or of a backbone, to a NumPy file.

    python scripts/features.py RUN DATA --out FILE [KEY VALUE ...]
    python scripts/features.py -b BACKBONE DATA --out FILE [KEY VALUE ...]
    python scripts/features.py output/NAME digits_lt --split train --out t.npz
    python scripts/features.py -b clip_vit_b16 folder --out t.npz root PICTURES
    python scripts/features.py -b clip_vit_b16 PICTURES --out all.npz

DATA is a data set (-d of main.py) with its keys, such as root, or a folder, a list or a file of unlabelled pictures, as
for scripts/predict.py. With -b, keys of the weights are accepted, too, such as weights FILE.

The file contains features, float32 [n, D], of one centre crop; labels, int64 [n], -1 without a label; paths [n];
classnames [C]; and about, a description in JSON. Features of a data set are cached if the tower is frozen.

Exit status: 0 done, 3 done, except for pictures that could not be read, 1 failure, 2 wrong input, 130 Ctrl-C,
143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute
from model_options import UNREAD, add_model_options, note, note_unread, require_folder

from utils import terminal
from utils.config import Config, completed, config_names, load_config, pair_options
from utils.errors import ConfigError
from utils.files import atomic_write
from utils.home import ensure_home

if TYPE_CHECKING:
    import numpy as np

    from datasets.images import Images
    from models.extractor import Extractor

READING = ("exif_orientation", "bit_depth")
DATA_KEYS = (
    *("root", "train_list", "test_list", "test_fraction", "classnames", "imbalance", "outside_root", "bad_images"),
    "image_cache",
    *READING,
)
WEIGHT_KEYS = (
    *("weights", "activation", "heads", "text_heads", "mean", "std"),
    *("resolution", "interpolation", "resize", "expand", "reducing_gap"),
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; run is None with a backbone."""
    parser = terminal.Parser(
        prog="scripts/features.py",
        usage="%(prog)s (RUN | -b NAME) DATA --out FILE [KEY VALUE ...]",
        description=__doc__,
    )
    parser.add_argument("-b", dest="backbone", metavar="BACKBONE", help="a name or an address, as for main.py")
    parser.add_argument("words", nargs="+", metavar="WORD", help="RUN DATA [KEY VALUE ...]; without RUN after -b")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="the file to write (.npz)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="of a data set (%(default)s)")
    add_model_options(parser)
    args = parser.parse_intermixed_args(arguments)
    args.run = None if args.backbone else args.words.pop(0)
    if not args.words:
        parser.error("DATA is missing: name a data set, or a folder, a list or a file of pictures")
    args.data, *args.options = args.words
    return args


def build_config(args: argparse.Namespace) -> Config:
    """The configuration of the data, and with -b of the backbone. Raises ConfigError."""
    keys = DATA_KEYS if args.run else (*DATA_KEYS, *WEIGHT_KEYS)
    given = pair_options(args.options)
    if other := next((key for key in given if key not in keys), None):
        message = f"features accept {', '.join(keys)}; leave {other} out"
        raise ConfigError(message, kind="unused_key", key=other)
    flags = {"weights": args.weights, "prec_test": args.precision} if args.backbone else {}
    given |= {key: value for key, value in flags.items() if value is not None}
    given |= {"classifier_init": "None"}  # no head is built, so none is initialised
    options = [word for pair in given.items() for word in pair]
    data = args.data if args.data in config_names("data") else "folder"
    return load_config(data, args.backbone or "clip_tiny", "lp", options)


def build_model(args: argparse.Namespace, cfg: Config) -> "Extractor":
    """The model of the run, or the bare tower of the backbone. Raises UserErrors."""
    from models import load_run
    from models.extractor import build_extractor
    from utils.device.device import find_device

    if args.run:
        return load_run(args.run, args.device, args.weights, args.precision, args.batch_size, args.num_workers)
    return build_extractor(cfg, find_device(args.device), args.batch_size, args.num_workers)


# ---- images ----


def find_images(args: argparse.Namespace, cfg: Config) -> tuple["Images", "np.ndarray", list[str]]:
    """The images, their labels (-1 = none), and the class names. Raises DataError."""
    import numpy as np

    from datasets import build_data
    from datasets.new_pictures import NewPictures
    from datasets.own.unlabelled import find_pictures, read_standard_input

    if args.data in config_names("data"):
        data = build_data(cfg)
        listed = data.split(args.split)
        return listed.images, listed.labels, data.classnames
    paths = find_pictures([args.data], read_standard_input, note)
    turned = True if cfg.exif_orientation is None else cfg.exif_orientation
    return NewPictures(paths, turned, cfg.bit_depth), np.full(len(paths), -1), []


# ---- the command ----


def run(arguments: list[str]) -> int:
    """Computes and writes the features; returns the exit status. Raises UserErrors, and WriteError."""
    args = parse(arguments)
    cfg = build_config(args)
    require_folder(args.out)

    # heavy imports come after --help and wrong options
    import numpy as np

    from datasets.new_pictures import NewPictures
    from models.predictor import Predictor
    from utils.cache import TensorCache
    from utils.device.precision import precision_name

    # ---- model and images ----
    extractor = build_model(args, cfg)
    if isinstance(extractor, Predictor):  # pictures are read as in its test, unless keys are given
        cfg = completed(cfg, {key: getattr(extractor.pictures([]), key) for key in READING})
    images, labels, classnames = find_images(args, cfg)

    # ---- features ----
    is_new = isinstance(images, NewPictures)
    # the cache cannot represent unreadable pictures
    cache = TensorCache("features", not is_new, note)
    with terminal.progress(len(images), "features") as bar:
        features = extractor.features(images, cache, bar.update, note)[:, 0]
    problems = images.problems() if isinstance(images, NewPictures) else {}
    for index, reason in problems.items():
        note_unread(images.describe(index), reason)
    good = np.setdiff1d(np.arange(len(images)), list(problems))

    # ---- file ----
    about = {
        **({"run": args.run} if args.run else {"backbone": args.backbone}),
        "weights": {"name": extractor.weights.name, "sha256": extractor.weights.sha256},
        "crops": repr(extractor.crops),
        "precision": precision_name(extractor.precision),
        "data": args.data,
        "options": args.options,
        **({} if is_new else {"split": args.split}),
    }
    names = np.array(images.names(None, args.split), str)
    with atomic_write(args.out) as file:
        np.savez(
            file,
            features=features[good],
            labels=labels[good].astype(np.int64),
            paths=names[good],
            classnames=np.array(classnames, str),
            about=json.dumps(about),
        )
    left_out = f"; {len(problems):,} not read, and left out" if problems else ""
    note(f"{len(good):,} features of {features.shape[1]} numbers, written to {args.out}{left_out}")
    return UNREAD if problems else 0


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    return execute(run, arguments, "nothing was written")


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
