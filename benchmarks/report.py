"""Rows of the table, the table, and the JSON beside it."""

import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import torch

from benchmarks.timing import median, spread
from utils.device import environment


@dataclasses.dataclass
class Row:
    """One line: what was measured, of our program and of the plain one, in `unit`."""

    what: str
    unit: str
    ours: float
    plain: float | None = None
    ratio: float | None = None  # how many times better ours is
    spread: float = 0.0  # of the ratio: half the distance of its quartiles, as a share
    share: float | None = None  # of the machine's matrix rate, ours
    plain_share: float | None = None
    target: str = ""
    note: str = ""


def compare(what: str, seconds: dict[str, list[float]], count: int, target: str, flops: float = 0) -> Row:
    """Images per second of both programs, from seconds for `count` images; ratio and shares: the median of the turns.

    flops: that an image needs. What else took its turn are matrix products, in seconds for a FLOP.
    """
    ours, plain = (count / median(seconds[name]) for name in ("ours", "plain"))
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
    row = Row(what, "images/s", ours, plain, median(ratios), spread(ratios), target=target)
    products = [values for name, values in seconds.items() if name not in ("ours", "plain")]
    if products:
        best = [min(turn) for turn in zip(*products, strict=True)]
        row.share, row.plain_share = (
            median([count * flops * product / taken for taken, product in zip(seconds[name], best, strict=True)])
            for name in ("ours", "plain")
        )
    return row


def machine(device: torch.device, rates: dict[str, float]) -> dict:
    """What the numbers depend on."""
    return {
        "device": environment.describe(device),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "date": time.strftime("%Y-%m-%d"),
        "versions": environment.versions(),
        "matrix_rates": rates,
    }


def table(rows: list[Row], about: dict) -> str:
    """The Markdown that docs/performance.md shows."""
    lines = ["| | ratio | ours | baseline | unit | share of the matrix rate (baseline) | target |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = "" if row.ratio is None else f"**{row.ratio:.2f}** ± {100 * row.spread:.0f} %"
        share = "" if row.share is None else f"{100 * row.share:.0f} % ({100 * row.plain_share:.0f} %)"
        cells = [row.what, ratio, number(row.ours), number(row.plain), row.unit, share, row.target]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"{row.what}: {row.note}" for row in rows if row.note]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    met = about["neighbours"] or [0.0]
    others = f"other processes took {100 * median(met):.0f} % of it in the median turn, {100 * max(met):.0f} % at most"
    lines += ["", f"{about['device']}, {about['cores']} cores, {about['date']}; {others}; {about['seconds']:.0f} s."]
    if about["matrix_rates"]:
        rates = ", ".join(f"{name}: {rate / 1e9:,.0f}" for name, rate in about["matrix_rates"].items())
        lines.append(f"Matrix products in bf16, GFLOP/s: {rates}.")
    return "\n".join([*lines, versions + ".", *notes])


def short(row: Row) -> str:
    """The row in a few words."""
    share = "" if row.share is None else f", {100 * row.share:.0f} % of the matrix rate"
    return f"{row.what}: {number(row.ours)} {row.unit}" + (f", {row.ratio:.2f} times{share}" if row.ratio else "")


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(path: Path, rows: list[Row], about: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n")
