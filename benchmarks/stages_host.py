"""Stages beside the model: images from files, a head's first weights from class names, and a run's start."""

from pathlib import Path

import numpy as np

from benchmarks import apart, fresh
from benchmarks.apart import seconds_per_image
from benchmarks.inputs import species
from benchmarks.report import Row, compare
from benchmarks.timing import median, spread
from benchmarks.work import Bench, config
from datasets.base import ImageList
from datasets.loading.crops import TestCrops, TrainCrop
from datasets.loading.loader import Loader
from datasets.loading.sampler import TrainBatchSampler, sequential_batches
from models.backbones.tokenizer import tokenize
from models.heads import HEAD_INITS
from models.weights.load import load_backbone

# ---- images ----


def pipeline(bench: Bench) -> list[Row]:
    """From files to batches on the device, a worker for each core; without the first batches, while workers start."""
    plan, side, epochs = bench.plan, bench.plan.geometry.resolution, 5
    size = plan.pipeline_batch * plan.pipeline_batches
    paths = [bench.paths[i % len(bench.paths)] for i in range(size)]
    images = ImageList.of_paths(paths, np.zeros(size, np.int64))
    crop = TrainCrop(side, seed=0, num_epochs=epochs)
    cfg = config(bench.folder, bench.weights, bench.device, plan)
    rows = []
    for what, ours, steps in (
        ("images, training crops", crop, TrainBatchSampler(size, plan.pipeline_batch, 0, epochs)),
        (
            "images, test crop",
            TestCrops(side, side // 7),
            sequential_batches(np.arange(size), plan.pipeline_batch) * epochs,
        ),
    ):
        look, much = (side, cfg.mean, cfg.std), (plan.workers, plan.pipeline_batch)
        box = crop if ours is crop else None
        plain = bench.plain.prepare(apart.images, paths, look, box, steps, *much, bench.device)

        def our_images(ours=ours, steps=steps, much=much) -> float:
            return seconds_per_image(Loader(images, ours, steps, bench.device, plan.workers), *much)

        seconds = bench.turns({"plain": plain, "ours": our_images})
        row = compare(what, seconds, 1, "2.5")
        row.ours, row.plain, row.unit = row.ours / plan.workers, row.plain / plan.workers, "images/s and core"
        row.note = f"{plan.workers} workers, files of {_mean_kb(bench.paths):.0f} KB"
        rows.append(row)
    return rows


def _mean_kb(paths: list[str]) -> float:
    return float(np.mean([Path(path).stat().st_size for path in paths]) / 1024)


# ---- start ----


def init(bench: Bench) -> list[Row]:
    """A head's first weights from class names, from the text to the rows."""
    names, rows = species(bench.plan.names), []
    tokenize(names[:1])  # loads the vocabulary
    backbone = load_backbone("clip_vit", str(bench.weights))[0].to(bench.device)
    plain = bench.plain.prepare(apart.names, bench.weights, names, bench.device)

    def ours() -> None:
        rows[:] = [HEAD_INITS["semantic"](backbone, names, None)]

    seconds = bench.turns({"plain": plain, "ours": ours})
    row = compare(f"semantic initialisation, {len(names):,} names", seconds, len(names), "5")
    row.unit = "names/s"
    row.note = f"largest difference of the rows {float((rows[0].cpu() - bench.plain.result).abs().max()):.1e}"
    return [row]


def start(bench: Bench) -> list[Row]:
    """From the start of Python to the first step of `main.py`, with workers and the semantic initialisation."""
    seconds = fresh.start_seconds(bench.plan, bench.device, bench.folder, bench.paths, bench.weights)
    target = "under 8 s" if bench.device.type == "cpu" else "under 15 s"
    what = f"python start to first step, {bench.plan.num_classes:,} classes"
    row = Row(what, "s", median(seconds), target=target, spread=spread(seconds))
    row.note = ", ".join(f"{value:.1f} s" for value in seconds)
    return [row]
