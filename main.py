"""Fine-tunes a frozen CLIP or ViT for long-tailed recognition, and tests it.

    python main.py -d DATA -b BACKBONE -m METHOD [KEY VALUE ...]
    python main.py -d DATA -m MODEL [KEY VALUE ...]                  LIFT's form: MODEL is a file of configs/model
    python main.py -d digits_lt -b clip_tiny -m lift+ seed 1
    python main.py -d digits_lt -b clip_tiny -m lift+ seed 1 test_only True tte True

Exit status: 0 done, 1 it failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1 (which saves the
progress first). DEBUG=1 shows where.
"""

import argparse
import os
import shlex
import signal
import sys
from typing import NoReturn

from utils.config import config_names, help_text, load_config
from utils.errors import UserError
from utils.run.stopping import Stopped, Stopping


class Parser(argparse.ArgumentParser):
    """argparse's parser, with a hint for `--lr 0.1`."""

    def error(self, message: str) -> NoReturn:
        hint = "; options come as KEY VALUE pairs without dashes: root FOLDER" if "unrecognized" in message else ""
        super().error(message + hint)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line: data, backbone (may be None), method and options."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="keys: " + help_text()
    )
    for flag, section in (("-d", "data"), ("-b", "backbone"), ("-m", "method")):
        names = f"one of {', '.join(config_names(section))}"
        if section == "method":
            names += f"; without -b one of {', '.join(config_names('model'))}"
        parser.add_argument(flag, dest=section, metavar=section.upper(), required=section != "backbone", help=names)
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="see below")
    return parser.parse_intermixed_args(arguments)


def warn(line: str) -> None:
    """Prints a note about the command line."""
    print(f"note: {line}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Runs a command; returns its exit status."""
    args = parse(arguments)
    debugging = os.environ.get("DEBUG") == "1"
    stopping = Stopping()
    try:
        with stopping.handled():
            cfg = load_config(args.data, args.backbone, args.method, args.options, warn)

            from trainer import run  # takes seconds, so after the checks that do without: --help answers at once

            run(cfg, shlex.join(["python", "main.py", *arguments]), stopping)
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        print(f"{stop}; run the same command again to resume from the last saved progress", file=sys.stderr)
        return stop.status
    except UserError as error:
        if debugging:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if debugging:
            raise
        out_of_memory = type(error).__name__ == "OutOfMemoryError"  # torch's, which may not be imported
        remedy = "; accum_step None splits a step into micro-batches that fit" if out_of_memory else ""
        print(f"failed: {type(error).__name__}: {error}{remedy} (DEBUG=1 shows where)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
