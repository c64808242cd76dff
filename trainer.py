"""The one trainer: build, fit, test, in reading order.

A step is batch_size images in accum_step parts: each part's loss is divided by the weight of the whole step, so parts
change nothing but memory. Nothing in a step waits for the device; its counters are read every print_freq steps.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets import DATASETS
from datasets.base import ImageList, shot_groups
from datasets.loader import Loader, TrainSteps, in_order
from datasets.transforms import TestCrops, build_test_crops, build_train_crop
from models import Classifier, build_backbone, build_model, count_parameters, from_lift_plus
from utils import checkpoint, results, runtime
from utils.config import Config, training_options
from utils.log import RunLog
from utils.losses import build_loss
from utils.metrics import score
from utils.schedule import cosine_lr


class TrainingError(Exception):
    """Training went wrong; the message says where and what to try."""


class Trainer:
    """Trains and tests what `cfg` describes, in the run directory cfg.output_dir."""

    def __init__(self, cfg: Config, command: str = ""):
        self.cfg, self.command = cfg, command
        self.testing = cfg.test_only or cfg.test_train
        self.what = "train" if cfg.test_train else "tte" if cfg.tte else "test"
        self.run_dir = Path(cfg.output_dir)
        self.seconds, self.rates = {"train": 0.0, "test": 0.0}, {"train": None, "test": None}

    def run(self) -> dict:
        """The whole run; returns the content of its results file."""
        self.data = DATASETS[self.cfg.dataset](self.cfg.dataset, self.cfg.root)
        if self.testing and not self.cfg.zero_shot:
            trained = checkpoint.find(Path(self.cfg.model_dir or self.run_dir))
        with RunLog(self.run_dir, f"log_{self.what}.txt" if self.testing else "log.txt") as self.log:
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
        self.device = runtime.pick_device(cfg.gpu)
        self.train_dtype, train_note = runtime.pick_precision(cfg.prec_train, self.device)
        self.test_dtype, test_note = runtime.pick_precision(cfg.prec_test, self.device)
        if cfg.deterministic:
            runtime.make_deterministic()
        backbone, path = build_backbone(cfg)
        self.resolution = backbone.image.resolution
        torch.set_num_threads(runtime.pick_threads(sum(p.numel() for p in backbone.image.parameters())))
        backbone.to(self.device)
        self.weights = {"name": path.name, "sha256": results.sha256(path)}
        self.model = build_model(
            cfg, backbone, data.classnames, lambda: self.class_features(backbone), start=not self.testing
        ).to(self.device)
        self.frozen = runtime.FrozenWeights(self.model)
        self.params, self.groups = count_parameters(self.model), shot_groups(data.class_counts)
        self.trained = self.params["trained"] > 0
        self.fingerprint = {"train": data.train.fingerprint(data.root), "test": data.test.fingerprint(data.root)}
        weights, classes = self.weights["sha256"], data.classes_fingerprint
        self.identity = {"backbone": cfg.backbone, "weights": weights, "classes": classes}  # what a checkpoint fits
        same = {"precision": runtime.name_of(self.train_dtype), "training images": self.fingerprint["train"]}
        self.settings = self.identity | training_options(cfg) | same  # what makes a run the same run
        self.introduce(notes={test_note} if self.testing or not self.trained else {train_note, test_note})

    def introduce(self, notes: set[str | None]) -> None:
        training, testing = map(runtime.name_of, (self.train_dtype, self.test_dtype))
        lines = [
            f"device    {runtime.describe(self.device)}; precision in training {training}, in testing {testing}",
            *(f"          {note}" for note in notes if note),
            f"data      {self.data.summary()}",
            f"backbone  {self.cfg.backbone} ({self.weights['name']}), {self.resolution} pixels",
            f"training  {self.params['trained']:,} of {self.params['total']:,} parameters: "
            f"{self.params['peft']:,} in the backbone, {self.params['head']:,} in the head",
        ]
        self.log.info("\n".join(lines))

    @torch.inference_mode()
    def class_features(self, backbone: torch.nn.Module) -> tuple[Tensor, Tensor]:
        """The bare backbone's features of some training images of each class, float32 [n, D], and labels int64 [n]."""
        images, limit = self.data.train, self.cfg.classifier_init_images
        classes = range(len(self.data.classnames))
        indices = np.concatenate([np.flatnonzero(images.labels == c)[:limit] for c in classes])
        model = Classifier(backbone.image, torch.nn.Identity(), self.cfg.mean, self.cfg.std).to(self.device).eval()
        features = torch.empty(len(indices), backbone.image.dim, device=self.device)
        batches = self.test_batches(images, TestCrops(self.resolution, expand=0), indices)
        for (crops, _), rows in zip(batches, features.split(self.cfg.batch_size), strict=True):
            rows.copy_(model.features(crops[:, 0]))
        return features, torch.from_numpy(images.labels[indices]).to(self.device)

    # ---- training ----

    def fit(self) -> None:
        cfg = self.cfg
        tensors = checkpoint.trained_tensors(self.model).values()
        self.optimizer = torch.optim.SGD(tensors, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_dtype == torch.float16)
        self.loss = build_loss(cfg, torch.from_numpy(self.data.class_counts)).to(self.device)
        self.frozen.cast(self.train_dtype)
        self.model.train()

        crop = build_train_crop(cfg, self.resolution)
        steps = TrainSteps(len(self.data.train), cfg.batch_size, cfg.seed, cfg.num_epochs)
        first_epoch = self.resume(steps.per_epoch)
        steps = dataclasses.replace(steps, first_epoch=first_epoch)
        batches = iter(Loader(self.data.train, crop, steps, self.device, cfg.num_workers))
        for epoch in range(first_epoch, cfg.num_epochs):
            start = time.perf_counter()
            self.train_epoch(epoch, batches, steps.per_epoch)
            self.seconds["train"] += time.perf_counter() - start
            self.save_progress(epoch + 1)
        self.rates["train"] = cfg.num_epochs * len(self.data.train) / self.seconds["train"]
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
                progress.advance(len(labels))
                if step % cfg.print_freq == 0 or step == num_steps:
                    loss = progress.tell(*counters.tolist(), lr=lr)  # the only wait for the device
                    if not math.isfinite(loss):
                        raise TrainingError(
                            f"the loss is {loss} in epoch {epoch + 1}; try a smaller lr, or prec_train fp32"
                        )

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on a batch; returns, on the device, its loss and how many images it classified right."""
        weight = self.loss.total_weight(labels)
        counters = torch.zeros(2, device=self.device)
        part = self.cfg.batch_size // self.cfg.accum_step
        for x, y in zip(images.split(part), labels.split(part), strict=True):
            logits = self.model(x)
            loss = self.loss(logits, y).sum() / weight
            self.scaler.scale(loss).backward()
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
        """Removes what an earlier run of these settings left here, and writes down the configuration."""
        checkpoint.require_same_run(self.run_dir, self.settings)
        for old in (*self.run_dir.glob("results*.json"), self.run_dir / checkpoint.CHECKPOINT):
            old.unlink(missing_ok=True)
        self.log.rewind(0)
        (self.run_dir / "config.yaml").write_text(self.cfg.dump(), encoding="utf-8")

    def save_progress(self, epoch: int) -> None:
        about = {"epoch": epoch, "seconds": self.seconds["train"], "scaler": self.scaler.state_dict()}
        path, about = self.run_dir / checkpoint.PROGRESS, about | {"identity": self.settings}
        checkpoint.save_progress(path, self.model, self.optimizer, about)

    # ---- testing ----

    def test_batches(self, images: ImageList, crops: TestCrops, indices: np.ndarray | None = None) -> Loader:
        indices = np.arange(len(images)) if indices is None else indices
        return Loader(images, crops, in_order(indices, self.cfg.batch_size), self.device, self.cfg.num_workers)

    @torch.inference_mode()
    def evaluate(self) -> dict:
        """Scores of the model on the test set, or with test_train on the training set; see utils.metrics.score."""
        self.split_name = "train" if self.cfg.test_train else "test"
        self.split = getattr(self.data, self.split_name)
        batches = self.test_batches(self.split, build_test_crops(self.cfg, self.resolution))
        self.frozen.cast(self.test_dtype)
        self.model.eval()
        start, outputs = time.perf_counter(), []
        with self.log.progress(len(self.split), "testing") as bar:
            for crops, _ in batches:
                logits = sum(self.model(crops[:, k]) for k in range(crops.shape[1])) / crops.shape[1]
                outputs.append(logits.cpu() if self.cfg.save_logits else logits.argmax(1))
                bar.update(len(crops))
            predictions = torch.cat(outputs).cpu().numpy()
        self.seconds["test"] = time.perf_counter() - start
        self.rates["test"] = len(self.split) / self.seconds["test"]
        if self.cfg.save_logits:
            results.save_logits(self.run_dir / f"logits_{self.what}.npz", predictions, self.split.labels)
            predictions = predictions.argmax(1)
        return score(self.split.labels, predictions, self.data.classnames, self.data.class_counts, self.groups)

    def report(self, scores: dict) -> dict:
        """Writes the results file and shows its table."""
        content = {
            **scores,
            "params": self.params,
            "epochs": self.cfg.num_epochs if self.trained else 0,
            "seconds": self.seconds,
            "images_per_second": self.rates,
            "peak_memory_mb": runtime.peak_memory_mb(self.device),
            "seed": self.cfg.seed,
            "data": {"name": self.data.name, "split": self.split_name, "fingerprint": self.fingerprint},
            "test": {"crops": 5 if self.cfg.tte else 1, "precision": runtime.name_of(self.test_dtype)},
            "settings": self.settings,
            "weights": self.weights,
            "versions": runtime.versions(),
            "device": runtime.describe(self.device),
            "command": self.command,
        }
        path = self.run_dir / (f"results_{self.what}.json" if self.testing else "results.json")
        results.write_json(path, content)
        if not self.testing:
            (self.run_dir / checkpoint.PROGRESS).unlink(missing_ok=True)
        self.log.info(f"\n{results.table(content)}\nresults   {path}")
        return content
