"""The one trainer: build, fit, test, in reading order.

A step is batch_size images in accum_step parts: each part's loss is divided by the weight of the whole step, so parts
change nothing but memory. Nothing in a step waits for the device; its counters are read every print_freq steps.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets import build_data
from datasets.base import ImageList
from datasets.loader import TEST_BATCH, Loader, TrainSteps, in_order, workers_note
from datasets.transforms import TestCrops, build_test_crops, build_train_crop
from models import Classifier, build_backbone, build_model, build_text_notes, count_parameters, from_lift_plus
from utils import checkpoint, compilation, memory, results, runtime
from utils.config import Config, training_options
from utils.distributed import World
from utils.feature_cache import FeatureCache
from utils.log import RunLog
from utils.losses import build_loss
from utils.metrics import score
from utils.schedule import cosine_lr


class Trainer:
    """Trains and tests what `cfg` describes, in the run directory cfg.output_dir."""

    def __init__(self, cfg: Config, command: str = ""):
        self.cfg, self.command = cfg, command
        self.testing, self.split = cfg.test_only or cfg.test_train, "train" if cfg.test_train else "test"
        self.what = results.what_is_tested(cfg.test_train, cfg.tte, cfg.tte_crops)
        self.run_dir, self.world = Path(cfg.output_dir), World()
        self.seconds, self.rates = {"train": 0.0, "test": 0.0}, {"train": None, "test": None}

    def run(self) -> dict:
        """The whole run; returns the content of its results file."""
        self.device = runtime.pick_device(self.cfg.gpu, self.world)
        with self.world.joined(self.device):
            with self.world.main_first():
                self.data = build_data(self.cfg)
            if self.testing and not self.cfg.zero_shot:
                trained = checkpoint.find(Path(self.cfg.model_dir or self.run_dir))
            file = f"log_{self.what}.txt" if self.testing else "log.txt"
            with RunLog(self.run_dir, file, speaks=self.world.main) as self.log:
                self.build()
                if self.testing and self.trained:
                    checkpoint.restore(self.model, trained, self.identity, from_lift_plus)
                    self.log.info(f"testing   {trained}")
                elif self.trained:
                    self.fit()
                elif not self.testing:
                    self.start_anew()
                return self.report(self.evaluate())

    # ---- build ----

    def build(self) -> None:
        cfg, data = self.cfg, self.data
        self.log.info(f"$ {self.command}")
        self.train_dtype, train_note = runtime.pick_precision(cfg.prec_train, self.device)
        self.test_dtype, test_note = runtime.pick_precision(cfg.prec_test, self.device)
        if cfg.deterministic:
            runtime.make_deterministic()
        with self.world.main_first():
            backbone, path = build_backbone(cfg)
        self.resolution = backbone.image.resolution
        crops = self.crops = build_test_crops(cfg, self.resolution)
        runtime.prepare_cpu(sum(p.numel() for p in backbone.image.parameters()))
        backbone.to(self.device)
        weights = {"name": path.name, "sha256": results.sha256(path)}
        self.cache = FeatureCache(cfg.feature_cache, weights["sha256"], self.world, self.log.info)
        features = functools.partial(self.class_features, backbone)
        self.model = build_model(cfg, backbone, data.classnames, features, start=not self.testing).to(self.device)
        self.frozen = runtime.FrozenWeights(self.model, self.train_dtype, self.test_dtype)
        params = count_parameters(self.model)
        self.trained = params["trained"] > 0
        lists = {"train": data.train.fingerprint(data.root), "test": data.test.fingerprint(data.root)}
        # what a checkpoint fits, and what makes a run the same run
        self.identity = {"backbone": cfg.backbone, "weights": weights["sha256"], "classes": data.classes_fingerprint}
        same = {"precision": runtime.name_of(self.train_dtype), "training images": lists["train"]}
        self.settings = self.identity | training_options(cfg) | same
        self.about = {
            "params": params,
            "seed": cfg.seed,
            "data": {"name": data.name, "split": self.split, "fingerprint": lists},
            "test": {"crops": crops.count, "expand": crops.expand, "precision": runtime.name_of(self.test_dtype)},
            "settings": self.settings,
            "weights": weights,
            **runtime.environment(self.device, self.world),
            "command": self.command,
        }
        notes = {test_note} if self.testing or not self.trained else {train_note, test_note}
        notes.add(workers_note(cfg.num_workers))
        summary = "\n".join([data.summary(), *build_text_notes(cfg, data.classnames, start=not self.testing)])
        self.log.info(results.introduction(self.about, summary, self.resolution, notes - {None}))

    @torch.inference_mode()
    def class_features(self, backbone: torch.nn.Module) -> tuple[Tensor, Tensor]:
        """The bare backbone's features of some training images of each class, float32 [n, D], and labels int64 [n]."""
        images = self.data.train
        indices = images.first_of_each(len(self.data.classnames), self.cfg.classifier_init_images)
        model = Classifier(backbone.image, torch.nn.Identity(), self.cfg.mean, self.cfg.std).to(self.device).eval()
        centre = dataclasses.replace(self.crops, expand=0, count=1)
        out = torch.zeros(len(indices), backbone.image.dim, device=self.device)
        features = self.infer(model, images, indices, centre, out)
        return features, torch.from_numpy(images.labels[indices]).to(self.device)

    # ---- training ----

    def fit(self) -> None:
        cfg, data, ranks = self.cfg, self.data.train, self.world.size
        tensors = checkpoint.trained_tensors(self.model).values()
        self.optimizer = torch.optim.SGD(tensors, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_dtype == torch.float16)
        self.loss = build_loss(cfg, torch.from_numpy(self.data.class_counts)).to(self.device)
        self.frozen.cast(self.train_dtype)
        share, images = math.ceil(cfg.batch_size / ranks), cfg.num_epochs * len(data) // ranks  # of this process
        self.part = memory.images_at_once(self.model.train(), self.loss, share, cfg.accum_step, self.log.info)
        compilation.compile_blocks(self.model, cfg.compile, images, self.device, self.log.info)
        self.parallel = self.world.wrap(self.model)

        steps = TrainSteps(len(data), cfg.batch_size, cfg.seed, cfg.num_epochs)
        with self.world.main_first():
            first_epoch = self.resume(steps.per_epoch)
        steps = dataclasses.replace(steps, first_epoch=first_epoch, rank=self.world.rank, num_ranks=ranks)
        batches = iter(Loader(data, build_train_crop(cfg, self.resolution), steps, self.device, cfg.num_workers))
        for epoch in range(first_epoch, cfg.num_epochs):
            start = time.perf_counter()
            self.train_epoch(epoch, batches, steps.per_epoch)
            self.seconds["train"] += time.perf_counter() - start
            self.save_progress(epoch + 1)
        self.rates["train"] = cfg.num_epochs * len(data) / self.seconds["train"]
        if self.world.main:
            checkpoint.save(self.run_dir / checkpoint.CHECKPOINT, checkpoint.trained_tensors(self.model), self.identity)

    def train_epoch(self, epoch: int, batches: Iterator[tuple[Tensor, Tensor]], num_steps: int) -> None:
        cfg = self.cfg
        lr = cosine_lr(cfg.lr, epoch, cfg.num_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        counters = torch.zeros(2, device=self.device)  # sum of the steps' losses, images classified right
        with self.log.epoch(epoch, cfg.num_epochs, len(self.data.train), num_steps) as progress:
            for step in range(1, num_steps + 1):
                images, labels = next(batches)
                counters += self.train_step(images, labels)
                progress.advance(min(cfg.batch_size, len(self.data.train) - (step - 1) * cfg.batch_size))
                if step % cfg.print_freq == 0 or step == num_steps:
                    loss = progress.tell(*self.world.sum(counters, self.device).tolist(), lr=lr)  # waits for the device
                    if not math.isfinite(loss):
                        raise FloatingPointError(f"the loss is {loss}; try a smaller lr, or prec_train fp32")

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on a batch; returns, on the device, its loss and how many images it classified right."""
        world = self.world
        weight, counters = world.sum(self.loss.total_weight(labels), self.device), torch.zeros(2, device=self.device)
        parts = list(zip(images.split(self.part), labels.split(self.part), strict=True))
        for i, (x, y) in enumerate(parts, 1):
            with world.alone(self.parallel, unless=i == len(parts)):
                logits = self.parallel(x)
                loss = self.loss(logits, y).sum() / weight
                self.scaler.scale(loss * world.size).backward()  # the processes' gradients are averaged
            counters += torch.stack([loss.detach(), (logits.argmax(1) == y).sum()])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return counters

    # ---- stopping and going on ----

    def resume(self, steps_per_epoch: int) -> int:
        """Continues an unfinished run of the same configuration; returns the epoch to begin with."""
        path = self.run_dir / checkpoint.PROGRESS
        if not path.exists():
            self.start_anew()
            return 0
        progress = checkpoint.load_progress(path, self.model, self.optimizer, self.settings)
        self.seconds["train"] = progress["seconds"]
        self.scaler.load_state_dict(progress["scaler"])
        self.log.rewind(progress["epoch"] * steps_per_epoch)
        self.log.info(f"going on after epoch {progress['epoch']}, from {path}")
        return progress["epoch"]

    def start_anew(self) -> None:
        """Writes down the configuration. What an earlier run of these settings left stays until this one has ended."""
        if not self.world.main:
            return
        checkpoint.require_same_run(self.run_dir, self.settings, self.about["data"]["fingerprint"]["test"])
        self.log.rewind(0)
        (self.run_dir / "config.yaml").write_text(self.cfg.dump(), encoding="utf-8")

    def save_progress(self, epoch: int) -> None:
        about = {"epoch": epoch, "seconds": self.seconds["train"], "scaler": self.scaler.state_dict()}
        if self.world.main:
            path = self.run_dir / checkpoint.PROGRESS
            checkpoint.save_progress(path, self.model, self.optimizer, about | {"identity": self.settings})

    # ---- testing ----

    def infer(self, model: Classifier, images: ImageList, indices: np.ndarray, crops: TestCrops, out: Tensor) -> Tensor:
        """Fills `out` [n, C], zeros, with logits (means over crops), or int64 [n] with classes; by all processes."""
        rank, ranks, size = self.world.rank, self.world.size, max(self.cfg.batch_size, TEST_BATCH)
        steps = in_order(indices[rank::ranks], size)
        batches = Loader(images, crops, steps, self.device, self.cfg.num_workers)
        parts = self.cache.features(model, batches, images.images, steps, crops, images.exif_orientation)
        with self.log.progress(len(indices), "testing") as bar:
            for features, rows in zip(parts, out[rank::ranks].split(size), strict=False):  # there may be none
                logits = sum(model.head(crop) for crop in features) / len(features)
                rows.copy_(logits if out.is_floating_point() else logits.argmax(1))
                bar.update(features.shape[1] * ranks)
            return self.world.sum(out, self.device)

    @torch.inference_mode()
    def evaluate(self) -> dict:
        """Scores of the model on the test set, or with test_train on the training set; see utils.metrics.score."""
        split, classes, saves = getattr(self.data, self.split), len(self.data.classnames), self.cfg.save_logits
        self.frozen.cast(self.test_dtype)
        self.model.eval()
        start, shape = time.perf_counter(), (len(split), classes) if saves else (len(split),)
        outputs = torch.zeros(shape, dtype=torch.float32 if saves else torch.int64, device=self.device)
        outputs = self.infer(self.model, split, np.arange(len(split)), self.crops, outputs).cpu().numpy()
        self.seconds["test"] = time.perf_counter() - start
        self.rates["test"] = None if self.cache.hit else len(split) / self.seconds["test"]
        if saves and self.world.main:
            results.save_logits(self.run_dir / f"logits_{self.what}.npz", outputs, split.labels)
        predictions = outputs.argmax(1) if saves else outputs
        return score(split.labels, predictions, self.data.classnames, self.data.class_counts, self.data.groups)

    def report(self, scores: dict) -> dict:
        """Writes the results file and shows its table."""
        content = scores | self.about | {"seconds": self.seconds, "images_per_second": self.rates}
        content["epochs"] = self.cfg.num_epochs if self.trained else 0
        content |= results.trained_as(Path(self.cfg.model_dir or self.run_dir)) if self.testing else {}
        content["peak_memory_mb"] = memory.peak_mb(self.device)
        if not self.world.main:
            return content
        path = self.run_dir / (f"results_{self.what}.json" if self.testing else "results.json")
        for old in () if self.testing else self.run_dir.glob("results_*.json"):
            old.unlink()  # tests of an earlier run
        results.write_json(path, content)
        if not self.testing:
            (self.run_dir / checkpoint.PROGRESS).unlink(missing_ok=True)
        self.log.info(f"\n{results.table(content)}\nresults   {path}")
        return content
