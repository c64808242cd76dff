"""The trainer: build it, then call fit, predict and evaluate, in any order and number.

    with Trainer(load_config("digits_lt", "clip_tiny", "lift+", [])) as trainer:
        trainer.fit()
        scores = trainer.evaluate("test")

A step is batch_size images in micro-batches. The loss of each is divided by the weight of the whole step, so that
accumulation affects memory alone. Nothing in a step waits for the device: its counters are read every print_freq steps.
`run` executes a command line.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets import build_data, overlap
from datasets.base import SPLITS, ImageList
from datasets.loading.crops import AnyTestCrops, build_centre_crop, build_test_crops, build_train_crop
from datasets.loading.loader import TEST_BATCH, Loader
from datasets.loading.sampler import TrainBatchSampler, sequential_batches
from datasets.loading.workers import workers_note
from datasets.long_tail import group_of_class
from datasets.replaced import require_same_images
from datasets.thumbnails import thumbnails_of
from models import (
    Model,
    build_backbone,
    build_model,
    checkpointing,
    compile,
    convert_upstream,
    count_parameters,
    described_values,
    earlier_run,
    entries_fingerprint,
    precision,
    prompt_notes,
)
from models.backbones.backbone import Backbone
from models.extractor import feature_key, text_key, weights_key
from models.features import cached_features, cached_text_features
from models.identity import build_identity
from models.losses import build_loss
from models.outputs import label_probabilities, mean_logits, top_predictions
from models.weights.load import Weights
from utils import terminal
from utils.cache import TensorCache
from utils.config import Config, completed, training_options
from utils.config.schema import KEEPING
from utils.device import memory
from utils.device.device import make_deterministic, pick_device, prepare_cpu
from utils.device.distributed import Distributed
from utils.device.environment import changes, environment, recorded_versions
from utils.device.precision import pick_precision, precision_name
from utils.errors import ConfigError, ModelError, amended
from utils.evaluators import ClassInfo, evaluate, measures, need_logits
from utils.files import sha256, sha256_of_code, write_text
from utils.optim import OPTIMIZERS
from utils.predictions import TOP, Predictions, write_csv
from utils.report import main_images, write_report
from utils.run import checkpoint, results
from utils.run.averaging import AVERAGED
from utils.run.best import NAME as BEST
from utils.run.best import BestEpoch, better_of, read_best
from utils.run.directory import RunDir
from utils.run.log import RunLog
from utils.run.mode import TESTED_OTHERWISE, Mode
from utils.run.saved import SavedRun, build_model_files, build_model_record
from utils.run.source import build_differences, build_named_mode, build_source, build_val_fraction
from utils.run.stopping import AFTER_SAVING, Stopped, Stopping
from utils.run.trackers import hyperparameters
from utils.schedule import SCHEDULES
from utils.text import visible

LIFT_HARMONIC_FLOOR = 1e-3  # percent: LIFT raises a class's accuracy to this in the harmonic mean
CODE = tuple(Path(__file__).parent / folder for folder in ("models", "datasets", "utils"))
DIVERGED = "train with a smaller lr, or prec_train fp32, in another run directory (output_dir)"


class Trainer:
    """Trains and tests the model that `cfg` describes, in the run directory cfg.output_dir.

    command: the command line, for log and results. stopping: read after each step; requests to save and end.
    A `with` block, or `close`, releases the run directory. Raises a UserError for invalid settings or files, before
    anything is overwritten.
    """

    def __init__(self, cfg: Config, command: str = "", stopping: Stopping | None = None):
        self.cfg = cfg = completed(cfg, described_values(cfg))
        self.command, self.stopping = command, stopping or Stopping()
        self.seconds = {"train": 0.0, "test": 0.0}
        self.images_per_second: dict[str, float | None] = {"train": None, "test": None}
        with contextlib.ExitStack() as resources:
            # ---- hardware ----
            self.distributed = Distributed()
            self.stopping.silent = not self.distributed.is_main
            self.device = pick_device(cfg.gpu, self.distributed)
            resources.enter_context(self.distributed.process_group(self.device))
            self.train_dtype, train_note = pick_precision(cfg.prec_train, self.device)
            self.test_dtype, test_note = pick_precision(cfg.prec_test, self.device)
            if cfg.deterministic:
                make_deterministic()

            # ---- data ----
            self.source = build_source(cfg)
            self.record = self.source.record
            self.cfg = cfg = completed(cfg, {"val_fraction": build_val_fraction(cfg, self.record)})
            with self.distributed.main_process_first():
                self.data = build_data(cfg)
            self.fingerprints = self.data.fingerprints()  # contents are read from the disk, so once

            # ---- run directory ----
            self.run_dir = RunDir(Path(cfg.output_dir))
            if cfg.test_only or cfg.test_train:
                self.cfg = cfg = completed(cfg, {"resolution": self.record.settings.get("resolution")})
            self.mode = build_named_mode(cfg, self.record, self.data.name, self.fingerprints)
            if self.source.checkpoint and self.record.counts and not self.mode.trains:
                self.data = self.data.counted_as(self.record.counts, self.record.name or "")
            self._require_keep_score()
            self.log = resources.enter_context(RunLog(self.run_dir, self.mode, enabled=self.distributed.is_main))
            resources.enter_context(self.distributed.shared_failures())  # within the log, which has the reason then
            self.stopping.on_end.append(self.log.end)
            self.log.info(f"$ {visible(command)}")

            # ---- model ----
            with self.distributed.main_process_first():
                backbone, weights = build_backbone(cfg)
            self.resolution = backbone.image.resolution
            self.test_crops = build_test_crops(cfg, self.resolution)
            prepare_cpu(sum(p.numel() for p in backbone.image.parameters()))
            backbone.to(self.device)
            self.cache, self.features_cached = TensorCache("features", cfg.feature_cache, self.log.info), False
            self.weights_key = weights_key(weights, backbone)
            backbone.recall = functools.partial(cached_text_features, self.cache, self._text_key, backbone)
            features = functools.partial(self._class_features, backbone)
            model = build_model(cfg, backbone, self.data.classnames, features, start=self.source.checkpoint is None)
            self.model = model.to(self.device)
            self.frozen = precision.FrozenWeights(self.model, self.train_dtype, self.test_dtype)
            self.params = count_parameters(self.model)
            self.trainable = self.params["trained"] > 0

            # ---- identity and records ----
            self.identity = build_identity(cfg, self.model, backbone, weights, self.data.classes_fingerprint)
            self.settings = training_options(cfg) | self.identity.fits | self._identify_training()
            self.about = self._describe(weights)
            notes = {test_note} if not self.trains else {train_note, test_note}
            self._log_banner(backbone, {*notes, *weights.notes, workers_note(cfg.num_workers)})
            self.mode = self._mode_for_logits()
            if self.source.checkpoint and self.trainable:
                self._restore(self.source.checkpoint)
            if self.source.earlier:
                self._start_from(self.source.earlier)
            self.trained_images = self._list_trained_images()
            self.trained_on = self._count_trained_on(self.mode.split)
            if self.trains and cfg.val_every and self.mode.split != "val":
                self._count_trained_on("val")

            # ---- loss and optimizer ----
            self.epoch, self.step = 0, 0  # completed epochs, and completed steps of the next one
            self.started, self.in_epoch = False, False  # whether the run directory is this run's; within an epoch
            self.best: BestEpoch | None = None  # with keep best
            self.files = self.run_dir  # the run directory that training writes to
            self.checksum = self.record.checksum if self.source.checkpoint and not self.mode.trains else None
            self.micro_batch_size = cfg.batch_size
            if self.trains:
                self.loss = build_loss(cfg, torch.from_numpy(self.data.class_counts)).to(self.device)
                tensors = checkpoint.trainable_tensors(self.model).values()
                options = {"lr": cfg.lr, "weight_decay": cfg.weight_decay, "momentum": cfg.momentum}
                self.optimizer = OPTIMIZERS[cfg.optimizer](tensors, **options)
                self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_dtype == torch.float16)
                self.frozen.cast(self.train_dtype)
                if cfg.checkpointing:
                    count = checkpointing.checkpoint_blocks(self.model)
                    self.log.info(f"recompute {count} transformer blocks in the backward pass")
                share = math.ceil(cfg.batch_size / self.distributed.size)
                self.micro_batch_size = self._pick_micro_batch_size(share)
                full_step = min(cfg.batch_size, len(self.data.train))
                own_share = len(range(self.distributed.rank, full_step, self.distributed.size))
                compiled = compile.compile_blocks(
                    self.model,
                    cfg.compile,
                    cfg.num_epochs * len(self.data.train) // self.distributed.size,
                    min(self.micro_batch_size, own_share),
                    self.device,
                    self.log.info,
                )
                self.distributed.broadcast(tensors)
                self.counters = torch.zeros(2, device=self.device)  # of the epoch: sum of losses, correct images
                self.image_states = self.data.train.images.states() if self.distributed.is_main else None
                # everything that the last bits depend on, beside the settings
                self.environment = environment(self.device, self.distributed.size) | {
                    "images in a micro-batch": self.micro_batch_size,
                    "compiled": compiled,
                    "program": sha256_of_code(*CODE)[:12],
                }
            self._resources = resources.pop_all()

    @property
    def trains(self) -> bool:
        """Whether `fit` changes anything: not in a test of an earlier run, and not for zero-shot CLIP."""
        return self.mode.trains and self.trainable

    def close(self) -> None:
        """Releases the run directory and ends the process group."""
        self._resources.close()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    # ---- training ----

    def fit(self, num_epochs: int | None = None) -> None:
        """Trains until `num_epochs` epochs are completed; None: all of the configuration.

        A later call continues, as does one of a new trainer after an interruption. The checkpoint is saved after the
        last epoch. Zero-shot CLIP has no trainable parameters: only its configuration is written.
        """
        cfg = self.cfg
        if not self.mode.trains:
            raise ConfigError("test_only and test_train do not train; leave them out", kind="mode_does_not_train")
        if self.in_epoch:
            raise ConfigError(
                "training was interrupted within an epoch; a new Trainer resumes from the last saved progress",
                kind="interrupted_epoch",
            )
        num_steps = math.ceil(len(self.data.train) / cfg.batch_size)
        if not self.started:
            with self.distributed.main_process_first():
                if self.trains and self.run_dir.progress.exists():
                    self._resume(num_steps)
                else:
                    self._start()
            self.started = True
        if not self.trains:
            return
        if cfg.tracker:
            self.log.start_tracker(cfg.tracker, hyperparameters(self.settings))

        # ---- train ----
        last = cfg.num_epochs if num_epochs is None else min(num_epochs, cfg.num_epochs)
        self.last_save = time.perf_counter()  # of the progress; the time since then is not in self.seconds yet
        batches = self.train_batches(self.epoch, last, self.step)
        with self.stopping.deferred(), contextlib.closing(batches):
            while self.epoch < last:
                self.in_epoch = True
                self._train_epoch(batches, num_steps)
                self._validate(num_steps)
                self.epoch, self.step, self.in_epoch = self.epoch + 1, 0, False
                self.counters.zero_()
                self._save_progress(due=True)
        if self.epoch == cfg.num_epochs:
            self._save_checkpoint()

    def train_batches(
        self, first_epoch: int = 0, num_epochs: int | None = None, first_step: int = 0
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """This process's share of every step, in order: uint8 images [b, 3, R, R] and labels [b], on the device.

        first_step: of the first epoch, from 0. The model is set to training mode, its frozen weights to the precision
        of training.
        """
        cfg = self.cfg
        self._prepare_training()
        steps = TrainBatchSampler(
            len(self.data.train),
            cfg.batch_size,
            cfg.seed,
            cfg.num_epochs if num_epochs is None else num_epochs,
            first_epoch=first_epoch,
            first_step=first_step,
            rank=self.distributed.rank,
            num_ranks=self.distributed.size,
        )
        crop = build_train_crop(cfg, self.resolution)
        yield from Loader(self.data.train, crop, steps, self.device, cfg.num_workers, cfg.worker_timeout, self.log.info)

    def _prepare_training(self) -> None:
        self.frozen.cast(self.train_dtype)
        self.model.train()

    def _train_epoch(self, batches: Iterator[tuple[Tensor, Tensor]], num_steps: int) -> None:
        """Runs the remaining steps of an epoch, and saves the progress every save_minutes."""
        cfg, num_images = self.cfg, len(self.data.train)
        schedule, done = SCHEDULES[cfg.schedule], (self.step, self.step * cfg.batch_size)
        with self.log.epoch(self.epoch, cfg.num_epochs, num_images, num_steps, done) as progress:
            while self.step < num_steps:
                # ---- step ----
                lr = schedule(cfg.lr, self.epoch * num_steps + self.step, num_steps, cfg.num_epochs, cfg.warmup_epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                images, labels = next(batches)
                self.counters += self.train_step(images, labels)
                progress.advance(min(cfg.batch_size, num_images - self.step * cfg.batch_size))
                self.step += 1

                # ---- log and save ----
                reports = self.step % cfg.print_freq == 0 or self.step == num_steps
                if reports:
                    totals = self.distributed.sum(self.counters, self.device)
                    loss_sum, correct = totals.tolist()  # waits for the device
                    loss = progress.report(loss_sum, correct, lr)
                    if not math.isfinite(loss):
                        raise FloatingPointError(f"the loss is {loss}{self._remaining_progress()}")
                if self.step < num_steps and (reports or self.distributed.size == 1):
                    minutes, since = cfg.save_minutes, time.perf_counter() - self.last_save
                    self._save_progress(due=minutes is not None and since >= 60 * minutes)

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Runs one optimizer step on a batch; returns its loss and its number of correct images, on the device."""
        # ---- loss and gradients, a micro-batch at a time ----
        step_weight = self.distributed.sum(self.loss.total_weight(labels), self.device)
        counters = torch.zeros(2, device=self.device)
        for x, y in zip(images.split(self.micro_batch_size), labels.split(self.micro_batch_size), strict=True):
            logits = self.model(x)
            loss = self.loss(logits, y).sum() / step_weight
            self.scaler.scale(loss).backward()
            counters += torch.stack([loss.detach(), (logits.argmax(1) == y).sum()])

        # ---- update ----
        self.distributed.sum_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return counters

    def _save_checkpoint(self) -> None:
        """Saves the tensors of the last epoch, or of the best one, which are then copied into the model."""
        if self.best:
            checkpoint.copy_into(checkpoint.saved_tensors(self.model), self.best.tensors, self.run_dir.progress)
            score = f"{results.words(self.best.measure)} {results.percent(self.best.value)}"
            self.log.info(f"kept      epoch {self.best.epoch}: {score} on the validation images")
        self.images_per_second["train"] = self.cfg.num_epochs * len(self.data.train) / self.seconds["train"]
        if self.distributed.is_main:
            data = {"name": self.data.name, "fingerprint": self.fingerprints}
            data |= {"counts": self.data.class_counts.tolist()}
            about = self.identity.fits | self.identity.computed | {"data": data, "trained_on": self.trained_images}
            about |= {"training": self._describe_training(), "model": self._describe_model()}
            about |= {"classnames": self.data.classnames, "shot_groups": group_of_class(self.data.groups)}
            tensors = checkpoint.saved_tensors(self.model)
            self.checksum = checkpoint.save(self.files.checkpoint, tensors, about)

    # ---- validation ----

    def _validate(self, num_steps: int) -> None:
        """Writes the scores on the validation images if due after this epoch; keep best copies the best tensors.

        Training continues with the same bits. Its seconds and speed exclude the validation.
        """
        cfg, epoch = self.cfg, self.epoch + 1
        if not cfg.val_every or (epoch % cfg.val_every and epoch < cfg.num_epochs):
            return
        self._save_progress(due=False)  # after a signal there may be no time for a validation
        start = time.perf_counter()
        scores = self.evaluate("val")
        found, shown = measures(scores), dict(scores["accuracy"])
        if cfg.keep == "best":
            shown[cfg.keep_score] = found[cfg.keep_score]
            self.best = better_of(self.best, epoch, cfg.keep_score, found[cfg.keep_score], self.model)
        is_best = self.best is not None and self.best.epoch == epoch
        numbers = "  ".join(f"{results.words(name)} {results.percent(value)}" for name, value in shown.items())
        self.log.info(f"epoch {epoch}/{cfg.num_epochs}  validation  {numbers}{'  (best so far)' if is_best else ''}")
        self.log.validation(epoch * num_steps, epoch, found)
        self._prepare_training()
        self.last_save += time.perf_counter() - start

    def _require_keep_score(self) -> None:
        """Raises a ConfigError if keep_score is not a score of the validation, or not defined on these images."""
        if self.cfg.keep != "best" or not self.mode.trains or self.cfg.zero_shot:
            return
        images = len(self.data.split("val"))
        blank = np.broadcast_to(np.float32(0), (images, len(self.data.classnames)))  # logits, in no memory
        scores = measures(self._evaluate("val", blank))
        if scores.get(self.cfg.keep_score) is None:
            defined = ", ".join(name for name, value in scores.items() if value is not None)
            message = f"keep_score {self.cfg.keep_score} is not a score of the validation images; choose from {defined}"
            raise ConfigError(message, kind="unknown_keep_score", key="keep_score")

    def _pick_micro_batch_size(self, images: int) -> int:
        """How many of its `images` of a step this process computes at once."""
        model = self.model.train()
        trainable = [p for p in model.parameters() if p.requires_grad]

        def compute(count: int) -> None:
            side = self.resolution
            blank = torch.zeros(count, 3, side, side, dtype=torch.uint8, device=self.device)
            loss = self.loss(model(blank), torch.zeros(count, dtype=torch.int64, device=self.device)).sum()
            with contextlib.ExitStack() as hooks:  # they free each gradient, as their sizes are known
                for p in trainable:
                    hooks.callback(p.register_post_accumulate_grad_hook(_free_gradient).remove)
                loss.backward()

        state_bytes = 3 * sum(p.nbytes for p in trainable)  # gradients, and two moments as of AdamW
        return memory.pick_micro_batch_size(
            images, self.cfg.accum_step, compute, state_bytes, self.device, self.log.info
        )

    # ---- starting and resuming ----

    def _start(self) -> None:
        """Claims the run directory. A complete run with these settings is replaced only when this one is complete."""
        if self.distributed.is_main:
            self.run_dir.require_same_run(self.settings, self.fingerprints["test"], self.identity.absent)
            self.run_dir.begin()
            self.files = self.run_dir.working()
            self.log.start_curves(self.files, 0, 0)
            write_text(self.files.config, self.cfg.dump())

    def _resume(self, num_steps: int) -> None:
        """Continues an interrupted run of the same configuration."""
        progress = checkpoint.read_progress(self.run_dir.progress)
        about = progress.about
        if self.image_states is not None and "images" in progress.extra:
            with amended(after=f", or delete {progress.path} to start from the beginning"):
                note = require_same_images(self.data.train.images, self.image_states, progress.extra["images"].numpy())
            if note:
                self.log.info(f"note      {note}")
        progress.load_into(self.model, self.optimizer, self.settings, self.identity.absent)
        self.scaler.load_state_dict(about["scaler"])
        self.seconds["train"] = about["seconds"]
        self.epoch, self.step = about["epoch"], about.get("step", 0)
        self.best = read_best(about, progress.extra)
        if self.distributed.is_main:  # the saved counters are sums over all processes
            self.counters += torch.tensor(about.get("counters", [0.0, 0.0]), device=self.device)

        self.files = self.run_dir.working()
        self.log.start_curves(self.files, self.epoch * num_steps + self.step, self.epoch)
        position = f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")
        self.log.info(f"resuming after {position}, from {progress.path}")
        if elsewhere := changes(about.get("environment", self.environment), self.environment):
            words = visible("; ".join(elsewhere))
            self.log.info(f"warning   the run began elsewhere ({words}), so its last bits may differ")

    def _save_progress(self, due: bool) -> None:
        """Saves the state from which a new trainer resumes, if it is due, or if a signal requests it and ends the run.

        All processes call it after the same step. Raises FloatingPointError if the state is not finite.
        """
        stops = self.stopping.requested
        if self.distributed.size > 1:  # true if true on any rank, as their clocks and signals differ
            flags = torch.tensor([due, stops], dtype=torch.int64, device=self.device)
            due, stops = (self.distributed.sum(flags, self.device) > 0).tolist()
        if not (due or stops):
            return
        now = time.perf_counter()
        self.seconds["train"] += now - self.last_save
        self.last_save = now
        totals = self.distributed.sum(self.counters, self.device).tolist()
        if self.distributed.is_main:
            about = {"epoch": self.epoch, "step": self.step, "counters": totals}
            about |= {"seconds": self.seconds["train"], "scaler": self.scaler.state_dict()}
            about |= {"identity": self.settings, "environment": self.environment}
            extra = {} if self.image_states is None else {"images": torch.from_numpy(self.image_states)}
            if self.best:
                about, extra = about | {BEST: self.best.record}, extra | self.best.named_tensors
            try:
                checkpoint.save_progress(self.run_dir.progress, self.model, self.optimizer, about, extra)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}{self._remaining_progress()}") from error
        if stops:
            raise Stopped(AFTER_SAVING)

    def _remaining_progress(self) -> str:
        """The end of a message about values that are not finite."""
        path = self.run_dir.progress
        remains = f"; {path} has the last good progress, from which the same command would diverge again"
        return f"{remains if path.exists() else ''}; {DIVERGED}"

    # ---- testing ----

    def predict(self, split: str = "test") -> np.ndarray:
        """The logits of the images of a split, "train", "test" or "val": float32 [n, C], in the order of its list.

        With test-time ensembling, logits are means over the crops.
        """
        return self.test(split, logits=True).outputs

    def evaluate(self, split: str = "test") -> dict[str, Any]:
        """The scores of the model on a split: see utils/evaluators.py. Nothing is written."""
        return self.score(split, self.test(split))

    @torch.inference_mode()
    def features(self, split: str = "test") -> np.ndarray:
        """The image features that the head reads: float32 [n, K, D] of K test crops, in the order of the list."""
        images = self._prepare_test(split)
        shape = len(images), self.test_crops.count, self.model.tower.dim
        out = torch.zeros(shape, device=self.device)
        return self._infer(self.model, images, np.arange(len(images)), self.test_crops, out, _stack).cpu().numpy()

    @torch.inference_mode()
    def test(self, split: str, logits: bool | None = None) -> Predictions:
        """The predictions for the images of a split.

        logits: whether to return them; None = only if they are saved, or read by an evaluator, as they take memory.
        """
        images, start = self._prepare_test(split), time.perf_counter()
        if logits is None:
            logits = self.cfg.save_logits or need_logits(self.cfg.evaluators)
        num_classes = len(self.data.classnames)
        top = min(TOP, num_classes)
        width = 2 * top + 1 + (num_classes if logits else 0)  # classes, their probabilities, the label's, logits
        out = torch.zeros(len(images), width, device=self.device)

        def summary(head: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
            values = mean_logits(head, features)
            classes, probabilities = top_predictions(values, top)  # float32 has every number below 2^24
            own = label_probabilities(values, labels)[:, None]
            own = own.where(values.isfinite().all(1, keepdim=True), torch.nan)
            return torch.cat([classes, probabilities, own, values][: 4 if logits else 3], 1)

        rows = self._infer(self.model, images, np.arange(len(images)), self.test_crops, out, summary).cpu().numpy()
        classes, probabilities, own, values = np.split(rows, (top, 2 * top, 2 * top + 1), axis=1)
        self.seconds["test"] = time.perf_counter() - start
        self.images_per_second["test"] = None if self.features_cached else len(images) / self.seconds["test"]
        return Predictions(
            images.images.paths or None,
            images.labels,
            classes.astype(np.int64),
            probabilities,
            own[:, 0],
            values if logits else None,
        )

    def score(self, split: str, predictions: Predictions) -> dict[str, Any]:
        """The scores of the predictions for this split."""
        return self._evaluate(split, predictions.outputs)

    def _evaluate(self, split: str, outputs: np.ndarray) -> dict[str, Any]:
        floor = LIFT_HARMONIC_FLOOR if self.cfg.variant == "lift" else 0.0
        classes = ClassInfo(self.data.classnames, self.data.class_counts, self.data.groups, floor)
        return evaluate(self.cfg.evaluators, outputs, self.data.split(split).labels, classes)

    def _prepare_test(self, split: str) -> ImageList:
        self.frozen.cast(self.test_dtype)
        self.model.eval()
        return self.data.split(split)

    def _infer(
        self,
        model: Model,
        images: ImageList,
        indices: np.ndarray,
        crops: AnyTestCrops,
        out: Tensor,
        reduce: Callable[[nn.Module, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Fills `out` [n, ...], zeros, with reduce(head, features [K, b, D], labels [b]) of images[indices].

        All ranks take part. Raises FloatingPointError if a value is not finite.
        """
        rank, ranks, size = self.distributed.rank, self.distributed.size, max(self.cfg.batch_size, TEST_BATCH)
        steps = sequential_batches(indices[rank::ranks], size)
        cfg = self.cfg
        loader = Loader(images, crops, steps, self.device, cfg.num_workers, cfg.worker_timeout, self.log.info)
        batches = (batch for batch, _ in loader)
        key = functools.partial(self._feature_key, images, indices[rank::ranks], crops)
        sizes = [len(step) for step in steps]
        features, self.features_cached = cached_features(model, batches, sizes, crops.count, self.cache, key)
        not_finite = torch.zeros(len(indices), dtype=torch.int64, device=self.device)
        labels = torch.from_numpy(images.labels[indices]).to(self.device)
        own_rows = zip(*(tensor[rank::ranks].split(size) for tensor in (out, not_finite, labels)), strict=True)
        with self.log.progress(len(indices), "testing") as bar:
            for batch, (rows, marks, y) in zip(features, own_rows, strict=False):  # a rank may have none
                values = reduce(model.head, batch, y)
                rows.copy_(values)
                marks.copy_(values.flatten(1).isfinite().all(1).logical_not())
                bar.update(batch.shape[1] * ranks)
            found = np.flatnonzero(self.distributed.sum(not_finite, self.device).cpu().numpy())
            if len(found):
                raise FloatingPointError(self._not_finite(images, indices[found]))
            return self.distributed.sum(out, self.device)

    def _not_finite(self, images: ImageList, indices: np.ndarray) -> str:
        """The message for images whose features or logits are NaN or infinite."""
        first = visible(images.images.names(None, "image")[indices[0]])
        return (
            f"the model's output for {len(indices):,} of {len(images):,} images is not finite (the first is "
            f"{first}); try prec_test fp32, and if that does not help, the weights or the checkpoint are damaged"
        )

    def _feature_key(self, images: ImageList, indices: np.ndarray, crops: AnyTestCrops) -> dict[str, Any]:
        """The key of cached features, beside the model: see models/features.py."""
        machine = environment(self.device, self.distributed.size)
        return feature_key(self.weights_key, images.images, indices, crops, machine)

    def _text_key(self) -> dict[str, Any]:
        return text_key(self.weights_key, environment(self.device, self.distributed.size))

    @torch.inference_mode()
    def _class_features(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """The bare backbone's features of some training images of each class, float32 [n, D], and labels int64 [n]."""
        images = self.data.train
        seed = self.cfg.seed if self.cfg.variant == "lift" else None  # LIFT draws random ones
        indices = images.some_of_each(len(self.data.classnames), self.cfg.classifier_init_images, seed)
        model = Model(backbone.image, nn.Identity(), *backbone.normalisation).to(self.device).eval()
        out = torch.zeros(len(indices), backbone.image.dim, device=self.device)
        crop = build_centre_crop(self.cfg, self.resolution)
        features = self._infer(model, images, indices, crop, out, _mean)
        return features, torch.from_numpy(images.labels[indices]).to(self.device)

    def write_results(self, scores: dict[str, Any], predictions: Predictions) -> dict[str, Any]:
        """Writes predictions, results, and logits if save_logits is set; logs a table, returns the results."""
        # ---- content ----
        content = scores | self.about | {"seconds": self.seconds, "images_per_second": self.images_per_second}
        content["epochs"] = self.cfg.num_epochs if self.trainable else 0
        content["checkpoint"], content["model"] = self.checksum, self._describe_model() | build_model_files(self.cfg)
        content["data"] = self.about["data"] | self._describe_tested()
        logits = self.files.logits(self.mode) if self.cfg.save_logits else None
        content["logits"] = logits.name if logits else None
        listed = self.files.predictions(self.run_dir.mode_for_predictions(self.mode, self.about["test"]))
        content["predictions"] = listed.name
        if not self.mode.trains and self.trainable:  # the settings are those of the training, if known
            content |= self.record.training or {"unknown_training": True}
            content |= {"other_checkpoint": True} if self.record.is_foreign else {}
        elif self._started_from and self.trainable:
            content["started_from"] = self._started_from
        if self.best:
            content["kept"] = self.best.record
        content["peak_memory_mb"] = memory.peak_mb(self.device)

        # ---- files ----
        if self.distributed.is_main:
            self.run_dir.remove_partials(*(self.run_dir.path / path.name for path in (listed, logits) if path))
            self.run_dir.remove_partials(self.run_dir.results(self.mode))
            write_csv(listed, predictions, self.data.classnames)
            if logits and predictions.logits is not None:
                results.save_logits(logits, predictions.logits, predictions.labels, self._describe_logits())
            if self.mode.trains:
                if self.trainable:
                    step = self.cfg.num_epochs * math.ceil(len(self.data.train) / self.cfg.batch_size)
                    self.log.end_scores(step, self.mode.split, measures(scores), hyperparameters(self.settings))
                self.log.end_curves()
                if self.trainable:
                    self.run_dir.forget_earlier(listed, logits)
                self.run_dir.publish()
            results.write_json(self.run_dir.results(self.mode), content)
            if self.mode.trains:
                self.run_dir.progress.unlink(missing_ok=True)
                self.run_dir.clear_unfinished()
            self.log.info(f"\n{results.table(content)}\nresults   {self.run_dir.results(self.mode)}")
        return content

    def write_report(self) -> None:
        """Writes the page of this test, and updates that of the run; a failure is a warning. See utils/report."""
        if not (self.cfg.report and self.distributed.is_main):
            return
        try:
            self.run_dir.remove_partials(self.run_dir.report(self.mode), self.run_dir.report())
            pictures, tested = thumbnails_of(self.data, self.fingerprints), self.run_dir.results(self.mode)
            path = write_report(self.run_dir, None if self.mode.trains else tested, pictures)
            if not self.mode.trains and pictures(main_images(self.run_dir), []) is not None:
                write_report(self.run_dir, None, pictures)
            self.log.info(f"report    {path}")
        except Exception as error:  # of any kind: the results are written already
            reason = terminal.describe(error)
            self.log.info(f"warning   the report could not be written ({reason}); try again with scripts/report.py")

    # ---- records of the run ----

    def _restore(self, path: Path) -> None:
        """Loads a checkpoint, to test it or to start from it. Raises CheckpointError or ModelError."""
        identity, computed, absent = self.identity
        if not self.mode.trains:  # a test computes as the training did; a start may compute otherwise
            identity = identity | computed
            absent = absent | self.record.settings
        checkpoint.restore(self.model, path, identity, convert_upstream, absent)
        # native checkpoints do not contain the positions, so training needs those that its options choose
        if self.mode.trains and entries_fingerprint(self.model) != self.identity.fits.get(checkpoint.ENTRIES):
            raise ModelError(
                f"{path} trains other entries than the options choose, so training cannot start from it; "
                "set the aft_seed, aft_ratio and aft_loc that it was trained with",
                kind="other_entries",
                path=path,
            )
        self.log.info(f"{'start' if self.mode.trains else 'testing':10}{path}")
        if self.record.is_foreign:
            self.log.info(
                f"warning   {path} is not the checkpoint that the run in its folder saved: it is of "
                f"{self.record.compared_with(self.settings)}, which the results record"
            )
        if AVERAGED in self.record.training:
            self.log.info(f"          it is an average: {self.record.training[AVERAGED]}")
        if not self.mode.trains:
            for key, (then, now) in build_differences(self.cfg, self.record).items():
                self.log.info(f"note      the run was trained with {key} {then}; this test uses {key} {now}")

    def _start_from(self, earlier: SavedRun) -> None:
        """Copies the tensors of an earlier run that fit the model. Raises CheckpointError and ModelError."""
        taken = earlier_run.take_tensors(self.model, earlier, self.data.classnames, self.identity.fits)
        lines = earlier_run.describe(taken, earlier, self.about["weights"]["sha256"], self.cfg.classifier_init)
        self.log.info("\n".join(lines))

    @property
    def _started_from(self) -> str | None:
        """The folder of the run that training starts from."""
        return self.cfg.model_dir or self.cfg.init_from

    def _identify_training(self) -> dict[str, Any]:
        """The settings that identify a run, beside its options and its model."""
        files = {"prompt file": self.cfg.prompt_file, "start": self.source.checkpoint if self.mode.trains else None}
        same = {"precision": precision_name(self.train_dtype), "training images": self.fingerprints["train"]}
        if self.source.earlier and self.source.earlier.checksum:
            same[checkpoint.INIT] = self.source.earlier.checksum
        if self.trains and self.cfg.keep == "best":  # the settings that determine the best epoch
            same |= {key: self.cfg[key] for key in KEEPING}
            same |= {"validation precision": precision_name(self.test_dtype)}
            same |= {"validation images": self.fingerprints["val"]}
        return same | {name: sha256(Path(file)) for name, file in files.items() if file}

    def _describe_training(self) -> dict[str, Any]:
        """The record of a training in its checkpoint, equal to that in its results."""
        training = {"seed": self.cfg.seed, "epochs": self.cfg.num_epochs, "settings": self.settings}
        training |= {"started_from": self._started_from} if self._started_from else {}
        return training | ({"kept": self.best.record} if self.best else {})

    def _describe_model(self) -> dict[str, Any]:
        images = self.data.test.images
        return build_model_record(self.cfg, self.resolution, images.exif_orientation, images.bit_depth)

    def _describe(self, weights: Weights) -> dict[str, Any]:
        """The results beside scores and times."""
        cfg, crops = self.cfg, self.test_crops
        test = {"crops": crops.count, "expand": crops.expand, "precision": precision_name(self.test_dtype)}
        test |= {key: cfg[key] for key in TESTED_OTHERWISE if cfg[key] is not None}
        test |= {"draws": cfg.tte_draws, "seed": cfg.seed} if cfg.tte and cfg.tte_draws else {}
        return {
            "params": self.params,
            "seed": cfg.seed,
            "data": {"name": self.data.name, "split": self.mode.split, "fingerprint": self.fingerprints},
            "test": test,
            "settings": self.settings,
            "weights": {"name": weights.name, "sha256": weights.sha256, "published": weights.published},
            **environment(self.device, self.distributed.size),
            "versions": recorded_versions(),
            "command": self.command,
        }

    def _log_banner(self, backbone: Backbone, notes: set[str | None]) -> None:
        cfg, summary = self.cfg, [self.data.summary()]
        if cfg.classifier is None or (self.source.checkpoint is None and cfg.classifier_init == "semantic"):
            renamable = cfg.dataset == "folder"
            classnames = self.data.classnames
            summary += prompt_notes(backbone.tokenizer, classnames, cfg.prompt, cfg.prompt_file, renamable)
        self.log.info(results.banner(self.about, "\n".join(summary), self.resolution, set(filter(None, notes))))

    def _describe_logits(self) -> dict[str, Any]:
        """The test that a file of logits records."""
        tested = {"fingerprint": self.fingerprints[self.mode.split], **self.about["test"]}
        return {key: value for key, value in tested.items() if value is not None}  # draws have no expand

    def _mode_for_logits(self) -> Mode:
        """The mode whose file names replace no logits of another test, and leave none unmarked beside its results."""
        if self.trains:
            return self.mode  # files of an earlier training run and its tests are replaced
        tested, path = self._describe_logits(), self.run_dir.logits(self.mode)
        if self.cfg.save_logits:
            return self.run_dir.mode_for_logits(self.mode, tested, self.data.split(self.mode.split).labels)
        there = results.logits_about(path)
        if there and "fingerprint" in there and not results.same_test(there, tested):
            self.log.info(f"note      {path} has the logits of another test, and is not replaced")
        return self.mode

    def _list_trained_images(self) -> list[dict[str, Any]]:
        """The records of the images that the model is or was trained on: see datasets/overlap.py."""
        if not self.trainable or not self.distributed.is_main:
            return []
        if self.mode.trains:
            own, inherited = overlap.record(self.data.train, self.data.root), self.record.images
            return [own, *([] if not self._started_from else [overlap.UNKNOWN] if inherited is None else inherited)]
        if self.record.images:
            return self.record.images
        # of an older version, or of LIFT+: known if it is the list of this command
        same = results.same_images(self.record.fingerprints.get("train"), self.fingerprints["train"])
        return [overlap.record(self.data.train, self.data.root) if same else overlap.UNKNOWN]

    def _count_trained_on(self, split: str) -> int | None:
        """The number of images of a split that the model was trained on; None if unknown. Logs a warning if any.

        Only the main process computes and reports it.
        """
        if not self.trainable or not self.distributed.is_main:
            return 0 if not self.trainable else None
        images = self.data.split(split)
        tested, records = self.record.fingerprints.get("test"), self.trained_images
        own = self.mode.trains or results.same_images(tested, self.fingerprints["test"])
        if own and self.data.shares_images and split == "test":
            records = records[1:]  # the set is tested as it was published
        count = overlap.count_shared(images, self.data.root, records)
        if count and split != "train":
            self.log.info(
                f"warning   {count:,} of the {len(images):,} {SPLITS[split]} images are training images of this run, "
                "so the accuracy is not that on new images"
            )
        return count

    def _describe_tested(self) -> dict[str, Any]:
        """The record of the tested images: the list's name, how many were trained on, the groups."""
        cfg, split = self.cfg, self.mode.split
        about: dict[str, Any] = {}
        tested = self.record.fingerprints.get("test")
        own = not self.mode.trains and results.same_images(tested, self.fingerprints["test"])
        if self.trainable and split == "test" and own:
            about["name"] = self.record.name  # the same images as of the run, whatever their name is now
        file = {"test": cfg.test_list, "val": cfg.val_list}.get(split)
        listed = self.mode.images or (Path(file).stem if file else None)
        if listed:
            about["list"] = listed
        if self.trained_on is not None:
            about["trained_on"] = self.trained_on
        return about | {"groups": [cfg.many_threshold, cfg.few_threshold, cfg.shot_groups]}


def _free_gradient(parameter: Tensor) -> None:
    parameter.grad = None


# ---- from features [K, b, D] of K crops and labels [b] to rows [b, ...] ----


def _stack(head: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    return features.transpose(0, 1)


def _mean(head: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    return mean_logits(head, features)


# ---- the command line ----


def train_and_test(trainer: Trainer) -> dict[str, Any]:
    """Trains, or continues an interrupted training, then tests; returns the content of the results file."""
    trainer.fit()
    return test(trainer)


def test(trainer: Trainer) -> dict[str, Any]:
    """Tests on the images of the mode; returns the content of the results file."""
    predictions = trainer.test(trainer.mode.split)
    content = trainer.write_results(trainer.score(trainer.mode.split, predictions), predictions)
    trainer.write_report()
    return content


MODES: dict[str, Callable[[Trainer], dict[str, Any]]] = {
    "train": train_and_test,
    "test_only": test,
    "test_train": test,
}


def run(cfg: Config, command: str = "", stopping: Stopping | None = None) -> dict[str, Any]:
    """Executes a command; returns the content of the results file. stopping: see Trainer."""
    with Trainer(cfg, command, stopping) as trainer:
        return MODES[trainer.mode.name](trainer)
