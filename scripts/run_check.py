"""The check of check_data.py: reads the data set, decodes its images, and writes the report."""

import itertools
import os
import re
import tempfile
from pathlib import Path

import data_report

from datasets import FOLDER_KEYS, build_data
from datasets.check.bad_images import BAD_IMAGES, BYTES, REPORT, quoted
from datasets.check.check import check_images
from utils import terminal
from utils.config import OUTPUT, Config, load_config
from utils.errors import ConfigError
from utils.files import read_json, write_text
from utils.run.results import write_json
from utils.text import visible

LIST_KEYS = ("root", *FOLDER_KEYS)  # which images and labels
KEYS = (
    *LIST_KEYS,
    *("many_threshold", "few_threshold", "exif_orientation", "bit_depth", "num_workers", "worker_timeout"),
)


def load(data: str, options: list[str]) -> Config:
    """The configuration of the data alone. Raises ConfigError."""
    # backbone and method do not matter; bad_images stop: all images are checked, whatever the file of -d sets
    cfg = load_config(data, "clip_tiny", "zs", [*options, *(["bad_images", "stop"] if len(options) % 2 == 0 else [])])
    other = [key for key in options[::2] if key not in KEYS]
    if other:
        raise ConfigError(f"a check accepts {', '.join(KEYS)}; leave {other[0]} out", kind="unused_key", key=other[0])
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
    """Makes the folder, and checks that it can be written to, before a check that may take an hour.

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


def run(data_name: str, options: list[str], command: str) -> int:
    """Checks a data set, writes the files, prints the report; returns the exit status. Raises UserErrors.

    command: as it was typed.
    """
    cfg = load(data_name, options)
    data = build_data(cfg, validation=cfg.dataset == "folder")  # a published list would have to be downloaded
    checked = {key: cfg[key] for key in ("dataset", *LIST_KEYS)} | {"root": cfg.root and os.path.realpath(cfg.root)}
    folder = report_folder(data_name, dict(zip(options[::2], options[1::2], strict=True)), checked)
    prepare(folder)

    cores = len(os.sched_getaffinity(0))
    check = check_images(data, cores if cfg.num_workers is None else cfg.num_workers, cfg.worker_timeout)
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
