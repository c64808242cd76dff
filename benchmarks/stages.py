"""The stages of the benchmark: each measures one work, of our program and of the plain one, and gives rows."""

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import apart, fresh
from benchmarks.inputs import make_data, make_test, normalised, plain_crops
from benchmarks.report import Row, compare
from benchmarks.stages_host import init, pipeline, start
from benchmarks.timing import forward_flops, training_flops
from benchmarks.work import Bench, Ours, build_ours, config, our_step, ready_to_test
from datasets.loading.crops import TTE_EXPAND

# ---- training ----


def train(bench: Bench) -> list[Row]:
    """Steps on one batch, which is sent from the host each time."""
    plan, ours, losses = bench.plan, bench.ours, []
    images, labels = bench.batch
    floats = normalised(images, ours.cfg)
    plain_steps = bench.plain.prepare(apart.training, bench.plain_trainer, floats, labels, plan.train_steps)

    def our_steps() -> None:
        losses.extend(our_step(bench, ours) for _ in range(plan.train_steps))

    seconds = bench.turns({"plain": plain_steps, "ours": our_steps} | bench.products)
    flops = training_flops(plan.geometry, plan.width, plan.num_classes)
    target = "4; 60 %" if bench.device.type == "cpu" else "4; 45 %; 5,700 images/s on an H100"
    what, count = f"training step, {plan.train_images} images", plan.train_images * plan.train_steps
    row = compare(what, seconds, count, target, flops)
    last = float(losses[-1][0]), bench.plain.result[-1]
    row.note = f"losses of the last step {last[0]:.4f} and {last[1]:.4f}"
    return [row]


# ---- testing ----


def test(bench: Bench) -> list[Row]:
    """Testing on images in memory, one crop of each."""
    side = bench.plan.geometry.resolution
    return [_test(bench, "testing", bench.plan.test_images, side + side // 7, 1)]


def tte(bench: Bench) -> list[Row]:
    """As test, with five crops of each image."""
    return [
        _test(bench, "testing, five crops", bench.plan.crops_images, bench.plan.geometry.resolution + TTE_EXPAND, 5)
    ]


def _test(bench: Bench, what: str, count: int, side: int, crops: int) -> Row:
    plan = bench.plan
    images = make_test(bench.paths, plan.num_classes, side, count)
    cfg = config(bench.folder, bench.weights, bench.device, plan, "tte", crops > 1)
    ours = build_ours(cfg, dataclasses.replace(bench.ours.data, test=images))
    floats = plain_crops(images.images.pixels, plan.geometry.resolution, crops, cfg)
    labels = torch.from_numpy(images.labels)
    plain = bench.plain.prepare(apart.testing, bench.plain_trainer, floats, labels, plan.train_images)
    with ready_to_test(ours):
        functions = {"plain": plain, "ours": ours.evaluate}
        seconds = bench.turns(functions | bench.products)
    flops = crops * forward_flops(plan.geometry, plan.width, plan.num_classes)
    target = "5; 60 %" if bench.device.type == "cpu" else "5; 45 %" + "; 11,300 images/s on an H100" * (crops == 1)
    return compare(f"{what}, {count} images", seconds, count, target, flops)


# ---- scale ----


def memory(bench: Bench) -> list[Row]:
    """The most memory of a process that trains, less what it had before the model."""
    bench.__dict__.pop("ours", None)
    peaks = {
        name: fresh.peak_mb(name, bench.plan, bench.device, bench.folder, bench.paths, bench.weights)
        for name in ("plain", "ours")
    }
    what = f"peak memory in training, {bench.plan.memory_images} images"
    return [Row(what, "MB", peaks["ours"], peaks["plain"], peaks["plain"] / peaks["ours"], target="2")]


def classes(bench: Bench, few: int = 100, many: int = 8142) -> list[Row]:
    """What a step costs more with many classes, beside the head, its loss and its update.

    A difference of nearly equal times: many short turns, of which the fastest step and head count.
    """
    images, labels = (x[: bench.plan.class_images].to(bench.device) for x in bench.batch)
    labels, functions = labels % few, {}
    for count in (few, many):
        cfg = config(bench.folder, bench.weights, bench.device, bench.plan)
        ours = build_ours(cfg, make_data(bench.paths, count))
        functions[f"step {count}"] = functools.partial(ours.train_step, images, labels)
        functions[f"head {count}"] = functools.partial(_head_step, ours, labels)
    seconds = bench.turns(functions, times=4)
    body = {count: min(seconds[f"step {count}"]) - min(seconds[f"head {count}"]) for count in (few, many)}
    more = 100 * (body[many] / body[few] - 1)
    row = Row(f"more for a step at {many:,} classes than at {few}, without head", "%", more, target="below 2 %")
    heads = ", ".join(f"{1000 * min(seconds[f'head {count}']):.1f} ms at {count:,}" for count in (few, many))
    row.note = f"steps of {len(images)} images take {1000 * body[few]:.0f} ms and the head {heads}"
    return [row]


def _head_step(ours: Ours, labels: Tensor) -> None:
    features = torch.randn(len(labels), ours.model.head.weight.shape[1], device=labels.device, requires_grad=True)
    (ours.loss(ours.model.head(features), labels).sum() / len(labels)).backward()
    torch.optim.SGD(ours.model.head.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4).step()
    ours.model.head.zero_grad()


STAGES: dict[str, Callable[[Bench], list[Row]]] = {
    "train": train,
    "classes": classes,
    "test": test,
    "tte": tte,
    "pipeline": pipeline,
    "memory": memory,
    "init": init,
    "start": start,
}
