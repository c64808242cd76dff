"""Writes the report of a run again, or a page that compares runs.

    python scripts/report.py RUN             report.html in the run directory
    python scripts/report.py RUN --all       and report_SUFFIX.html of each test
    python scripts/report.py RUN RUN ...     output/comparison.html

RUN is a run directory, such as output/NAME, also of an earlier version. The comparison has tables, charts and sign
tests against the first run. The images are read for thumbnails only, from the run's root; without them the pages show
names. --out FILE sets another file for the page.

Exit status: 0 done, 1 failure, 2 wrong input, 130 Ctrl-C, 143 SIGTERM. DEBUG=1 shows the traceback.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command import execute
from model_options import require_folder

from utils import terminal
from utils.config import OUTPUT, restored_config
from utils.config.files import flatten
from utils.errors import ConfigError, UserError
from utils.files import write_text
from utils.home import ensure_home
from utils.text import visible

if TYPE_CHECKING:
    from utils.report.pictures import Thumbnails
    from utils.report.source import Run

COMPARISON = "comparison.html"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = terminal.Parser(prog="scripts/report.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--all", action="store_true", help="the page of each test, too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file of the page")
    return parser.parse_args(arguments)


def thumbnails_for(run: "Run") -> "Thumbnails":
    """The thumbnails of a run's images; none, with a note, if these are missing."""
    from datasets import build_data
    from datasets.thumbnails import thumbnails_of
    from utils.report.pictures import no_thumbnails

    try:
        config = run.directory.saved_config()
        if not config:
            raise ConfigError(f"{run.directory.config} is missing or damaged", kind="no_configuration")
        data = build_data(restored_config(dict(flatten(config))))
    except UserError as error:
        terminal.say(f"note: no thumbnails: {error}", error=True)
        return no_thumbnails
    return thumbnails_of(data, data.fingerprints(contents=False))


def write_pages(run: "Run", all_tests: bool, out: Path | None) -> list[Path]:
    """Writes the page of a run, and with `all_tests` those of its tests; returns their paths."""
    from utils.report.run_page import build_page

    thumbnails = thumbnails_for(run)
    pages = {out or run.directory.report(): run.main}
    if all_tests:
        pages |= {run.directory.path / f"report{test.suffix}.html": test for test in run.tests if test.suffix}
    for path, test in pages.items():
        write_text(path, build_page(run, test, thumbnails))
    return list(pages)


def run(arguments: list[str]) -> int:
    """Writes the pages and prints their paths; returns the exit status. Raises UserErrors."""
    args = parse(arguments)

    # heavy imports come after --help and wrong options
    from utils.report.comparison import compare
    from utils.report.source import read_run
    from utils.run.directory import RunDir

    if args.out:
        require_folder(args.out)
    runs = [read_run(RunDir(path)) for path in args.runs]
    if len(runs) == 1:
        paths = write_pages(runs[0], args.all, args.out)
    elif args.all:
        raise ConfigError("--all is for one run; leave it out, or name one run", kind="all_of_several_runs")
    else:
        page, paths = compare(runs), [args.out or OUTPUT / COMPARISON]
        if args.out is None:
            OUTPUT.mkdir(exist_ok=True)
        write_text(paths[0], page)
    for path in paths:
        terminal.say(f"report    {visible(str(path))}")
    return 0


def main(arguments: list[str]) -> int:
    """Executes a command line; returns its exit status."""
    return execute(run, arguments, "pages written so far remain")


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main(sys.argv[1:]))
