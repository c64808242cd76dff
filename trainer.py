"""The one trainer: built, then fit, predict and evaluate, in any order and as often as one likes.

    with Trainer(load_config("digits_lt", "clip_tiny", "lift+", [])) as trainer:
        trainer.fit()
        scores = trainer.evaluate("test")

A step is batch_size images in micro-batches. The loss of each is divided by the weight of the whole step, so that
accumulation changes nothing but memory. Nothing in a step waits for the device: its counters are read every print_freq
steps. `run` executes a command line.
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
from datasets.base import ImageList
from datasets.loading.crops import AnyTestCrops, build_test_crops, build_train_crop, centre_crop
from datasets.loading.loader import TEST_BATCH, Loader
from datasets.loading.sampler import TrainBatchSampler, sequential_batches
from datasets.loading.workers import workers_note
from models import (
    Model,
    build_backbone,
    build_model,
    compile,
    convert_upstream,
    count_parameters,
    entries_fingerprint,
    precision,
    prompt_notes,
)
from models.backbones.backbone import Backbone
from models.features import cached_features
from models.identity import build_identity
from models.losses import build_loss
from models.weights.load import Weights
from utils.cache import TensorCache
from utils.config import Config, training_options
from utils.device import memory
from utils.device.device import make_deterministic, pick_device, prepare_cpu
from utils.device.distributed import Distributed
from utils.device.environment import environment
from utils.device.precision import pick_precision, precision_name
from utils.errors import ConfigError, ModelError
from utils.evaluators import ClassInfo, evaluate, need_logits
from utils.files import sha256, sha256_of_code, write_text
from utils.optim import OPTIMIZERS
from utils.run import checkpoint, results
from utils.run.directory import RunDir
from utils.run.log import RunLog
from utils.run.mode import TESTED_OTHERWISE, Mode
from utils.run.source import build_differences, build_named_mode, build_source
from utils.schedule import SCHEDULES

LIFT_HARMONIC_FLOOR = 1e-3  # percent: LIFT raises a class's accuracy to this in the harmonic mean


class Trainer:
    """Trains and tests the model that `cfg` describes, in the run directory cfg.output_dir.

    command: the command line, for log and results. A `with` block, or `close`, releases the run directory.
    Raises UserErrors for what does not fit, before anything is written over.
    """

    def __init__(self, cfg: Config, command: str = ""):
        self.cfg, self.command = cfg, command
        self.seconds = {"train": 0.0, "test": 0.0}
        self.images_per_second: dict[str, float | None] = {"train": None, "test": None}
        with contextlib.ExitStack() as resources:
            # ---- hardware ----
            self.distributed = Distributed()
            self.device = pick_device(cfg.gpu, self.distributed)
            resources.enter_context(self.distributed.process_group(self.device))
            self.train_dtype, train_note = pick_precision(cfg.prec_train, self.device)
            self.test_dtype, test_note = pick_precision(cfg.prec_test, self.device)
            if cfg.deterministic:
                make_deterministic()

            # ---- data ----
            with self.distributed.main_process_first():
                self.data = build_data(cfg)
            self.fingerprints = self.data.fingerprints()  # contents are read from the disk, so once

            # ---- run directory ----
            self.run_dir = RunDir(Path(cfg.output_dir))
            self.source = build_source(cfg)
            self.record = self.source.record
            self.mode = build_named_mode(cfg, self.record, self.data.name, self.fingerprints)
            if self.source.checkpoint and self.record.counts and not self.mode.trains:
                self.data = self.data.counted_as(self.record.counts, self.record.name or "")
            self.log = resources.enter_context(RunLog(self.run_dir, self.mode, enabled=self.distributed.is_main))
            self.log.info(f"$ {command}")

            # ---- model ----
            with self.distributed.main_process_first():
                backbone, weights = build_backbone(cfg)
            self.resolution = backbone.image.resolution
            self.test_crops = build_test_crops(cfg, self.resolution)
            prepare_cpu(sum(p.numel() for p in backbone.image.parameters()))
            backbone.to(self.device)
            self.cache, self.features_cached = TensorCache("features", cfg.feature_cache, self.log.info), False
            self.weights_key = f"{weights.sha256} {backbone.geometry}"  # activation and heads are not in the file
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
            self._log_banner({*notes, *weights.notes, workers_note(cfg.num_workers)})
            self.mode = self._mode_for_logits()
            if self.source.checkpoint and self.trainable:
                self._restore(self.source.checkpoint)
            self.trained_images = self._list_trained_images()
            self.trained_on = self._count_trained_on()

            # ---- loss and optimizer ----
            self.epoch = 0  # completed epochs
            self.started, self.in_epoch = False, False  # whether the run directory is this run's; within an epoch
            self.micro_batch_size = cfg.batch_size
            self.parallel: nn.Module = self.model
            if self.trains:
                self.loss = build_loss(cfg, torch.from_numpy(self.data.class_counts)).to(self.device)
                tensors = checkpoint.trainable_tensors(self.model).values()
                options = {"lr": cfg.lr, "weight_decay": cfg.weight_decay, "momentum": cfg.momentum}
                self.optimizer = OPTIMIZERS[cfg.optimizer](tensors, **options)
                self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_dtype == torch.float16)
                self.frozen.cast(self.train_dtype)
                share = math.ceil(cfg.batch_size / self.distributed.size)
                self.micro_batch_size = self._pick_micro_batch_size(share)
                images = cfg.num_epochs * len(self.data.train) // self.distributed.size
                compile.compile_blocks(self.model, cfg.compile, images, self.device, self.log.info)
                self.parallel = self.distributed.wrap(self.model)
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
        """Trains until `num_epochs` epochs are completed; None: all that the configuration asks for.

        A later call continues, and so does that of a new trainer after an interruption. The checkpoint is saved after
        the last epoch. Zero-shot CLIP has nothing to train: its configuration is written, and no more.
        """
        cfg = self.cfg
        if not self.mode.trains:
            raise ConfigError("test_only and test_train do not train; leave them out", kind="mode_does_not_train")
        if self.in_epoch:
            raise ConfigError(
                "training was interrupted within an epoch; a new Trainer resumes after the last completed one",
                kind="interrupted_epoch",
            )
        num_steps = math.ceil(len(self.data.train) / cfg.batch_size)
        if not self.started:
            with self.distributed.main_process_first():
                resumes = self.trains and self.run_dir.progress.exists()
                self.epoch = self._resume(num_steps) if resumes else self._start()
            self.started = True
        if not self.trains:
            return

        # ---- train ----
        last = cfg.num_epochs if num_epochs is None else min(num_epochs, cfg.num_epochs)
        with contextlib.closing(self.train_batches(self.epoch, last)) as batches:
            while self.epoch < last:
                start, self.in_epoch = time.perf_counter(), True
                self._train_epoch(batches, num_steps)
                self.seconds["train"] += time.perf_counter() - start
                self.epoch, self.in_epoch = self.epoch + 1, False
                self._save_progress()

        # ---- save ----
        if self.epoch == cfg.num_epochs:
            self.images_per_second["train"] = cfg.num_epochs * len(self.data.train) / self.seconds["train"]
            if self.distributed.is_main:
                data = {"name": self.data.name, "fingerprint": self.fingerprints}
                data |= {"counts": self.data.class_counts.tolist()}
                about = self.identity.fits | self.identity.computed | {"data": data, "trained_on": self.trained_images}
                checkpoint.save(self.run_dir.checkpoint, checkpoint.saved_tensors(self.model), about)

    def train_batches(
        self, first_epoch: int = 0, num_epochs: int | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """This process's share of every step, in order: uint8 images [b, 3, R, R] and labels [b], on the device.

        The model is put into training mode, its frozen weights into the precision of training.
        """
        cfg = self.cfg
        self.frozen.cast(self.train_dtype)
        self.model.train()
        steps = TrainBatchSampler(
            len(self.data.train),
            cfg.batch_size,
            cfg.seed,
            cfg.num_epochs if num_epochs is None else num_epochs,
            first_epoch=first_epoch,
            rank=self.distributed.rank,
            num_ranks=self.distributed.size,
        )
        crop = build_train_crop(cfg, self.resolution)
        yield from Loader(self.data.train, crop, steps, self.device, cfg.num_workers)

    def _train_epoch(self, batches: Iterator[tuple[Tensor, Tensor]], num_steps: int) -> None:
        cfg, num_images = self.cfg, len(self.data.train)
        schedule = SCHEDULES[cfg.schedule]
        counters = torch.zeros(2, device=self.device)  # sum of the steps' losses, images classified correctly
        with self.log.epoch(self.epoch, cfg.num_epochs, num_images, num_steps) as progress:
            for step in range(1, num_steps + 1):
                done = self.epoch * num_steps + step - 1
                lr = schedule(cfg.lr, done, num_steps, cfg.num_epochs, cfg.warmup_epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                images, labels = next(batches)
                counters += self.train_step(images, labels)
                progress.advance(min(cfg.batch_size, num_images - (step - 1) * cfg.batch_size))
                if step % cfg.print_freq == 0 or step == num_steps:
                    loss_sum, correct = self.distributed.sum(counters, self.device).tolist()  # waits for the device
                    loss = progress.report(loss_sum, correct, lr)
                    if not math.isfinite(loss):
                        raise FloatingPointError(f"the loss is {loss}; try a smaller lr, or prec_train fp32")

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Takes one optimizer step on a batch; returns its loss and its number of correct images, on the device."""
        # ---- loss and gradients, a micro-batch at a time ----
        step_weight = self.distributed.sum(self.loss.total_weight(labels), self.device)
        micro_batches = list(zip(images.split(self.micro_batch_size), labels.split(self.micro_batch_size), strict=True))
        counters = torch.zeros(2, device=self.device)
        for number, (x, y) in enumerate(micro_batches, 1):
            with self.distributed.no_sync(self.parallel, unless=number == len(micro_batches)):
                logits = self.parallel(x)
                loss = self.loss(logits, y).sum() / step_weight
                self.scaler.scale(loss * self.distributed.size).backward()  # the ranks' gradients are averaged
            counters += torch.stack([loss.detach(), (logits.argmax(1) == y).sum()])

        # ---- update ----
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return counters

    def _pick_micro_batch_size(self, images: int) -> int:
        """How many of its `images` of a step this process computes at once."""
        model = self.model.train()

        def loss_of(count: int) -> Tensor:
            side = self.resolution
            blank = torch.zeros(count, 3, side, side, dtype=torch.uint8, device=self.device)
            return self.loss(model(blank), torch.zeros(count, dtype=torch.int64, device=self.device)).sum()

        tensors = [*model.parameters(), *model.buffers()]
        gradient_bytes = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)  # and momentum
        return memory.pick_micro_batch_size(
            images, self.cfg.accum_step, loss_of, tensors, gradient_bytes, self.device, self.log.info
        )

    # ---- starting and resuming ----

    def _start(self) -> int:
        """Claims the run directory; returns the epoch to begin with.

        The results of an earlier run with these settings stay until this one is complete.
        """
        if self.distributed.is_main:
            self.run_dir.require_same_run(self.settings, self.fingerprints["test"], self.identity.absent)
            self.log.truncate(0)
            write_text(self.run_dir.config, self.cfg.dump())
        return 0

    def _resume(self, steps_per_epoch: int) -> int:
        """Continues an interrupted run of the same configuration; returns the epoch to begin with."""
        path = self.run_dir.progress
        progress = checkpoint.load_progress(path, self.model, self.optimizer, self.settings, self.identity.absent)
        self.seconds["train"] = progress["seconds"]
        self.scaler.load_state_dict(progress["scaler"])
        self.log.truncate(progress["epoch"] * steps_per_epoch)
        self.log.info(f"resuming after epoch {progress['epoch']}, from {path}")
        return progress["epoch"]

    def _save_progress(self) -> None:
        if self.distributed.is_main:
            about = {"epoch": self.epoch, "seconds": self.seconds["train"], "scaler": self.scaler.state_dict()}
            about["identity"] = self.settings
            checkpoint.save_progress(self.run_dir.progress, self.model, self.optimizer, about)

    # ---- testing ----

    def predict(self, split: str = "test") -> np.ndarray:
        """The logits of the images of a split, "train" or "test": float32 [n, C], in the order of its list.

        With test-time ensembling they are means over the crops.
        """
        return self.outputs(split, logits=True)

    def evaluate(self, split: str = "test") -> dict[str, Any]:
        """The scores of the model on a split: see utils/evaluators.py. Nothing is written."""
        return self.score(split, self.outputs(split))

    @torch.inference_mode()
    def features(self, split: str = "test") -> np.ndarray:
        """The image features that the head reads: float32 [n, K, D] of K test crops, in the order of the list."""
        images = self._prepare_test(split)
        shape = len(images), self.test_crops.count, self.model.tower.dim
        out = torch.zeros(shape, device=self.device)
        return self._infer(self.model, images, np.arange(len(images)), self.test_crops, out, _stack).cpu().numpy()

    @torch.inference_mode()
    def outputs(self, split: str, logits: bool | None = None) -> np.ndarray:
        """The logits, float32 [n, C], of the images of a split, or their predicted classes, int64 [n].

        logits: None = where they are saved, or read by an evaluator; classes take less memory.
        """
        images, start = self._prepare_test(split), time.perf_counter()
        if logits is None:
            logits = self.cfg.save_logits or need_logits(self.cfg.evaluators)
        shape = (len(images), len(self.data.classnames)) if logits else (len(images),)
        out = torch.zeros(shape, dtype=torch.float32 if logits else torch.int64, device=self.device)
        reduce = _mean_logits if logits else _classify
        outputs = self._infer(self.model, images, np.arange(len(images)), self.test_crops, out, reduce).cpu().numpy()
        self.seconds["test"] = time.perf_counter() - start
        self.images_per_second["test"] = None if self.features_cached else len(images) / self.seconds["test"]
        return outputs

    def score(self, split: str, outputs: np.ndarray) -> dict[str, Any]:
        """The scores of outputs of this split."""
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
        reduce: Callable[[nn.Module, Tensor], Tensor],
    ) -> Tensor:
        """Fills `out` [n, ...], zeros, with reduce(head, features [K, b, D]) of images[indices]; by all ranks."""
        rank, ranks, size = self.distributed.rank, self.distributed.size, max(self.cfg.batch_size, TEST_BATCH)
        steps = sequential_batches(indices[rank::ranks], size)
        batches = (batch for batch, _ in Loader(images, crops, steps, self.device, self.cfg.num_workers))
        key = functools.partial(self._feature_key, images, indices[rank::ranks], crops)
        sizes = [len(step) for step in steps]
        features, self.features_cached = cached_features(model, batches, sizes, crops.count, self.cache, key)
        with self.log.progress(len(indices), "testing") as bar:
            for batch, rows in zip(features, out[rank::ranks].split(size), strict=False):  # a rank may have none
                rows.copy_(reduce(model.head, batch))
                bar.update(batch.shape[1] * ranks)
            return self.distributed.sum(out, self.device)

    def _feature_key(self, images: ImageList, indices: np.ndarray, crops: AnyTestCrops) -> dict[str, Any]:
        """The key of cached features, beside the model: see models/features.py."""
        root = Path(__file__).parent
        return {
            "weights": self.weights_key,
            "images": images.images.digest(indices.tolist()),
            "exif_orientation": images.images.exif_orientation,
            "bit_depth": images.images.bit_depth,
            "crops": repr(crops),
            "environment": environment(self.device, self.distributed.size),
            "code": sha256_of_code(root / "models", root / "datasets"),
        }

    @torch.inference_mode()
    def _class_features(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """The bare backbone's features of some training images of each class, float32 [n, D], and labels int64 [n]."""
        images = self.data.train
        seed = self.cfg.seed if self.cfg.variant == "lift" else None  # LIFT takes random ones
        indices = images.some_of_each(len(self.data.classnames), self.cfg.classifier_init_images, seed)
        model = Model(backbone.image, nn.Identity(), *backbone.normalisation).to(self.device).eval()
        out = torch.zeros(len(indices), backbone.image.dim, device=self.device)
        features = self._infer(model, images, indices, centre_crop(self.test_crops), out, _mean_logits)
        return features, torch.from_numpy(images.labels[indices]).to(self.device)

    def write_results(self, scores: dict[str, Any], outputs: np.ndarray) -> dict[str, Any]:
        """Writes logits, where they are asked for, and the results file, and logs its table; returns its content."""
        # ---- content ----
        content = scores | self.about | {"seconds": self.seconds, "images_per_second": self.images_per_second}
        content["epochs"] = self.cfg.num_epochs if self.trainable else 0
        content["data"] = self.about["data"] | self._describe_tested()
        logits = self.run_dir.logits(self.mode) if self.cfg.save_logits else None
        content["logits"] = logits.name if logits else None
        if not self.mode.trains and self.trainable:  # its settings are those of the training, if these are known
            content |= self.record.training or {"unknown_training": True}
        elif self.cfg.model_dir and self.trainable:
            content["started_from"] = self.cfg.model_dir
        content["peak_memory_mb"] = memory.peak_mb(self.device)

        # ---- files ----
        if self.distributed.is_main:
            if logits:
                results.save_logits(logits, outputs, self.data.split(self.mode.split).labels, self._describe_logits())
            if self.trains:
                self.run_dir.forget_earlier(logits)
            results.write_json(self.run_dir.results(self.mode), content)
            if self.mode.trains:
                self.run_dir.progress.unlink(missing_ok=True)
            self.log.info(f"\n{results.table(content)}\nresults   {self.run_dir.results(self.mode)}")
        return content

    # ---- records of the run ----

    def _restore(self, path: Path) -> None:
        """Loads a checkpoint, to test it or to start from it. Raises CheckpointError or ModelError."""
        identity, computed, absent = self.identity
        if not self.mode.trains:  # computed as it was trained; a start may compute its tensors otherwise
            identity = identity | computed
            absent = absent | self.record.settings
        checkpoint.restore(self.model, path, identity, convert_upstream, absent)
        # a checkpoint of ours holds no positions, so training keeps to those that its options choose
        if self.mode.trains and entries_fingerprint(self.model) != self.identity.fits.get(checkpoint.ENTRIES):
            raise ModelError(
                f"{path} trains other entries than the options choose, so training cannot start from it; "
                "give the aft_seed, aft_ratio and aft_loc that it was trained with",
                kind="other_entries",
                path=path,
            )
        self.log.info(f"{'start' if self.mode.trains else 'testing':10}{path}")
        if not self.mode.trains:
            for key, (then, now) in build_differences(self.cfg, self.record).items():
                self.log.info(f"note      the run was trained with {key} {then}; this test takes {key} {now}")

    def _identify_training(self) -> dict[str, Any]:
        """The settings that identify a run, beside its options and its model."""
        files = {"prompt file": self.cfg.prompt_file, "start": self.source.checkpoint if self.mode.trains else None}
        same = {"precision": precision_name(self.train_dtype), "training images": self.fingerprints["train"]}
        return same | {name: sha256(Path(file)) for name, file in files.items() if file}

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
            "command": self.command,
        }

    def _log_banner(self, notes: set[str | None]) -> None:
        cfg, summary = self.cfg, [self.data.summary()]
        if cfg.classifier is None or (self.source.checkpoint is None and cfg.classifier_init == "semantic"):
            renamable = cfg.dataset == "folder"
            summary += prompt_notes(self.data.classnames, cfg.prompt, cfg.prompt_file, renamable)
        self.log.info(results.banner(self.about, "\n".join(summary), self.resolution, set(filter(None, notes))))

    def _describe_logits(self) -> dict[str, Any]:
        """The test that a file of logits records."""
        tested = {"fingerprint": self.fingerprints[self.mode.split], **self.about["test"]}
        return {key: value for key, value in tested.items() if value is not None}  # draws have no expand

    def _mode_for_logits(self) -> Mode:
        """The mode under whose names no other test's logits are replaced, or left unmarked beside its results."""
        if self.trains:
            return self.mode  # files of an earlier training run and its tests are replaced
        tested, path = self._describe_logits(), self.run_dir.logits(self.mode)
        if self.cfg.save_logits:
            return self.run_dir.mode_for_logits(self.mode, tested, self.data.split(self.mode.split).labels)
        there = results.logits_about(path)
        if there and "fingerprint" in there and not results.same_test(there, tested):
            self.log.info(f"note      {path} holds the logits of another test, and stays as it is")
        return self.mode

    def _list_trained_images(self) -> list[dict[str, Any]]:
        """The records of the images that the model is or was trained on: see datasets/overlap.py."""
        if not self.trainable or not self.distributed.is_main:
            return []
        if self.mode.trains:
            own, inherited = overlap.record(self.data.train, self.data.root), self.record.images
            return [own, *([] if not self.source.checkpoint else [overlap.UNKNOWN] if inherited is None else inherited)]
        if self.record.images:
            return self.record.images
        # of an older version, or of LIFT+: known if it is the list of this command
        same = results.same_images(self.record.fingerprints.get("train"), self.fingerprints["train"])
        return [overlap.record(self.data.train, self.data.root) if same else overlap.UNKNOWN]

    def _count_trained_on(self) -> int | None:
        """How many of the tested images the model was trained on; None where that is not known. Logs a warning if any.

        Computed by the main process, which alone reports it.
        """
        if not self.trainable or not self.distributed.is_main:
            return 0 if not self.trainable else None
        images, split = self.data.split(self.mode.split), self.mode.split
        tested, records = self.record.fingerprints.get("test"), self.trained_images
        own = self.mode.trains or results.same_images(tested, self.fingerprints["test"])
        if own and self.data.shares_images and split == "test":
            records = records[1:]  # the set is tested as it was published
        count = overlap.count_shared(images, self.data.root, records)
        if count and split == "test":
            self.log.info(
                f"warning   {count:,} of the {len(images):,} test images are training images of this run, "
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
            about["name"] = self.record.name  # the very images of the run, whatever they are called now
        listed = self.mode.images or (Path(cfg.test_list).stem if cfg.test_list and split == "test" else None)
        if listed:
            about["list"] = listed
        if self.trained_on is not None:
            about["trained_on"] = self.trained_on
        return about | {"groups": [cfg.many_threshold, cfg.few_threshold, cfg.shot_groups]}


# ---- from features [K, b, D] of K crops to outputs [b, ...] ----


def _stack(head: nn.Module, features: Tensor) -> Tensor:
    return features.transpose(0, 1)


def _mean_logits(head: nn.Module, features: Tensor) -> Tensor:
    return sum(head(crop) for crop in features) / len(features)


def _classify(head: nn.Module, features: Tensor) -> Tensor:
    return _mean_logits(head, features).argmax(1)


# ---- the command line ----


def train_and_test(trainer: Trainer) -> dict[str, Any]:
    """Trains, or continues an interrupted training, then tests; returns the content of the results file."""
    trainer.fit()
    return test(trainer)


def test(trainer: Trainer) -> dict[str, Any]:
    """Tests on the images of the mode; returns the content of the results file."""
    outputs = trainer.outputs(trainer.mode.split)
    return trainer.write_results(trainer.score(trainer.mode.split, outputs), outputs)


MODES: dict[str, Callable[[Trainer], dict[str, Any]]] = {
    "train": train_and_test,
    "test_only": test,
    "test_train": test,
}


def run(cfg: Config, command: str = "") -> dict[str, Any]:
    """Does what a command asks for; returns the content of the results file."""
    with Trainer(cfg, command) as trainer:
        return MODES[trainer.mode.name](trainer)
