"""Compares the speed and memory of this program with a plain baseline, and prints one table.

    python benchmarks/run.py --quick                         a CPU, 3 minutes on 2 cores: make bench
    python benchmarks/run.py --device cuda                   a GPU
    python benchmarks/run.py --stage train test              some stages
    python benchmarks/run.py accum_step 4 --stage train      with options of main.py, KEY VALUE
    python benchmarks/run.py --precision                     this program in bf16 against float32

Work: ViT-B/16 at 224 pixels, random weights, AdaptFormer in all blocks, cosine head, LA loss, 1000 classes. The plain
program is benchmarks/baseline.py. docs/performance.md explains the table.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks import baseline, precision, products, timing
from benchmarks.baseline import PlainImages, Sizes
from benchmarks.timing import BaselineProcess, Row, Seconds, compare
from datasets.loading.crops import build_train_crop
from models.heads import HEAD_INITS
from models.weights.load import load_backbone
from trainer import Trainer
from utils.config import load_config
from utils.device.environment import describe, versions

PHOTO_SIZES = ((500, 375), (500, 333), (375, 500), (500, 400), (333, 500), (480, 360), (640, 427))
SYLLABLES = "ba ca del ella fri go hy ina jun lo mar ne ora pus qui ru sta tri us vi xan zo la ris"
CORES = len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The amount of work to measure; the defaults are for a CPU."""

    sizes: Sizes = Sizes()
    num_classes: int = 1000
    width: int = 32  # of AdaptFormer: the default for 1000 classes
    train_images: int = 16  # in a step
    train_steps: int = 1
    test_images: int = 16
    crops_images: int = 12  # of five crops each
    test_workers: int = 0
    memory_images: int = 32
    pipeline_images: int = 32  # in a batch
    pipeline_epochs: int = 1
    pipeline_batches: int | None = None  # None: all of these epochs
    workers: int = CORES
    names: int = 8142
    starts: int = 2  # of Python
    repeats: int = 5
    options: tuple[str, ...] = ()  # KEY VALUE pairs of the configuration, for this program


GPU: dict[str, Any] = {
    **{"train_images": 128, "train_steps": 10, "test_images": 12_800, "crops_images": 2_560, "test_workers": CORES},
    **{"memory_images": 128, "pipeline_images": 128, "pipeline_epochs": 3},
}
# on a CPU the baseline takes minutes for 8,142 names, and most of the time of every other stage
QUICK = {"repeats": 3, "crops_images": 4, "memory_images": 16, "pipeline_batches": 40, "names": 64, "starts": 1}


# ---- input files ----


def write_photos(folder: Path, sizes: tuple[tuple[int, int], ...] = PHOTO_SIZES) -> list[Path]:
    """Writes scikit-learn's two photographs as JPEGs of these sizes (width, height); returns their paths."""
    from sklearn.datasets import load_sample_images

    folder.mkdir()
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    paths = []
    for number, (source, size) in enumerate(itertools.product(sources, sizes)):
        paths.append(folder / f"{number}.jpg")
        ImageOps.fit(source, size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def species(count: int) -> list[str]:
    """Distinct names of two words, similar to iNaturalist's."""
    rng, names = np.random.default_rng(0), dict[str, None]()
    while len(names) < count:
        genus, kind = ("".join(rng.choice(SYLLABLES.split(), size)) for size in rng.integers(2, 5, 2))
        names[f"{genus} {kind}".capitalize()] = None
    return list(names)


def link_class_folders(root: Path, train: list[Path], test: list[Path], num_classes: int, num_test: int) -> Path:
    """Links files as ROOT/train/CLASS/, one to four images each, and ROOT/test/CLASS/, num_test images in all."""
    names = species(num_classes)
    train_classes = [name for number, name in enumerate(names) for _ in range(1 + number % 4)]
    test_classes = [names[number % num_classes] for number in range(num_test)]
    for split, files, classes in (("train", train, train_classes), ("test", test, test_classes)):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            os.link(files[number % len(files)], root / split / name / f"{number}.jpg")
    return root


def write_weights(path: Path, sizes: Sizes) -> Path:
    """Writes a CLIP with random weights in open_clip's format, in float16, and its description in the same folder."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    vision = {"image_size": sizes.resolution, "layers": sizes.depth, "width": sizes.dim, "patch_size": sizes.patch}
    text = {"context_length": baseline.CONTEXT, "vocab_size": baseline.VOCABULARY, "layers": sizes.text_depth}
    text |= {"width": sizes.text_dim, "heads": max(sizes.text_dim // 64, 1)}
    torch.manual_seed(0)
    state = CLIP(sizes.joint, vision, text, quick_gelu=True).state_dict()
    save_file({name: value.half().contiguous() for name, value in state.items()}, path)
    model = {"embed_dim": sizes.joint, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    content = {"model_cfg": model, "preprocess_cfg": {"mean": baseline.MEAN, "std": baseline.STD}}
    path.with_name("open_clip_config.json").write_text(json.dumps(content))
    return path


# ---- both programs ----


class Setup:
    """The input files, written into `folder`, the device, and the two programs, shared by the stages."""

    expand = 32  # pixels by which a test image exceeds its crops

    def __init__(self, plan: Plan, device: torch.device, folder: Path):
        self.plan, self.device, self.folder = plan, device, folder.absolute()
        self.baseline = BaselineProcess(device)
        self.weights = write_weights(self.folder / "weights.safetensors", plan.sizes)
        self.photos = write_photos(self.folder / "photos")
        count = plan.num_classes
        self.root = link_class_folders(self.folder / "images", self.photos, self.photos, count, count)

    def command(self, **options: object) -> list[str]:
        """The arguments of load_config: LIFT+ on the class folders, with these options and those of the plan."""
        given: dict[str, object] = {"root": self.root, "weights": self.weights, "classifier_init": None}
        given |= {"gpu": -1 if self.device.type == "cpu" else 0, "output_dir": tempfile.mkdtemp(dir=self.folder)}
        given |= {"v.adaptformer_dim": self.plan.width, "compile": "never", **options}
        given |= dict(zip(self.plan.options[::2], self.plan.options[1::2], strict=True))
        return ["folder", "clip_vit", "lift+", *(str(word) for pair in given.items() for word in pair)]

    def trainer(self, **options: object) -> Trainer:
        return build_trainer(self.command(**options))

    def test_root(self, crops: int) -> Path:
        """A folder with test images as JPEGs of the size to crop from, so that the loader has little work."""
        count, side = self.count_tested(crops), self.plan.sizes.resolution + self.expand
        squares = write_photos(self.folder / f"squares{crops}", ((side, side),))
        return link_class_folders(self.folder / f"test{crops}", self.photos, squares, self.plan.num_classes, count)

    def count_tested(self, crops: int) -> int:
        return self.plan.test_images if crops == 1 else self.plan.crops_images

    def save(self, trainer: Trainer) -> Path:
        """Writes a file for the baseline's trainer, with the weights of `trainer` in float32."""
        weights = {name: p.detach().float().cpu() for name, p in trainer.model.named_parameters()}
        content = {"sizes": dataclasses.asdict(self.plan.sizes), "width": self.plan.width, "weights": weights}
        content |= {"class_counts": torch.from_numpy(trainer.data.class_counts), "lr": trainer.cfg.lr}
        path = self.folder / "plain.pt"
        torch.save(content, path)
        return path

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Random pixels, uint8 [count, 3, R, R], and labels [count], in host memory."""
        side, generator = self.plan.sizes.resolution, torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % self.plan.num_classes
        return (images.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else (images, labels)

    def turns(self, functions: dict[str, Callable[[], object]]) -> Seconds:
        return timing.take_turns(functions, self.plan.repeats, self.device)


def build_trainer(command: list[str]) -> Trainer:
    """This program before its first step, without its log."""
    data, backbone, method, *options = command
    with contextlib.redirect_stdout(io.StringIO()):
        return Trainer(load_config(data, backbone, method, options))


# ---- stages ----


def train(setup: Setup) -> Row:
    """Times training steps on one batch, copied from the host each time."""
    plan, losses = setup.plan, []
    images, labels = setup.batch(plan.train_images)
    with setup.trainer(batch_size=plan.train_images) as trainer:
        parts = math.ceil(plan.train_images / trainer.micro_batch_size)
        args = setup.save(trainer), baseline.normalise(images), labels, plan.train_steps, parts
        plain = setup.baseline.prepare(baseline.prepare_training, *args)

        def ours() -> None:
            for _ in range(plan.train_steps):
                batch = (x.to(setup.device, non_blocking=True) for x in (images, labels))
                losses.append(trainer.train_step(*batch)[0])

        seconds = setup.turns({"plain": plain, "ours": ours})
    what = f"training step, {plan.train_images} images" + f" in {parts} micro-batches" * (parts > 1)
    target = "4" if setup.device.type == "cpu" else "4; 5,700 images/s on an H100"
    row = compare(what, seconds, plan.train_images * plan.train_steps, target)
    row.note = f"losses of the last step {float(losses[-1]):.4f} and {setup.baseline.result[-1]:.4f}"
    return row


def test(setup: Setup, crops: int = 1) -> Row:
    """Times tests on JPEG files."""
    plan, expand, count, root = setup.plan, setup.expand, setup.count_tested(crops), setup.test_root(crops)
    with setup.trainer(root=root, tte=crops > 1, expand=expand, num_workers=plan.test_workers) as trainer:
        images = PlainImages(root, "test", plan.sizes.resolution, expand=expand, crops=crops)
        args = setup.save(trainer), images, plan.train_images, plan.test_workers
        plain = setup.baseline.prepare(baseline.prepare_testing, *args)
        seconds = setup.turns({"plain": plain, "ours": trainer.evaluate})
    target = "5; 11,300 images/s on an H100" if setup.device.type == "cuda" and crops == 1 else "5"
    what = "testing" + ", five crops" * (crops > 1)
    return compare(f"{what}, {count} images", seconds, count, target)


def pipeline(setup: Setup) -> Row:
    """Times reading from files to batches on the device, with a worker per core, without the start of the workers."""
    plan, side = setup.plan, setup.plan.sizes.resolution
    size, epochs, workers = plan.pipeline_images, plan.pipeline_epochs, plan.workers
    with setup.trainer(batch_size=size, num_workers=workers) as trainer:
        images = PlainImages(setup.root, "train", side, build_train_crop(trainer.cfg, side).draw)
        batches = baseline.sequential_samples(len(images), size, epochs)[: plan.pipeline_batches]
        plain = setup.baseline.prepare(baseline.prepare_reading, images, batches, workers)

        def ours() -> float:
            with contextlib.closing(trainer.train_batches(0, epochs)) as all_batches:
                first = itertools.islice(all_batches, plan.pipeline_batches)
                return baseline.seconds_per_image(first, workers, setup.device)

        seconds = setup.turns({"plain": plain, "ours": ours})
    of_core = {name: [workers * value for value in values] for name, values in seconds.items()}
    row = compare("images, training crops", of_core, 1, "2.5", unit="images/s and core")
    kb = statistics.mean(path.stat().st_size for path in setup.photos) / 1024
    row.note = f"{workers} workers, files of {kb:.0f} KB"
    return row


def init(setup: Setup) -> Row:
    """Times the initialisation of a head from class names."""
    names, rows = species(setup.plan.names), list[Tensor]()
    backbone = load_backbone("clip_vit", str(setup.weights))[0].to(setup.device).requires_grad_(False)
    content = {"sizes": dataclasses.asdict(setup.plan.sizes), "text": backbone.text.state_dict()}
    content |= {"projection": backbone.text_projection, "image_projection": backbone.image_projection}
    torch.save(content, setup.folder / "text.pt")
    plain = setup.baseline.prepare(baseline.prepare_naming, setup.folder / "text.pt", names)
    HEAD_INITS["semantic"](backbone, names[:1], None)  # loads the vocabulary

    def ours() -> None:
        rows[:] = [HEAD_INITS["semantic"](backbone, names, None).weight]

    seconds = setup.turns({"plain": plain, "ours": ours})
    row = compare(f"semantic initialisation, {len(names):,} names", seconds, len(names), "5", unit="names/s")
    row.note = f"largest difference of the rows {float((rows[0].cpu() - setup.baseline.result).abs().max()):.1e}"
    return row


def memory(setup: Setup) -> Row:
    """Measures the peak memory of a new process for two steps, without the memory before the model is built."""
    count = setup.plan.memory_images
    images, labels = setup.batch(count)
    with setup.trainer(batch_size=count) as trainer:
        file = setup.save(trainer)
    peaks = []
    for prepare, args in (
        (baseline.prepare_training, (file, baseline.normalise(images), labels, 2, 1)),
        (prepare_training, (setup.command(batch_size=count), images, labels)),
    ):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            peaks.append(process.submit(timing.peak_mb, setup.device, prepare, args).result())
    plain, ours = peaks
    return Row(f"peak memory in training, {count} images", "MB", ours, plain, plain / ours, target="2")


def prepare_training(device: torch.device, command: list[str], images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Two steps of this program."""
    trainer = build_trainer(command)
    return lambda: [trainer.train_step(images.to(device), labels.to(device)) for _ in range(2)]


FIRST_BATCH = """
import sys, time
from utils.config import load_config
cfg = load_config(*sys.argv[1:4], sys.argv[4:])
from trainer import Trainer
images, labels = next(Trainer(cfg).train_batches())
labels.tolist()
print(time.time())
"""


def start(setup: Setup) -> Row:
    """Times the start of Python until the first batch is ready, with workers and semantic initialisation.

    The first start encodes the class names; later ones, which count, read their features from the cache.
    """
    seconds = []
    environment = {**os.environ, "XDG_CACHE_HOME": str(setup.folder / "cache")}
    for _ in range(1 + setup.plan.starts):
        command = [sys.executable, "-c", FIRST_BATCH, *setup.command(classifier_init="semantic", compile="auto")]
        begin = time.time()
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        seconds.append(float(done.stdout.split()[-1]) - begin)
    first, *later = seconds
    target = "under 5 s" if setup.device.type == "cpu" else "under 15 s"
    what = f"python start to first step, {setup.plan.num_classes:,} classes"
    row = Row(what, "s", statistics.median(later), target=target, spread=timing.spread(later))
    row.note = f"{', '.join(f'{value:.1f} s' for value in later)}; {first:.1f} s where the class names are new"
    return row


STAGES: dict[str, Callable[[Setup], Row]] = {
    "train": train,
    "forward": products.forward,
    "test": test,
    "tte": functools.partial(test, crops=5),
    "pipeline": pipeline,
    "memory": memory,
    "init": init,
    "start": start,
}


# ---- the command line ----


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE")
    parser.add_argument("--precision", action="store_true", help="our program in bf16 against float32, and no stage")
    parser.add_argument("--quick", action="store_true", help="fewer turns, images and names")
    parser.add_argument("--repeats", type=int, help="turns of each measurement (5; 3 with --quick)")
    parser.add_argument("--json", type=Path, default=Path("output/bench.json"), help="file of all numbers")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="for our program, as for main.py")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str], plan: Plan | None = None) -> None:
    args = parse(arguments)
    begin, device = time.perf_counter(), torch.device(args.device)
    changes = (GPU if args.device == "cuda" else {}) | (QUICK if args.quick else {})
    changes |= {"options": tuple(args.options)} | ({"repeats": args.repeats} if args.repeats else {})
    plan = dataclasses.replace(plan or Plan(), **changes)
    rows, load = list[Row](), os.getloadavg()[0]
    by_stage: dict[str, Row] = {}

    # ---- measure ----
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(plan, device, Path(folder))
        with setup.baseline.executor:
            rows += precision.measure(setup) if args.precision else []
            for stage in [] if args.precision else args.stage:
                rows.append(STAGES[stage](setup))
                by_stage[stage] = rows[-1]
                print(f"{time.perf_counter() - begin:4.0f} s  {rows[-1]}", file=sys.stderr)
        shares = products.measure(setup, by_stage)

    # ---- report ----
    about = {
        "columns": precision.COLUMNS if args.precision else ("ours", "baseline"),
        "device": describe(device),
        "cores": CORES,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "load": load,
        "seconds": time.perf_counter() - begin,
    }
    print(timing.table(rows, about))
    if shares:
        print(f"\n{products.table(describe(device), shares)}")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    content = {**about, "rows": [vars(row) for row in rows], "shares": [vars(share) for share in shares]}
    args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
