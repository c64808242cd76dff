"""Prints one table over many runs: mean and deviation over seeds, in percent, beside what was published.

    python scripts/collect_results.py output [--csv FILE]

Runs that differ in nothing but their seed share a row, which says how many they are (n) and gives their mean and
sample standard deviation. A test of a trained run (test_only) has a row of its own. A published value stands beside
what was trained as its paper says, with its source: see published.yaml. A run without results is not finished.
"""

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.config import load_config, training_options
from utils.schema import KEYS

ACCURACIES = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}
PUBLISHED = Path(__file__).with_name("published.yaml")
DEFAULTS = {name: key.default for name, key in KEYS.items() if key.names_run}
HOW_ONLY = {"seed", "deterministic", "prec_train", "accum_step"}  # these change rounding or chance, not the method


class Result(NamedTuple):
    """What a results file says of one run."""

    data: str
    backbone: str
    run: str  # its directory, without data, backbone and seed where they are in the name
    test: str  # how it was tested, in words
    crops: int
    usual: bool  # tested as usual: on the test images, with the default expand
    seed: int
    settings: dict  # what changes training, but for the seed; a key newer than the file has its default
    accuracy: dict[str, float | None]  # percent
    trained: int  # parameters


class Row(NamedTuple):
    """Runs that differ in nothing but their seed."""

    runs: list[Result]
    published: float | None  # overall, percent
    source: str

    def values(self, accuracy: str) -> list[float]:
        """Of each run that has it."""
        return [run.accuracy[accuracy] for run in self.runs if run.accuracy[accuracy] is not None]


# ---- reading ----


def collect(paths: Iterable[Path], output: Path) -> list[Row]:
    """The rows of results files below `output`, by data set and accuracy; names on stderr what cannot be read."""
    groups: dict[str, list[Result]] = {}
    for path in sorted(paths):
        try:
            result = read(path, output)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            print(f"left out: {path} is damaged or not ours ({type(error).__name__}: {error})", file=sys.stderr)
            continue
        copy = 0  # a seed that was run twice is no second seed: it goes to the next row of the same settings
        while any(other.seed == result.seed for other in groups.get(_key(result, copy), [])):
            copy += 1
        groups.setdefault(_key(result, copy), []).append(result)
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    rows = [Row(runs, *find_published(runs[0], published)) for runs in groups.values()]
    return sorted(rows, key=lambda row: (row.runs[0].data, statistics.mean(row.values("overall"))))


def _key(result: Result, copy: int) -> str:
    return json.dumps([result.data, result.test, result.settings, copy], sort_keys=True)


def read(path: Path, output: Path) -> Result:
    """One results file. Raises an error for what is no results file of ours."""
    content = json.loads(path.read_text(encoding="utf-8"))
    data, settings = content["data"]["name"], DEFAULTS | content["settings"]
    backbone, seed = settings["backbone"], settings.pop("seed")
    name = re.sub(r"_seed_\d+(?=_|/|$)", "", path.parent.relative_to(output).as_posix())
    name = re.sub(r"/[a-z]+_expand_\d+$", "", name)  # run_all.py's folders of tests, which `test` tells apart
    name = name.removeprefix(f"{data}_").removeprefix(f"{backbone}_")
    test, usual = how_tested(path, content)
    accuracy = {key: content["accuracy"][key] for key in ACCURACIES}
    float(accuracy["overall"])
    crops, trained = content["test"]["crops"], int(content["params"]["trained"])
    return Result(data, backbone, name, test, crops, usual, seed, settings, accuracy, trained)


def how_tested(path: Path, content: dict) -> tuple[str, bool]:
    """How a run was tested, in words, and whether that is the usual way for its number of crops."""
    crops = content["test"]["crops"]
    words = "1 crop" if crops == 1 else f"{crops} crops"
    expand = re.search(r" (?:tte_)?expand (\d+)", content["command"])
    if expand:
        words += f", expand {expand[1]}"
    if content["data"]["split"] != "test":
        words += f", {content['data']['split']} images"
    elif path.name == "results_test.json" and not expand:
        words += ", tested again"
    return words, not expand and content["data"]["split"] == "test"


def find_published(result: Result, published: list[dict]) -> tuple[float | None, str]:
    """The published accuracy for a run that was trained and tested in the same way, and its source."""
    for entry in published:
        value = entry["overall"].get(result.data, {}).get(result.crops)
        if value is None or not result.usual or result.backbone != entry["backbone"]:
            continue
        options = [str(text) for pair in entry.get("options", {}).items() for text in pair]
        wanted = training_options(load_config(result.data, entry["backbone"], entry["method"], options))
        if all(result.settings[key] == value for key, value in wanted.items() if key not in HOW_ONLY):
            return value, entry["source"]
    return None, ""


# ---- showing ----


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation; the mean alone of a single value."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def show(rows: list[Row]) -> None:
    """Prints them as Markdown; the columns of published values only where there is one."""
    header = ["data", "backbone", "run", "test", *ACCURACIES.values(), "trained", "n"]
    numbers = len(ACCURACIES) + 2
    any_published = any(row.published is not None for row in rows)
    print("| " + " | ".join(header + ["published overall", "source"] * any_published) + " |")
    print("|---|---|---|---|" + "---:|" * numbers + "---:|---|" * any_published)
    for row in rows:
        run = row.runs[0]
        cells = [run.data, run.backbone, run.run, run.test, *(spread(row.values(key)) for key in ACCURACIES)]
        cells += [f"{run.trained:,}", str(len(row.runs))]
        if any_published:
            cells += ["" if row.published is None else f"{row.published:.1f}", row.source]
        print("| " + " | ".join(cells) + " |")


def write_csv(rows: list[Row], path: Path) -> None:
    """The same as numbers: mean and deviation in columns of their own, empty where there is none."""
    header = ["data", "backbone", "run", "test", "n", "trained"]
    header += [f"{key}_{number}" for key in ACCURACIES for number in ("mean", "deviation")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "published_overall", "source"])
        for row in rows:
            run = row.runs[0]
            cells = [run.data, run.backbone, run.run, run.test, len(row.runs), run.trained]
            for values in map(row.values, ACCURACIES):
                cells += [
                    statistics.mean(values) if values else "",
                    statistics.stdev(values) if len(values) > 1 else "",
                ]
            writer.writerow([*cells, "" if row.published is None else row.published, row.source])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder with run directories")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    args = parser.parse_args()
    rows = collect(args.output.rglob("results*.json"), args.output)
    if not rows:
        print(f"error: no results below {args.output}; train something first", file=sys.stderr)
        return 2
    show(rows)
    if args.csv:
        write_csv(rows, args.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
