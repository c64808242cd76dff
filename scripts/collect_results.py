"""Prints one table over many runs: mean and deviation over seeds, in percent, beside published values.

    python scripts/collect_results.py output [--csv FILE]

Runs that differ in nothing but their seed share a row, with their number (n), mean and sample standard deviation. A
test of a trained run (test_only) has a row of its own, and so has every list of images. A published value, with its
source, is shown beside a run with the published weights, on all of the published images, trained and tested as in its
paper: see published.yaml. A run without results is not finished.
"""

import argparse
import csv
import io
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import terminal
from utils.errors import DataError, UserError
from utils.files import WriteError, write_text
from utils.home import ensure_home
from utils.run.directory import RunDir
from utils.run.published import PUBLISHED, find_published, read_published
from utils.run.record import ACCURACIES, Result, read
from utils.text import visible


class Row(NamedTuple):
    """Runs that differ in nothing but their seed."""

    runs: list[Result]
    published: float | None  # overall, percent
    source: str
    test: str  # the way they were tested, in words that no other list of images has

    def values(self, accuracy: str) -> list[float]:
        """The accuracies of one kind, of each run that has it."""
        return [value for run in self.runs if (value := run.accuracy[accuracy]) is not None]


# ---- reading ----


def collect(paths: Iterable[Path], output: Path) -> list[Row]:
    """The rows of results files below `output`, by data set and accuracy. Unreadable files are reported on stderr."""
    groups = group_by_settings(_with_contents(read_all(paths, output)))
    published = read_published(PUBLISHED)
    firsts = [runs[0] for runs in groups]
    rows = [Row(runs, *find_published(runs[0], published), _words(runs[0], firsts)) for runs in groups]
    return sorted(rows, key=lambda row: (row.runs[0].data, statistics.mean(row.values("overall"))))


def read_all(paths: Iterable[Path], output: Path) -> list[Result]:
    """The results files that can be read, sorted by path. The others are reported on stderr."""
    found = []
    for path in sorted(paths):
        try:
            found.append(read(path, output))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reason = visible(f"{path} is damaged or not ours ({type(error).__name__}: {error})")
            terminal.say(f"left out: {reason}", error=True)
    return found


def group_by_settings(found: list[Result]) -> list[list[Result]]:
    """Groups results that differ in nothing but their seed.

    A seed that was run twice is not a second seed: it goes to the next group of the same settings.
    """
    groups: dict[str, list[Result]] = {}
    for result in found:
        copy = 0
        while any(other.seed == result.seed for other in groups.get(_key(result, copy), [])):
            copy += 1
        groups.setdefault(_key(result, copy), []).append(result)
    return list(groups.values())


def _with_contents(found: list[Result]) -> list[Result]:
    """The results. Older files fingerprint images by names only: the contents are added from newer files.

    An older file stays as it is where newer files have different contents of the same names.
    """
    known: dict[str, set[str]] = {}
    for result in found:
        for fingerprint in (result.images, result.settings.get("training images", "")):
            known.setdefault(fingerprint.partition("-")[0], set()).add(fingerprint)

    def whole(fingerprint: str) -> str:
        longer = [each for each in known[fingerprint.partition("-")[0]] if "-" in each]
        return longer[0] if len(longer) == 1 else fingerprint

    completed = []
    for result in found:
        training = result.settings.get("training images")
        settings = result.settings | ({"training images": whole(training)} if training else {})
        completed.append(result._replace(images=whole(result.images), settings=settings))
    return completed


def _key(result: Result, copy: int) -> str:
    return json.dumps([result.data, result.test, result.images, result.settings, result.tested, copy], sort_keys=True)


def _words(result: Result, others: list[Result]) -> str:
    """The way a run was tested, with the fingerprint of its images if a run with the same label has other images."""
    alike = [other for other in others if _label(other) == _label(result) and other.images != result.images]
    return f"{result.test}, images {result.images[-8:] or 'unknown'}" if alike else result.test


def _label(result: Result) -> tuple[str, ...]:
    return result.data, result.backbone, result.weights, result.run, result.test


# ---- showing ----


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation; the mean alone for a single value."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def show(rows: list[Row]) -> None:
    """Prints the rows as Markdown, with columns of published values if there is one."""
    header = ["data", "backbone", "run", "test", *ACCURACIES.values(), "trained", "n"]
    numbers = len(ACCURACIES) + 2
    any_published = any(row.published is not None for row in rows)
    terminal.say("| " + " | ".join(header + ["published overall", "source"] * any_published) + " |")
    terminal.say("|---|---|---|---|" + "---:|" * numbers + "---:|---|" * any_published)
    for row in rows:
        run = row.runs[0]
        weights = f" ({run.weights})" if run.weights and not run.published_weights else ""
        cells = [run.data, run.backbone + weights, run.run, row.test, *(spread(row.values(key)) for key in ACCURACIES)]
        cells += [f"{run.trained:,}", str(len(row.runs))]
        if any_published:
            cells += ["" if row.published is None else f"{row.published:.1f}", row.source]
        terminal.say("| " + " | ".join(visible(cell) for cell in cells) + " |")


def write_csv(rows: list[Row], path: Path) -> None:
    """Writes the rows as numbers: mean and deviation in columns of their own, empty where there is none."""
    header = ["data", "backbone", "weights", "run", "test", "n", "trained"]
    header += [f"{key}_{number}" for key in ACCURACIES for number in ("mean", "deviation")]
    with io.StringIO(newline="") as text:
        writer = csv.writer(text)
        writer.writerow([*header, "published_overall", "source"])
        for row in rows:
            run = row.runs[0]
            names = (run.data, run.backbone, run.weights, run.run, row.test)
            cells: list[Any] = [*map(visible, names), len(row.runs), run.trained]
            for values in map(row.values, ACCURACIES):
                cells += [
                    statistics.mean(values) if values else "",
                    statistics.stdev(values) if len(values) > 1 else "",
                ]
            writer.writerow([*cells, "" if row.published is None else row.published, row.source])
        write_text(path, text.getvalue())


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = terminal.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder with run directories")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to this file")
    args = parser.parse_args()
    try:
        rows = collect(RunDir.all_results(args.output), args.output)
        if not rows:
            raise DataError(
                f"no results below {args.output}; train something first", kind="no_results", path=args.output
            )
        show(rows)
        if args.csv:
            write_csv(rows, args.csv)
    except (UserError, WriteError) as error:
        terminal.say(f"error: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main())
