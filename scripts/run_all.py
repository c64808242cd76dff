#!/usr/bin/env python3
"""Runs the experiments of scripts/run_*.sh: reads commands of main.py, one per line, and runs those without results.

    scripts/run_losses.sh                  all of them, then their table
    scripts/run_losses.sh --dry-run        only their commands
    scripts/run_losses.sh --only 'places_lt.*(CE|LDAM)'
    scripts/run_losses.sh --root imagenet_lt=/data/imagenet
    scripts/run_losses.sh -d digits_lt -b clip_tiny --jobs 4
    scripts/run_losses.sh prec_train bf16 num_epochs 10

--only REGEX is searched in each command as the script has it ('lift\\+$' matches at its end), and also with the
additions of the command line: first KEY VALUE pairs ('num_epochs 10$'), then root, then seed. One match is enough.
-d and -b replace those of the script, and KEY VALUE pairs apply to all runs.

The output of a run is in terminal.txt of its run directory. A run with a results file is skipped (with -d folder, if
the file has the same images). Failures are listed at the end and do not stop the others. The table is printed to
stdout, everything else to stderr. The same command resumes after an interruption.

Exit status: 0 done, 1 some runs failed, 2 wrong input (before anything starts), 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP,
138 SIGUSR1, which saves the progress of each run first.
"""

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import terminal
from utils.config import OUTPUT
from utils.errors import UserError
from utils.home import ensure_home
from utils.text import visible


def interrupt(number: int, frame: FrameType | None) -> None:
    """Signal handler that ends everything, as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def _data_and_folder(text: str) -> tuple[str, str]:
    data, _, folder = text.partition("=")
    if not (data and folder):
        raise argparse.ArgumentTypeError(f"must be DATA=FOLDER, found '{text}'")
    return data, folder


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a regular expression ({error})") from error


def _count(text: str) -> int:
    if text == "cores":
        return os.cpu_count() or 1
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, found '{text}'")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked as far as it can be without the commands."""
    parser = terminal.Parser(prog="scripts/run_GROUP.sh", description=__doc__)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="print the commands, and run nothing")
    add("--only", metavar="REGEX", type=_regex, default="", help="run only the commands that match")
    add("--jobs", metavar="N", type=_count, default=1, help="runs at once, or 'cores' (default: 1)")
    add("--seeds", metavar="N", type=_count, default=1, help="repeat each run with seeds 0 to N - 1")
    add("--root", metavar="DATA=FOLDER", type=_data_and_folder, action="append", default=[], help="a data set's images")
    add("-d", dest="data", help="data set, in place of the script's")
    add("-b", dest="backbone", help="backbone, in place of the script's")
    add("options", nargs="*", metavar="KEY VALUE", help="keys for all runs; see main.py --help all")
    args = parser.parse_intermixed_args(arguments)
    if sys.stdin.isatty():
        parser.error("the commands come from a script: scripts/run_main.sh, scripts/run_losses.sh, ...")
    args.root = dict(args.root)
    fixed = {"output_dir", "model_dir", "seed" if args.seeds > 1 else ""} & set(args.options[::2])
    if fixed:
        parser.error(f"every run has its own {fixed.pop()}, so it cannot be the same for all")
    if ("seed", "None") in zip(args.options[::2], args.options[1::2], strict=False):
        parser.error("seed None draws a new seed each time, so completed runs are not found again; use --seeds N")
    return args


def main(arguments: list[str]) -> int:
    """Runs the commands of stdin; returns the exit status."""
    args = parse(arguments)

    # heavy imports come after --help and wrong options
    from planning import find_results, plan, require_roots
    from results_table import collect, show
    from running import log, run_all

    try:
        runs = plan(sys.stdin.read().splitlines(), args)
        if args.dry_run:
            for run in runs:
                terminal.say(f"{run}  # done" if run.done else str(run))
            return 0
        require_roots(runs)
    except UserError as error:
        log(f"error: {error}")
        return 2

    to_run = [run for run in runs if not run.done]
    log(f"{len(runs)} runs, {len(runs) - len(to_run)} of them done already")
    for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ending, interrupt)
    try:
        failed = run_all(to_run, args.jobs)
    except KeyboardInterrupt as interruption:
        log("interrupted, and stopped everything that was started; run the same command again to resume")
        return 128 + (interruption.args[0] if interruption.args else signal.SIGINT)

    finished = [path for path in map(find_results, runs) if path]
    if finished:
        show(collect(finished, OUTPUT))
    if failed:
        log(f"\n{len(failed)} of {len(to_run)} failed:")
        for run, why in failed.items():
            log(f"  {run}\n    {visible(why)}")
    return 1 if failed else 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
