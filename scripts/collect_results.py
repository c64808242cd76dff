"""Prints one table over many runs: mean and deviation over seeds, in percent, beside published values.

    python scripts/collect_results.py output [--csv FILE]

Runs that differ only in their seed share a row, with their number (n), mean and sample standard deviation. Each test of
a trained run (test_only) and each list of images has a row of its own. A published value and its source are shown
beside a run with the published weights, on all of the published images, trained and tested as in its paper:
see published.yaml. Runs without results are not finished, and not shown.

The table is Markdown. On a terminal narrower than the table, each row takes two lines instead.

Exit status: 0 done, 1 failure, 2 wrong input, 130 Ctrl-C, 143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute

from utils import terminal
from utils.errors import DataError
from utils.home import ensure_home


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/collect_results.py", description=__doc__)
    parser.add_argument("output", type=Path, help="folder with run directories")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to this file")
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> int:
    """Prints the table; returns the exit status. Raises UserErrors, and WriteError."""
    args = parse(arguments)

    # heavy imports come after --help and wrong options
    from results_table import collect, show, write_csv

    from utils.run.directory import RunDir

    rows = collect(RunDir.all_results(args.output), args.output)
    if not rows:
        raise DataError(f"no results below {args.output}; train something first", kind="no_results", path=args.output)
    show(rows)
    if args.csv:
        write_csv(rows, args.csv)
    return 0


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    return execute(run, arguments, "no file was written")


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
