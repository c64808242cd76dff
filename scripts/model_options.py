"""Parts shared by the scripts that apply a model to pictures: options, notes, and a check that a file is writable."""

import argparse
import errno
import tempfile
from collections.abc import Callable
from pathlib import Path

from utils import terminal
from utils.config.schema import TEST_PRECISIONS
from utils.errors import ConfigError
from utils.text import visible

UNREAD = 3  # exit status of a script that could not read some pictures


def whole(least: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers of at least `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, found '{text}'")
        return int(text)

    return number


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the device, the weights and the precision of a model."""
    parser.add_argument("--batch_size", type=whole(1), metavar="N", help="pictures per batch; default: the test's")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: the GPU, if there is one")
    parser.add_argument("--weights", metavar="FILE", help="the backbone's weights, if they have moved")
    parser.add_argument(
        "--precision", choices=TEST_PRECISIONS, help="precision of the image tower; default: the test's"
    )
    parser.add_argument("--num_workers", type=whole(0), metavar="N", help="processes that read; default: one per core")


def note(line: str) -> None:
    """Prints a line that is not a result."""
    terminal.say(visible(line), error=True)


def note_unread(path: str, reason: str) -> None:
    """Prints that a picture could not be read, and why."""
    note(f"not read  {path}: {reason}")


def require_folder(path: Path) -> None:
    """Checks that a file can be written at `path`, before an hour of work. Raises ConfigError."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not path.exists() or path.is_file():  # no device, such as /dev/stdout
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}); choose a file in a folder that exists and is yours"
        raise ConfigError(message, kind="cannot_write", path=path) from error
