"""Stages beside the model: images from files, a head's first weights from class names, and a run's start."""

import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import fresh
from benchmarks.baseline import PlainImages, PlainText, plain_loader, plain_semantic
from benchmarks.inputs import species
from benchmarks.report import Row, compare
from benchmarks.timing import median, spread
from benchmarks.work import Bench, Plan, config
from datasets.base import ImageList
from datasets.loader import Loader, TrainSteps, in_order
from datasets.transforms import TestCrops, TrainCrop
from models.head_init import HEAD_INITS
from models.text import VOCABULARY, class_prompts, tokenize
from models.weights import load_backbone

# ---- images ----


def pipeline(bench: Bench) -> list[Row]:
    """From files to batches on the device, a worker for each core; without the first batches, while workers start."""
    plan, side, epochs = bench.plan, bench.plan.geometry.resolution, 5
    size = plan.pipeline_batch * plan.pipeline_batches
    paths = [bench.paths[i % len(bench.paths)] for i in range(size)]
    images = ImageList(paths, np.zeros(size, np.int64))
    crop = TrainCrop(side, seed=0, num_epochs=epochs)
    cfg = config(bench.folder, bench.weights, bench.device, plan)
    rows = []
    for what, ours, box, steps in (
        (
            "images, training crops",
            crop,
            lambda *at: crop.draw(*at)[0],
            TrainSteps(size, plan.pipeline_batch, 0, epochs),
        ),
        (
            "images, test crop",
            TestCrops(side, side // 7),
            None,
            in_order(np.arange(size), plan.pipeline_batch) * epochs,
        ),
    ):
        plain = PlainImages(paths, images.labels, side, cfg.mean, cfg.std, box)
        functions = {
            "plain": lambda p=plain, s=steps: seconds_per_image(plain_loader(p, s, plan.workers), plan, bench.device),
            "ours": lambda c=ours, s=steps: seconds_per_image(Loader(images, c, s, bench.device, plan.workers), plan),
        }
        seconds = bench.turns(functions)
        row = compare(what, seconds, 1, "2.5" if box else "")
        row.ours, row.plain, row.unit = row.ours / plan.workers, row.plain / plan.workers, "images/s and core"
        row.note = f"{plan.workers} workers, files of {_mean_kb(bench.paths):.0f} KB"
        rows.append(row)
    return rows


def seconds_per_image(batches, plan: Plan, device: torch.device | None = None) -> float:
    """Of batches of plan.pipeline_batch, sent to `device`, once every worker has given its first."""
    times = []
    for images, _ in batches:
        if device is not None:
            images.to(device)
        times.append(time.perf_counter())
    first = min(max(plan.workers, 1), len(times) - 1)  # every worker has then given its first batch
    return (times[-1] - times[first - 1]) / ((len(times) - first) * plan.pipeline_batch)


def _mean_kb(paths: list[str]) -> float:
    return float(np.mean([Path(path).stat().st_size for path in paths]) / 1024)


# ---- start ----


def init(bench: Bench) -> list[Row]:
    """A head's first weights from class names, from the text to the rows."""
    names = species(bench.plan.names)
    tokenize(names[:1])  # loads the vocabulary
    backbone = load_backbone("clip_vit_b16", str(bench.weights))[0].to(bench.device)
    text = PlainText(backbone.geometry, VOCABULARY)
    text.load_state_dict(backbone.text.state_dict(), strict=True)
    text.to(bench.device)
    projections = backbone.text_projection.detach().clone(), backbone.image_projection.detach().clone()
    rows = {}

    def plain() -> None:
        rows["plain"] = plain_semantic(text, *projections, tokenize(class_prompts(names)))

    def ours() -> None:
        rows["ours"] = HEAD_INITS["semantic"](backbone, names, None)

    seconds = bench.turns({"plain": plain, "ours": ours})
    row = compare(f"semantic initialisation, {len(names):,} names", seconds, len(names), "5")
    row.unit = "names/s"
    row.note = f"largest difference of the rows {float((rows['ours'] - rows['plain']).abs().max()):.1e}"
    return [row]


def start(bench: Bench) -> list[Row]:
    """From the start of Python to the first step of `main.py`, with workers and the semantic initialisation."""
    seconds = fresh.start_seconds(bench.plan, bench.device, bench.folder, bench.paths, bench.weights)
    target = "under 8 s" if bench.device.type == "cpu" else "under 15 s"
    row = Row("python start to first step", "s", median(seconds), target=target, spread=spread(seconds))
    row.note = f"{bench.plan.num_classes:,} classes; {', '.join(f'{value:.1f}' for value in seconds)} s"
    return [row]
