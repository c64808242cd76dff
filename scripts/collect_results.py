"""Prints one table over many runs: mean and deviation over seeds, in percent, with the number of seeds.

    python scripts/collect_results.py output [--csv FILE]

Runs that differ in nothing but their seed share a row. A run without results.json is not finished and is left out.
"""

import argparse
import csv
import json
import re
import statistics
import sys
from pathlib import Path

COLUMNS = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}


def collect(output: Path) -> dict[str, list[dict]]:
    """The results of every finished run below `output`, by the run directory's name without its seed."""
    rows: dict[str, list[dict]] = {}
    for path in sorted(output.rglob("results.json")):
        name = re.sub(r"_seed_\d+(?=_|$)", "", path.parent.relative_to(output).as_posix())
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            rows.setdefault(name, []).append({key: results[key] for key in ("accuracy", "params")})
        except (ValueError, KeyError, TypeError) as error:
            print(f"left out: {path} is damaged or not ours ({type(error).__name__}: {error})", file=sys.stderr)
    return rows


def spread(values: list[float | None]) -> str:
    """Mean and sample standard deviation; the mean alone of a single value."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def table(rows: dict[str, list[dict]]) -> list[list[str]]:
    """Header and rows, as text."""
    header = ["run", *COLUMNS.values(), "trained", "n"]
    lines = [
        [
            name,
            *(spread([run["accuracy"][key] for run in runs]) for key in COLUMNS),
            f"{runs[0]['params']['trained']:,}",
            str(len(runs)),
        ]
        for name, runs in sorted(
            rows.items(), key=lambda row: statistics.mean(r["accuracy"]["overall"] for r in row[1])
        )
    ]
    return [header, *lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder with run directories")
    parser.add_argument("--csv", type=Path, help="write the table there, too")
    args = parser.parse_args()
    rows = collect(args.output)
    if not rows:
        print(f"error: no results.json below {args.output}; train something first", file=sys.stderr)
        return 2
    header, *lines = table(rows)
    print("| " + " | ".join(header) + " |")
    print("|---|" + "---:|" * (len(header) - 1))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
