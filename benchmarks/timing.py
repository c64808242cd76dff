"""Times of functions that take turns, the machine's matrix-product rate, and the arithmetic that a work needs."""

import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from models.backbones.backbone import Geometry

CLOCK = {"now": time.perf_counter}  # or time.process_time: of one thread, whatever the neighbours do


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def take_turns(
    functions: dict[str, Callable[[], object]], repeats: int, wait: Callable[[], None], warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, `repeats` of each: A B A B ..., so that what else the machine does meets both.

    A function that gives a float has measured itself. A turn in which other processes took more than a tenth of the
    machine is done again, as long as NEIGHBOURS has patience; of all turns the `repeats` least disturbed count.
    """
    turns: list[tuple[float, dict[str, float]]] = []
    if warm_up:
        for function in functions.values():
            function()
    while len(turns) < repeats or (NEIGHBOURS.patient() and sum(share < 0.1 for share, _ in turns) < repeats):
        NEIGHBOURS.wait()
        seconds, mark = {}, NEIGHBOURS.mark()
        for name, function in functions.items():
            wait()
            start = CLOCK["now"]()
            own = function()
            wait()
            seconds[name] = own if isinstance(own, float) else CLOCK["now"]() - start
        share = NEIGHBOURS.since(mark)
        NEIGHBOURS.spend(time.perf_counter() - mark[0] if share >= 0.1 else 0)
        turns.append((share, seconds))
    turns = sorted(turns, key=lambda turn: turn[0])[:repeats]
    NEIGHBOURS.met += [share for share, _ in turns]
    return {name: [seconds[name] for _, seconds in turns] for name in functions}


class Neighbours:
    """Other processes on this machine, whose work falsifies ours: four threads wait for the one that lost its core."""

    def __init__(self) -> None:
        self.patience = 0.0  # seconds left to wait for a quiet machine
        self.ours_apart = 0.0  # CPU seconds of processes that are ours and run on
        self.met: list[float] = []  # share of the machine that they took in each turn

    def patient(self) -> bool:
        return self.patience > 0

    def spend(self, seconds: float) -> None:
        self.patience -= seconds

    def wait(self) -> None:
        """Until they take less than a tenth of the machine, or patience ends."""
        while self.patient():
            mark = self.mark()
            time.sleep(0.5)
            self.spend(0.5)
            if self.since(mark) < 0.1:
                return

    def mark(self) -> tuple[float, float, float]:
        """The time, the machine's CPU seconds, and ours with our children's."""
        try:
            with open("/proc/stat") as file:
                user, nice, system, _, _, *rest = map(int, file.readline().split()[1:9])
            busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
        except OSError:
            busy = 0.0  # no Linux: nobody tells
        own = os.times()
        return time.perf_counter(), busy, sum(own[:4]) + self.ours_apart

    def since(self, mark: tuple[float, float, float]) -> float:
        """The share of all cores that they took since `mark`."""
        seconds, busy, own = (now - then for now, then in zip(self.mark(), mark, strict=True))
        return max(0.0, busy - own) / seconds / (os.cpu_count() or 1)


NEIGHBOURS = Neighbours()


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2 / median(values)


def matrix_products(device: torch.device, shapes: list[tuple[int, int, int]]) -> dict[str, Callable[[], float]]:
    """Linears [rows, in -> out] in bf16 as a yardstick: functions that give their seconds for a FLOP."""
    wait, least = waiter(device), 5e12 if device.type == "cuda" else 1e11

    def function(m: int, k: int, n: int) -> Callable[[], float]:
        x, w = (torch.randn(size, device=device, dtype=torch.bfloat16) for size in ((m, k), (n, k)))
        flops = 2 * m * k * n
        calls = max(1, int(min(least / flops, 100)))

        def measure() -> float:
            wait()
            start = CLOCK["now"]()
            for _ in range(calls):
                F.linear(x, w)
            wait()
            return (CLOCK["now"]() - start) / calls / flops

        return measure

    return {f"{m} x {k} x {n}": function(m, k, n) for m, k, n in shapes}


# ---- arithmetic: FLOPs of an image, 1 multiply-add = 2 ----


def tokens(g: Geometry) -> int:
    return (g.resolution // g.patch) ** 2 + 1


def forward_flops(g: Geometry, width: int = 0, num_classes: int = 0) -> float:
    """A forward pass through all tokens of all blocks; width: of an AdaptFormer in every block."""
    n, d = tokens(g), g.dim
    patches = (n - 1) * 3 * g.patch**2 * d
    block = 12 * n * d * d + 2 * n * n * d + 2 * n * d * width
    return 2 * (patches + g.depth * block + num_classes * d)


def training_flops(g: Geometry, width: int, num_classes: int) -> float:
    """Forward and backward: gradients of what trains, and of what stands between it and the loss.

    Nothing trains before the first block's AdaptFormer, so that block's attention and MLP have no backward pass.
    Attention has twice as many products backward as forward.
    """
    n, d = tokens(g), g.dim
    frozen = (g.depth - 1) * (12 * n * d * d + 4 * n * n * d)
    adapters = g.depth * 4 * n * d * width
    return forward_flops(g, width, num_classes) + 2 * (frozen + adapters + 2 * num_classes * d)
