"""What is measured: how much of it, and both programs made ready for their first step."""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.apart import Apart
from benchmarks.inputs import make_data
from benchmarks.timing import matrix_products, take_turns, waiter
from datasets.base import DataSet, ImageList
from datasets.loading.loader import Loader
from models.backbones import BACKBONES
from models.backbones.backbone import Geometry
from trainer import Trainer
from utils.config import Config, load_config


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of each work is done in one measurement."""

    geometry: Geometry = BACKBONES["clip_vit_b16"].geometry
    num_classes: int = 1000
    width: int = 32  # of AdaptFormer: the automatic one for 1000 classes
    train_images: int = 16  # in a step
    train_steps: int = 1
    test_images: int = 16
    crops_images: int = 12  # of five crops each
    memory_images: int = 32
    class_images: int = 8  # in a step whose classes are many or few
    pipeline_batch: int = 32
    pipeline_batches: int = 6  # in each of five epochs
    squares: tuple[int, ...] = (2048, 4096)  # sizes of large matrix products
    names: int = 8142
    repeats: int = 5
    starts: int = 2  # of Python
    photos: int = 64
    workers: int = len(os.sched_getaffinity(0))
    options: tuple[str, ...] = ()  # KEY VALUE of the configuration, for our program


CPU = Plan()
GPU = Plan(
    train_images=128,
    train_steps=10,
    test_images=2560,
    crops_images=640,
    memory_images=128,
    class_images=128,
    pipeline_batches=24,
    squares=(4096, 8192),
)


# ---- our program ----


class Ready(Exception):
    """Everything stands as it does before the first step."""


class Ours(Trainer):
    """The product's own trainer, halted where its first step would begin."""

    def train_epoch(self, epoch: int, batches: Iterator, num_steps: int) -> None:
        self.batches = batches
        raise Ready


class KeptLoader:
    """Stands for the loader while a trainer tests: its batches are read once, and then sent from the host's memory."""

    def __init__(self):
        self.kept = {}

    def __call__(self, images: ImageList, crop, steps, device: torch.device, *args) -> Iterator[tuple[Tensor, ...]]:
        key = id(images), crop
        if key not in self.kept:
            batches = [[x.cpu() for x in batch] for batch in Loader(images, crop, steps, device, *args)]
            self.kept[key] = [[x.pin_memory() for x in b] for b in batches] if device.type == "cuda" else batches
        return (tuple(x.to(device, non_blocking=True) for x in batch) for batch in self.kept[key])


class StaysCast:
    """Stands for frozen weights that have their precision already."""

    def cast(self, dtype: torch.dtype) -> None:
        pass


@contextlib.contextmanager
def ready_to_test(ours: Ours) -> Iterator[None]:
    """Within it a test computes and no more: weights are cast already, which a run does once, and images are read."""
    frozen = ours.frozen
    frozen.cast(ours.test_dtype)
    ours.frozen = StaysCast()
    try:
        with patch("trainer.Loader", KeptLoader()):
            yield
    finally:
        ours.frozen = frozen
        frozen.cast(ours.train_dtype)
        ours.model.train()


def config(folder: Path, weights: Path, device: torch.device, plan: Plan, *options: object) -> Config:
    """LIFT+ with the given KEY VALUE options, in float32 weights of the file, writing below `folder`."""
    gpu = device.index or 0 if device.type == "cuda" else -1
    given = ["weights", weights, "mean", "clip", "gpu", gpu, "num_workers", 0, "batch_size", plan.train_images]
    given += ["v.adaptformer_dim", plan.width, "classifier_init", None, "output_dir", folder.absolute() / "run"]
    given += ["compile", "never"]  # unless plan.options say so: a long list alone would switch it on
    return load_config("digits_lt", "clip_vit", "lift+", [str(o) for o in (*given, *plan.options, *options)])


def build_ours(cfg: Config, data: DataSet) -> Ours:
    """Our trainer on `data`, everything done that a run does before its first step."""
    ours = Ours(cfg)
    said = contextlib.redirect_stdout(io.StringIO())
    with patch("trainer.build_data", lambda cfg: data), said, contextlib.suppress(Ready):
        ours.run()
    return ours


# ---- the plain program ----


def write_plain(path: Path, ours: Ours) -> Path:
    """The weights of `ours` in float32, and what else the plain trainer needs."""
    originals = {id(p): original for p, original in ours.frozen.originals}
    weights = {name: originals.get(id(p), p.detach().cpu()).float() for name, p in ours.model.named_parameters()}
    counts = torch.from_numpy(ours.data.class_counts)
    torch.save({"weights": weights, "class_counts": counts, "lr": ours.cfg.lr}, path)
    return path


# ---- both ----


@dataclasses.dataclass
class Bench:
    """What the stages share: the plan, the machine, the inputs, and the two programs once they are built."""

    plan: Plan
    device: torch.device
    folder: Path
    paths: list[str]
    weights: Path

    @functools.cached_property
    def ours(self) -> Ours:
        cfg = config(self.folder, self.weights, self.device, self.plan)
        return build_ours(cfg, make_data(self.paths, self.plan.num_classes))

    @functools.cached_property
    def plain(self) -> Apart:
        return Apart(self.device)

    @functools.cached_property
    def plain_trainer(self) -> tuple:
        """The arguments of apart.read_trainer: the plain trainer with the same weights as ours."""
        path = write_plain(self.folder / "plain.pt", self.ours)
        return path, self.plan.geometry, self.plan.width, self.device

    @functools.cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """One training batch of our loader, in the host's memory (pinned for a GPU)."""
        images, labels = (x.cpu() for x in next(self.ours.batches))
        return (images.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else (images, labels)

    @functools.cached_property
    def products(self) -> dict[str, Callable[[], float]]:
        """Large matrix products: taking turns with what is measured, they tell the machine's rate at that time."""
        return matrix_products(self.device, [(size, size, size) for size in self.plan.squares])

    def turns(self, functions: dict[str, Callable[[], object]], times: int = 1) -> dict[str, list[float]]:
        """`times` as many turns as the plan says."""
        return take_turns(functions, times * self.plan.repeats, waiter(self.device), self.device.type == "cuda")


def our_step(bench: Bench, ours: Ours) -> Tensor:
    return ours.train_step(*(x.to(bench.device, non_blocking=True) for x in bench.batch))
