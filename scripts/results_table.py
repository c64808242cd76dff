"""The table of collect_results.py: reads results files, groups them by settings, and prints or writes the rows."""

import csv
import io
import itertools
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from utils import terminal
from utils.files import write_text
from utils.run.published import PUBLISHED, find_published, read_published
from utils.run.record import ACCURACIES, Result, read
from utils.text import visible, wrapped

CELL = 15  # columns of " 100.00 ± 37.39" in two_lines


class Row(NamedTuple):
    """Runs that differ only in their seed."""

    runs: list[Result]
    published: float | None  # overall, percent
    source: str
    test: str  # how they were tested, in words that differ for each list of images

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
            reason = visible(f"{path} is damaged or not a results file ({type(error).__name__}: {error})")
            terminal.say(f"left out: {reason}", error=True)
    return found


def group_by_settings(found: list[Result]) -> list[list[Result]]:
    """Groups results that differ only in their seed.

    The second run of a seed goes to the next group of the same settings.
    """
    groups: dict[str, list[Result]] = {}
    for result in found:
        copy = 0
        while any(other.seed == result.seed for other in groups.get(_key(result, copy), [])):
            copy += 1
        groups.setdefault(_key(result, copy), []).append(result)
    return list(groups.values())


def _with_contents(found: list[Result]) -> list[Result]:
    """The results. Fingerprints of older files contain only names of images: those of newer files replace them.

    An older file stays as it is if newer files have different contents for the same names.
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
    """How a run was tested, with the fingerprint of its images if another run with the same label has other images."""
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
    """Prints the rows as Markdown; on a terminal that is narrower than this table, in two lines each."""
    table = markdown(rows)
    fits = max(map(len, table)) <= terminal.columns(sys.stdout)
    terminal.say("\n".join(table if fits or not sys.stdout.isatty() else two_lines(rows)))


def markdown(rows: list[Row]) -> list[str]:
    """The lines of the Markdown table, with columns of published values if there is one."""
    header = ["data", "backbone", "run", "test", *ACCURACIES.values(), "trained", "n"]
    numbers = len(ACCURACIES) + 2
    any_published = any(row.published is not None for row in rows)
    lines = ["| " + " | ".join(header + ["published overall", "source"] * any_published) + " |"]
    lines.append("|---|---|---|---|" + "---:|" * numbers + "---:|---|" * any_published)
    for row in rows:
        run = row.runs[0]
        cells = [run.data, _backbone(run), run.run, row.test, *(spread(row.values(key)) for key in ACCURACIES)]
        cells += [f"{run.trained:,}", str(len(row.runs))]
        if any_published:
            cells += ["" if row.published is None else f"{row.published:.1f}", row.source]
        lines.append("| " + " | ".join(visible(cell) for cell in cells) + " |")
    return lines


def two_lines(rows: list[Row]) -> list[str]:
    """The same in 80 columns: for each data set a heading, for each row its names and below them its numbers."""
    lines: list[str] = []
    for data, group in itertools.groupby(rows, lambda row: row.runs[0].data):
        lines += ["", visible(data), _numbers(ACCURACIES.values())]
        for row in group:
            run = row.runs[0]
            names = f"{run.run} ({_backbone(run)}; {row.test})  n = {len(row.runs)}, {run.trained:,} trainable"
            published = "" if row.published is None else f", published {row.published:.1f} ({row.source})"
            lines += [wrapped(visible(names + published), terminal.COLUMNS)]
            lines.append(_numbers(spread(row.values(key)) for key in ACCURACIES))
    return lines[1:]


def _numbers(cells: Iterable[str]) -> str:
    return " " * 5 + "".join(cell.rjust(CELL) for cell in cells)


def _backbone(run: Result) -> str:
    """A backbone, and its weights unless they are the published ones."""
    return run.backbone + (f" ({run.weights})" if run.weights and not run.published_weights else "")


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
