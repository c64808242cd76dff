"""Looks at every image of a data set before it is trained on.

    python scripts/check_data.py -d DATA [KEY VALUE ...]
    python scripts/check_data.py -d folder root PICTURES
    python scripts/check_data.py -d places_lt root PLACES num_workers 8

Finds every file, decodes it as in training, and reports missing, unreadable, suspiciously small and duplicate images,
and the classes with their counts and shot groups. Writes report.txt (the printed lines), report.json (all findings),
bad_images.txt, duplicates.txt and long_tail.png to output/check_DATA (with the names of root and train_list, if given).
With `bad_images skip`, runs of main.py leave out the images in bad_images.txt.

Exit status: 0 all good, 1 something is wrong with the data, 2 wrong input, 3 the check failed (DEBUG=1 shows where),
130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import itertools
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute

from datasets import FOLDER_KEYS, build_data
from datasets.check.bad_images import BAD_IMAGES, BYTES, REPORT, quoted
from utils import terminal
from utils.config import OUTPUT, Config, config_names, load_config
from utils.errors import ConfigError
from utils.files import read_json, write_text
from utils.home import ensure_home
from utils.run.results import write_json
from utils.text import visible

LIST_KEYS = ("root", *FOLDER_KEYS)  # which images and labels
KEYS = (
    *LIST_KEYS,
    *("many_threshold", "few_threshold", "exif_orientation", "bit_depth", "num_workers", "worker_timeout"),
)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = terminal.Parser(
        prog="scripts/check_data.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = f"one of {', '.join(config_names('data'))}"
    parser.add_argument("-d", dest="data", metavar="DATA", required=True, help=names)
    parser.add_argument(
        "-b", "-m", dest="ignored", metavar="NAME", help="ignored, so that the words of a training command may stay"
    )
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help=f"{', '.join(KEYS)}; see main.py --help")
    return parser.parse_intermixed_args(arguments)


def load(data: str, options: list[str]) -> Config:
    """The configuration of the data alone. Raises ConfigError."""
    # backbone and method change no image; bad_images stop: all are checked, whatever the file of -d sets
    cfg = load_config(data, "clip_tiny", "zs", [*options, *(["bad_images", "stop"] if len(options) % 2 == 0 else [])])
    other = [key for key in options[::2] if key not in KEYS]
    if other:
        raise ConfigError(f"a check takes {', '.join(KEYS)}; leave {other[0]} out", kind="unused_key", key=other[0])
    return cfg


# ---- the folder of the report ----


def report_folder(data: str, options: dict[str, str], checked: dict) -> Path:
    """output/check_DATA_ROOT_LIST; a number is added if that is the report of another data set."""
    root, train_list = options.get("root"), options.get("train_list")
    parts = ["check", data, Path(root).resolve().name if root else "", Path(train_list).stem if train_list else ""]
    name = re.sub(r"[^\w.+@=-]+", "-", "_".join(part for part in parts if part))
    folders = (OUTPUT / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if _checked(folder) in (None, checked))


def _checked(folder: Path) -> dict | None:
    """The keys of the checked data set in a report; None if there is no report."""
    try:
        return read_json(folder / REPORT, BYTES)["checked"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prepare(folder: Path) -> None:
    """Makes the folder, and tries whether it can be written to, before a check that may take an hour.

    The last report stays until the new one can be written. Raises ConfigError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"cannot write to {folder} ({error.strerror}); run it where output/ is yours"
        raise ConfigError(message, kind="unwritable_folder", path=folder) from error


def write_lines(path: Path, lines: list[str]) -> None:
    """Writes a text file of these lines."""
    write_text(path, "".join(f"{line}\n" for line in lines))


# ---- the command ----


def run(arguments: list[str]) -> int:
    """Checks, writes the files, shows the report; returns the exit status. Raises ConfigError and DataError."""
    args = parse(arguments)
    cfg = load(args.data, args.options)
    data = build_data(cfg, validation=cfg.dataset == "folder")  # a published list would have to be downloaded
    checked = {key: cfg[key] for key in ("dataset", *LIST_KEYS)} | {"root": cfg.root and os.path.realpath(cfg.root)}
    folder = report_folder(args.data, dict(zip(args.options[::2], args.options[1::2], strict=True)), checked)
    prepare(folder)

    # heavy imports come late: --help and a wrong key answer at once
    import data_report

    from datasets.check.check import check_images

    cores = len(os.sched_getaffinity(0))
    check = check_images(data, cores if cfg.num_workers is None else cfg.num_workers, cfg.worker_timeout)
    command = shlex.join(["python", "scripts/check_data.py", *arguments])
    names = check.names
    lines = [visible(line) for line in (*data_report.text(check), *data_report.advice(check, folder))]
    bad = [f"{quoted(names[image])}\t{visible(found.reason)}" for image, found in check.bad.items()]
    (folder / REPORT).unlink(missing_ok=True)  # its presence means that the other files are those of its check
    write_lines(folder / "report.txt", [visible(f"$ {command}"), *lines])
    write_lines(folder / BAD_IMAGES, bad)
    write_lines(folder / "duplicates.txt", data_report.duplicate_lines(check))
    data_report.draw(data, folder / "long_tail.png")
    write_json(folder / REPORT, {"checked": checked, "command": command, **check.report()})
    terminal.say("\n".join(lines))
    return 0 if check.ok else 1


def main(arguments: list[str]) -> int:
    return execute(run, arguments, "nothing was reported", failed=3)


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
