"""Times of functions that take turns, what else the machine did meanwhile, the arithmetic of a ViT, and the table."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.baseline import Sizes

Seconds = dict[str, list[float]]  # of each function, turn by turn
Prepare = Callable[..., Callable[[], object]]  # (device, ...) -> a function to time

# ---- turns ----


class OtherLoad:
    """The work of other processes, which disturbs ours: four threads wait for the one that lost its core."""

    def __init__(self) -> None:
        self.running_seconds = 0.0  # processor seconds of processes of ours that still run
        self.shares: list[float] = []  # of all cores, in each turn

    def read(self) -> np.ndarray:
        """The time, the processor seconds of the machine, and ours with those of our children."""
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
        machine = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
        return np.array([time.perf_counter(), machine, sum(os.times()[:4]) + self.running_seconds])

    def add_turn(self, start: np.ndarray) -> None:
        """Records the share of all cores that other processes took since `start`."""
        seconds, machine, ours = self.read() - start
        share = (machine - ours) / seconds / (os.cpu_count() or 1)
        self.shares.append(float(np.clip(share, 0, 1)))  # the clocks of a short turn are coarse


def waiter(device: torch.device) -> Callable[[], None]:
    """A function that waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def take_turns(
    functions: dict[str, Callable[[], object]], repeats: int, device: torch.device, load: OtherLoad
) -> Seconds:
    """Seconds of each function, `repeats` of each: A B A B ..., so that other work on the machine affects both.

    A function that returns a float has measured itself. A GPU gets a turn to warm up.
    """
    wait = waiter(device)
    for function in functions.values() if device.type == "cuda" else ():
        function()
    seconds: Seconds = {name: [] for name in functions}
    for _ in range(repeats):
        begin = load.read()
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            measured = function()
            wait()
            seconds[name].append(measured if isinstance(measured, float) else time.perf_counter() - start)
        load.add_turn(begin)
    return seconds


# ---- the baseline's process ----


class BaselineProcess:
    """Times a function in a process of its own, so that the settings of our allocator do not apply."""

    def __init__(self, device: torch.device, load: OtherLoad):
        self.device, self.load = device, load
        self.result: Any = None  # of the last call
        settings = torch.get_num_threads(), get_start_method()
        self.executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=settings)

    def prepare(self, prepare: Prepare, *args: object) -> Callable[[], float]:
        """Calls prepare(device, *args) there; returns a function that runs the result and returns its seconds."""
        self.executor.submit(_prepare, prepare, self.device, *args).result()
        return self._run

    def _run(self) -> float:
        seconds, processor_seconds, self.result = self.executor.submit(_run, self.device).result()
        self.load.running_seconds += processor_seconds
        return seconds


_prepared: list[Callable[[], object]] = []


def _begin(threads: int, start_method: str) -> None:
    torch.set_num_threads(threads)
    set_start_method(start_method, force=True)  # for the workers of a loader; a spawned process would spawn them


def _prepare(prepare: Prepare, *args: object) -> None:
    _prepared.clear()  # first: frees the memory of the last one
    _prepared.append(prepare(*args))


def _run(device: torch.device) -> tuple[float, float, object]:
    """Seconds by the clock, or as the function measured them itself; processor seconds; the result."""
    wait, processor_seconds = waiter(device), sum(os.times()[:4])
    start = time.perf_counter()
    result = _prepared[0]()
    wait()
    seconds = result if isinstance(result, float) else time.perf_counter() - start
    return seconds, sum(os.times()[:4]) - processor_seconds, result


# ---- memory ----


def peak_mb(device: torch.device, prepare: Prepare, args: tuple[object, ...]) -> float:
    """The most memory that this process takes for prepare(device, *args)(), MB; a new process measures best."""
    torch.ones(8, 8, requires_grad=True).square().sum().backward()  # loads autograd
    before = high_water_mb()
    prepare(device, *args)()
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else high_water_mb() - before


def high_water_mb() -> float:
    """The most memory that this process has had, MB. ru_maxrss would begin with that of the parent."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


# ---- arithmetic: FLOPs per image, 1 multiply-add = 2 ----


def forward_flops(s: Sizes, width: int = 0, num_classes: int = 0) -> float:
    """A forward pass through all tokens of all blocks; width: of an AdaptFormer in every block."""
    n, d = s.tokens, s.dim
    patches = (n - 1) * 3 * s.patch**2 * d
    block = 12 * n * d * d + 2 * n * n * d + 2 * n * d * width
    return 2 * (patches + s.depth * block + num_classes * d)


def training_flops(s: Sizes, width: int, num_classes: int) -> float:
    """Forward and backward: gradients of the trainable parameters, and of all layers between them and the loss.

    Nothing is trainable before the first block's AdaptFormer: that block's attention and MLP have no backward pass.
    Attention has twice as many products backward as forward.
    """
    n, d = s.tokens, s.dim
    frozen = (s.depth - 1) * (12 * n * d * d + 4 * n * n * d)
    adapters = s.depth * 4 * n * d * width
    return forward_flops(s, width, num_classes) + 2 * (frozen + adapters + 2 * num_classes * d)


def matrix_product(device: torch.device, size: int) -> Callable[[], float]:
    """The yardstick: a function that multiplies square bf16 matrices and returns its seconds per FLOP."""
    wait, flops = waiter(device), 2 * size**3
    calls = max(1, min(100, int((5e12 if device.type == "cuda" else 1e11) / flops)))
    x, w = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            F.linear(x, w)
        wait()
        return (time.perf_counter() - start) / calls / flops

    return measure


# ---- the table ----


@dataclasses.dataclass
class Row:
    """One line: a measurement of our program and of the plain one, in `unit`."""

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

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"**{self.ratio:.2f}** ± {100 * self.spread:.0f} %"
        share = ""
        if self.share is not None and self.plain_share is not None:
            share = f"{100 * self.share:.0f} % ({100 * self.plain_share:.0f} %)"
        cells = [self.what, ratio, _number(self.ours), _number(self.plain), self.unit, share, self.target]
        return "| " + " | ".join(cells) + " |"


def compare(what: str, seconds: Seconds, count: int, target: str, flops: float = 0, unit: str = "images/s") -> Row:
    """Rates of both programs from their seconds for `count` images; ratio and shares are medians of the turns.

    flops: per image, where "product" took turns with both, in seconds per FLOP.
    """
    ours, plain = (count / statistics.median(seconds[name]) for name in ("ours", "plain"))
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
    row = Row(what, unit, ours, plain, statistics.median(ratios), spread(ratios), target=target)
    if "product" in seconds:
        row.share, row.plain_share = (
            statistics.median([count * flops * b / a for a, b in zip(seconds[name], seconds["product"], strict=True)])
            for name in ("ours", "plain")
        )
    return row


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2 / statistics.median(values)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """The Markdown that docs/performance.md shows, and what its numbers depend on."""
    load = about["other_load"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = ["| | ratio | ours | baseline | unit | share of the matrix rate (baseline) | target |", "|---" * 7 + "|"]
    return "\n".join(
        [
            *lines,
            *(str(row) for row in rows),
            "",
            f"{about['device']}, {about['cores']} cores, {about['date']}, {about['seconds']:.0f} s.",
            f"Other processes took {statistics.median(load):.0%} of it in the median turn, {max(load):.0%} at most.",
            f"Matrix products in bf16: {about['matrix_rate'] / 1e9:,.0f} GFLOP/s.",
            f"{versions}.",
            *(f"{row.what}: {row.note}" for row in rows if row.note),
        ]
    )
