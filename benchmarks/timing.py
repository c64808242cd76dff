"""Times of functions that take turns, peak memory, and the table."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
from typing import Any

import torch

Seconds = dict[str, list[float]]  # of each function, turn by turn
Prepare = Callable[..., Callable[[], object]]  # (device, ...) -> a function to time

# ---- turns ----


def timed(function: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Seconds of a call, and its result; a float result is the seconds, measured by the function itself."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = function()
    wait()
    return (result if isinstance(result, float) else time.perf_counter() - start), result


def take_turns(functions: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> Seconds:
    """Seconds of each function, called `repeats` times in the order A B A B ..., so that other load affects both.

    A function that returns a float has measured itself. On a GPU each is first called once to warm up.
    """
    for function in functions.values() if device.type == "cuda" else ():
        function()
    seconds: Seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(timed(function, device)[0])
    return seconds


# ---- the baseline's process ----


class BaselineProcess:
    """Times a function in its own process, so that this program's allocator settings do not apply."""

    def __init__(self, device: torch.device):
        self.device = device
        self.result: Any = None  # of the last call
        settings = torch.get_num_threads(), get_start_method()
        self.executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=settings)

    def prepare(self, prepare: Prepare, *args: object) -> Callable[[], float]:
        """Calls prepare(device, *args) there; returns a function that runs the result and returns its seconds."""
        self.executor.submit(_prepare, prepare, self.device, *args).result()
        return self._run

    def _run(self) -> float:
        seconds, self.result = self.executor.submit(_run, self.device).result()
        return seconds


_prepared: list[Callable[[], object]] = []


def _begin(threads: int, start_method: str) -> None:
    torch.set_num_threads(threads)
    set_start_method(start_method, force=True)  # for the workers of a loader, which a spawned process would spawn


def _prepare(prepare: Prepare, *args: object) -> None:
    _prepared.clear()  # first, to free the memory of the last one
    _prepared.append(prepare(*args))


def _run(device: torch.device) -> tuple[float, object]:
    return timed(_prepared[0], device)


# ---- memory ----


def peak_mb(device: torch.device, prepare: Prepare, args: tuple[object, ...]) -> float:
    """The peak memory of prepare(device, *args)() in this process, MB; most accurate in a new process."""
    torch.ones(8, 8, requires_grad=True).square().sum().backward()  # loads autograd
    before = high_water_mb()
    prepare(device, *args)()
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else high_water_mb() - before


def high_water_mb() -> float:
    """The peak memory of this process, MB. ru_maxrss would include the parent's."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


# ---- the table ----


@dataclasses.dataclass
class Row:
    """One line: a measurement of this program and of the baseline, in `unit`."""

    what: str
    unit: str
    ours: float
    plain: float | None = None
    ratio: float | None = None  # how many times better this program is
    spread: float = 0.0  # of the ratio: half its interquartile range, as a share of the median
    target: str = ""
    note: str = ""

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"**{self.ratio:.2f}** ± {100 * self.spread:.0f} %"
        cells = [self.what, ratio, _number(self.ours), _number(self.plain), self.unit, self.target]
        return "| " + " | ".join(cells) + " |"


def compare(what: str, seconds: Seconds, count: float, target: str = "", unit: str = "images/s") -> Row:
    """Rates of both programs from their seconds for `count` images; the ratio is the median of the turns."""
    ours, plain = (count / statistics.median(seconds[name]) for name in ("ours", "plain"))
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
    return Row(what, unit, ours, plain, statistics.median(ratios), spread(ratios), target)


def spread(values: list[float]) -> float:
    """Half the interquartile range, as a share of the median."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2 / statistics.median(values)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """The Markdown of docs/performance_log.md, with the machine, the date and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"| | ratio | {' | '.join(about['columns'])} | unit | target |", "|---" * 6 + "|", *map(str, rows), ""]
    lines += [f"{about['device']}, {about['cores']} cores, {about['date']}, {about['seconds']:.0f} s, {versions}."]
    lines += [f"Processes that ran or waited for a core at the start: {about['load']:.1f}, averaged over a minute."]
    lines += [f"{row.what}: {row.note}" for row in rows if row.note]
    return "\n".join(lines)
