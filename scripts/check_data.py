"""Checks every image of a data set before training.

    python scripts/check_data.py -d DATA [KEY VALUE ...]
    python scripts/check_data.py -d folder root PICTURES
    python scripts/check_data.py -d places_lt root PLACES num_workers 8

Decodes every file as in training, and reports missing, unreadable, suspiciously small and duplicate images, and the
classes with their counts and shot groups. Writes report.txt (the printed lines), report.json (all findings),
bad_images.txt, duplicates.txt and long_tail.png to output/check_DATA (with the names of root and train_list, if given).
With `bad_images skip`, runs of main.py leave out the images in bad_images.txt.

Exit status: 0 no problem found, 1 problems in the data, 2 wrong input, 3 the check failed (DEBUG=1 shows the
traceback), 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute

from utils import terminal
from utils.config import config_names
from utils.home import ensure_home


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/check_data.py", description=__doc__)
    names = f"one of {', '.join(config_names('data'))}"
    parser.add_argument("-d", dest="data", metavar="DATA", required=True, help=names)
    parser.add_argument(
        "-b", "-m", dest="ignored", metavar="NAME", help="ignored, so that the flags of a training command can stay"
    )
    help = "keys about the images; see main.py --help all"
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help=help)
    return parser.parse_intermixed_args(arguments)


def run(arguments: list[str]) -> int:
    """Runs the check; returns the exit status. Raises ConfigError and DataError."""
    args = parse(arguments)

    import run_check  # heavy, so it comes after --help and wrong options

    return run_check.run(args.data, args.options, shlex.join(["python", "scripts/check_data.py", *arguments]))


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    return execute(run, arguments, "no report was written", failed=3)


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
