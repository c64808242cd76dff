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

from datasets import build_data, overlap
from datasets.base import ImageList
from datasets.loading.crops import AnyTestCrops, build_test_crops, build_train_crop, centre_crop
from datasets.loading.loader import TEST_BATCH, Loader, TrainSteps, in_order, workers_note
from models import (
    Model,
    build_backbone,
    build_model,
    convert_upstream,
    count_parameters,
    entries_fingerprint,
    precision,
    prompt_notes,
)
from models import compile as compilation
from models.losses import build_loss
from utils.cache import FeatureCache
from utils.config import Config, training_options
from utils.config.schema import KEYS
from utils.device import memory, runtime
from utils.device.distributed import World
from utils.errors import ModelError
from utils.files import sha256
from utils.metrics import score
from utils.run import checkpoint, results
from utils.run.log import RunLog
from utils.schedule import cosine_lr

LIFT_HARMONIC_FLOOR = 1e-3  # percent: LIFT raises a class's accuracy to this in the harmonic mean


class Trainer:
    """Trains and tests what `cfg` describes, in the run directory cfg.output_dir."""

    def __init__(self, cfg: Config, command: str = ""):
        self.cfg, self.command = cfg, command
        self.testing, self.split = cfg.test_only or cfg.test_train, "train" if cfg.test_train else "test"
        self.run_dir, self.world = Path(cfg.output_dir), World()
        self.origin, self.list_name, self.ways, self.trained_images = {}, cfg.test_name, {}, []  # see find_run
        self.name_files()
        self.seconds, self.rates = {"train": 0.0, "test": 0.0}, {"train": None, "test": None}

    def run(self) -> dict:
        """The whole run; returns the content of its results file."""
        self.device = runtime.pick_device(self.cfg.gpu, self.world)
        with self.world.joined(self.device):
            with self.world.main_first():
                self.data = build_data(self.cfg)
            self.lists = self.data.fingerprints()  # once: contents are read from the disk
            trained = self.find_run() if self.testing or self.cfg.model_dir else None  # to test, or to start from
            with RunLog(self.run_dir, self.files.log.name, speaks=self.world.main) as self.log:
                self.build(trained)
                self.settle_files()
                if trained and self.trained:
                    self.restore(trained)
                self.trained_on = self.count_trained_on()
                if self.trained and not self.testing:
                    self.fit()
                elif not self.testing:
                    self.start_anew()
                return self.report(self.evaluate())

    # ---- build ----

    def build(self, trained: Path | None) -> None:
        """Everything but the tensors of `trained`, the checkpoint that the model will take over."""
        cfg, data = self.cfg, self.data
        self.log.info(f"$ {self.command}")
        self.train_dtype, train_note = runtime.pick_precision(cfg.prec_train, self.device)
        self.test_dtype, test_note = runtime.pick_precision(cfg.prec_test, self.device)
        if cfg.deterministic:
            runtime.make_deterministic()
        with self.world.main_first():
            backbone, loaded = build_backbone(cfg)
        self.resolution = backbone.image.resolution
        crops = self.crops = build_test_crops(cfg, self.resolution)
        runtime.prepare_cpu(sum(p.numel() for p in backbone.image.parameters()))
        backbone.to(self.device)
        weights = {"name": loaded.name, "sha256": loaded.sha256, "published": loaded.published}
        computed = f"{weights['sha256']} {backbone.geometry}"  # activation and heads are not in the file
        self.cache = FeatureCache(cfg.feature_cache, computed, self.world, self.log.info)
        features = functools.partial(self.class_features, backbone)
        self.model = build_model(cfg, backbone, data.classnames, features, start=trained is None).to(self.device)
        self.frozen = precision.FrozenWeights(self.model, self.train_dtype, self.test_dtype)
        params = count_parameters(self.model)
        self.trained = params["trained"] > 0
        # what a checkpoint fits, and what makes a run the same run
        self.identity = {"backbone": cfg.backbone, "weights": weights["sha256"], "classes": data.classes_fingerprint}
        described = {"mean": list(backbone.mean), "std": list(backbone.std)}
        of_towers = ("activation", "heads", "text_heads")
        described |= {key: getattr(backbone.geometry, key) for key in of_towers}
        self.identity |= described
        self.computed = {key: cfg[key] for key in ("classifier", "classifier_scale", "coop_cls_pos")}
        # files of earlier versions do not record these: their towers had one activation, and heads of one width
        usual = {key: getattr(backbone.geometry.usual, key) for key in of_towers}
        self.absent = described | self.computed | usual
        if (entries := entries_fingerprint(self.model)) is not None:
            self.identity["aft entries"] = entries
        same = {"precision": runtime.name_of(self.train_dtype), "training images": self.lists["train"]}
        files = {"prompt file": cfg.prompt_file, "start": None if self.testing else trained}
        files = {name: sha256(Path(file)) for name, file in files.items() if file}
        self.settings = training_options(cfg) | self.identity | same | files
        self.about = {
            "params": params,
            "seed": cfg.seed,
            "data": {"name": data.name, "split": self.split, "fingerprint": self.lists},
            "test": {"crops": crops.count, "expand": crops.expand, "precision": runtime.name_of(self.test_dtype)}
            | self.test_options(),
            "settings": self.settings,
            "weights": weights,
            **runtime.environment(self.device, self.world),
            "command": self.command,
        }
        notes = {test_note} if self.testing or not self.trained else {train_note, test_note}
        notes |= {*loaded.notes, workers_note(cfg.num_workers)}
        summary = [data.summary()]
        if cfg.classifier is None or (trained is None and cfg.classifier_init == "semantic"):
            renamable = cfg.dataset == "folder"
            summary += prompt_notes(data.classnames, cfg.prompt, cfg.prompt_file, renamable)
        self.log.info(results.introduction(self.about, "\n".join(summary), self.resolution, notes - {None}))

    def test_options(self) -> dict:
        """What a test computes beside its crops: recorded, as it may be other than in the training that it tests."""
        cfg = self.cfg
        options = {key: cfg[key] for key in results.WAYS if cfg[key] is not None}
        return options | ({"draws": cfg.tte_draws, "seed": cfg.seed} if cfg.tte and cfg.tte_draws else {})

    @torch.inference_mode()
    def class_features(self, backbone: torch.nn.Module) -> tuple[Tensor, Tensor]:
        """The bare backbone's features of some training images of each class, float32 [n, D], and labels int64 [n]."""
        images = self.data.train
        seed = self.cfg.seed if self.cfg.variant == "lift" else None  # LIFT takes random ones
        indices = images.some_of_each(len(self.data.classnames), self.cfg.classifier_init_images, seed)
        model = Model(backbone.image, torch.nn.Identity(), backbone.mean, backbone.std).to(self.device).eval()
        centre = centre_crop(self.crops)
        out = torch.zeros(len(indices), backbone.image.dim, device=self.device)
        features = self.infer(model, images, indices, centre, out)
        return features, torch.from_numpy(images.labels[indices]).to(self.device)

    def restore(self, trained: Path) -> None:
        """Takes over a checkpoint, to test it or to start from it."""
        identity, absent = self.identity, self.absent
        if self.testing:  # as it was trained; a start may compute its tensors otherwise
            identity = identity | self.computed
            absent = absent | results.trained_as(trained.parent).get("settings", {})
        checkpoint.restore(self.model, trained, identity, convert_upstream, absent)
        # a checkpoint of ours holds no places, so training keeps to those that its options choose
        if not self.testing and entries_fingerprint(self.model) != self.identity.get("aft entries"):
            raise ModelError(
                f"{trained} trains other entries than the options choose, so training cannot start from it; "
                "give the aft_seed, aft_ratio and aft_loc that it was trained with"
            )
        self.log.info(f"{'testing' if self.testing else 'start':10}{trained}")
        for key, (then, now) in self.ways.items():
            self.log.info(f"note      the run was trained with {key} {then}; this test takes {key} {now}")

    def other_ways(self, settings: dict, seed: int | None) -> dict:
        """{key: (its value in training, now)} of what a test computes otherwise than the training that it tests.

        settings, seed: of that training; {} and None where there are no results of it.
        """
        then = {key: settings.get(key, KEYS[key].default) for key in results.WAYS if settings}
        if self.cfg.tte and self.cfg.tte_draws and seed is not None:
            then["seed"] = seed  # of the random crops
        return {key: (value, self.cfg[key]) for key, value in then.items() if value != self.cfg[key]}

    # ---- training ----

    def fit(self) -> None:
        cfg, data, ranks = self.cfg, self.data.train, self.world.size
        tensors = checkpoint.trained_tensors(self.model).values()
        self.optimizer = torch.optim.SGD(tensors, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.train_dtype == torch.float16)
        self.loss = build_loss(cfg, torch.from_numpy(self.data.class_counts)).to(self.device)
        self.frozen.cast(self.train_dtype)
        share, images = math.ceil(cfg.batch_size / ranks), cfg.num_epochs * len(data) // ranks  # of this process
        self.part = self.pick_micro_batch_size(share)
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
            about = self.identity | self.computed | self.about_training_images()
            checkpoint.save(self.run_dir / checkpoint.CHECKPOINT, checkpoint.saved_tensors(self.model), about)

    def pick_micro_batch_size(self, images: int) -> int:
        """How many of its `images` of a step this process computes at once."""
        model, device = self.model.train(), self.device

        def loss_of(count: int) -> Tensor:
            blank = torch.zeros(count, 3, self.resolution, self.resolution, dtype=torch.uint8, device=device)
            return self.loss(model(blank), torch.zeros(count, dtype=torch.int64, device=device)).sum()

        tensors = [*model.parameters(), *model.buffers()]
        gradient_bytes = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)  # and momentum
        accum_step = self.cfg.accum_step
        return memory.pick_micro_batch_size(images, accum_step, loss_of, tensors, gradient_bytes, device, self.log.info)

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
        progress = checkpoint.load_progress(path, self.model, self.optimizer, self.settings, self.absent)
        self.seconds["train"] = progress["seconds"]
        self.scaler.load_state_dict(progress["scaler"])
        self.log.rewind(progress["epoch"] * steps_per_epoch)
        self.log.info(f"going on after epoch {progress['epoch']}, from {path}")
        return progress["epoch"]

    def start_anew(self) -> None:
        """Writes down the configuration. What an earlier run of these settings left stays until this one has ended."""
        if not self.world.main:
            return
        test_images = self.lists["test"]
        checkpoint.require_same_run(self.run_dir, self.settings, test_images, self.absent)
        self.log.rewind(0)
        (self.run_dir / "config.yaml").write_text(self.cfg.dump(), encoding="utf-8")

    def save_progress(self, epoch: int) -> None:
        about = {"epoch": epoch, "seconds": self.seconds["train"], "scaler": self.scaler.state_dict()}
        if self.world.main:
            path = self.run_dir / checkpoint.PROGRESS
            checkpoint.save_progress(path, self.model, self.optimizer, about | {"identity": self.settings})

    # ---- testing ----

    def infer(self, model: Model, images: ImageList, indices: np.ndarray, crops: AnyTestCrops, out: Tensor) -> Tensor:
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
            results.save_logits(self.files.logits, outputs, split.labels, self.tested)
        predictions = outputs.argmax(1) if saves else outputs
        floor = LIFT_HARMONIC_FLOOR if self.cfg.variant == "lift" else 0.0
        return score(split.labels, predictions, self.data.classnames, self.data.class_counts, self.data.groups, floor)

    def report(self, scores: dict) -> dict:
        """Writes the results file and shows its table."""
        content = scores | self.about | {"seconds": self.seconds, "images_per_second": self.rates}
        content["epochs"] = self.cfg.num_epochs if self.trained else 0
        content["data"] = self.about["data"] | self.about_tested()
        content["logits"] = self.files.logits.name if self.cfg.save_logits else None
        if self.testing and self.trained:  # its settings are those of the training, if these are known
            trained_as = results.trained_as(Path(self.cfg.model_dir or self.run_dir))
            content |= trained_as or {"unknown_training": True}
        elif self.cfg.model_dir and self.trained:
            content["started_from"] = self.cfg.model_dir
        content["peak_memory_mb"] = memory.peak_mb(self.device)
        if not self.world.main:
            return content
        if self.trained and not self.testing:
            for old in (*self.run_dir.glob("results_*.json"), *self.run_dir.glob("logits_*.npz")):
                if old.name != content["logits"]:
                    old.unlink()  # of an earlier run and its tests
        results.write_json(self.files.results, content)
        if not self.testing:
            (self.run_dir / checkpoint.PROGRESS).unlink(missing_ok=True)
        self.log.info(f"\n{results.table(content)}\nresults   {self.files.results}")
        return content

    # ---- the images of a test, and those of the training run ----

    def name_files(self) -> None:
        """The files of this run: `what` is tested is in their names."""
        cfg = self.cfg
        crops = (cfg.test_train, cfg.tte, cfg.tte_crops, cfg.tte_draws)
        ways = [f"{key}_{now}" for key, (_, now) in self.ways.items()]
        self.files = results.run_files(self.run_dir, *crops, testing=self.testing, name=self.list_name, ways=ways)
        self.what = self.files.word

    def find_run(self) -> Path | None:
        """The checkpoint to test or to start from, None for zero-shot CLIP.

        For a test, finds the images that its run was trained and tested on: a test of others gets files of its own.
        Raises a ConfigError if those files hold a test of yet others.
        """
        cfg, data, source = self.cfg, self.data, Path(self.cfg.model_dir or self.run_dir)
        path = None if cfg.zero_shot else checkpoint.find(source)
        if not self.testing:
            return path
        about = checkpoint.describe(path) if path else {}
        self.trained_images = about.get("trained_on", [])
        self.origin = results.training_record(source, about)
        fingerprint = self.lists[self.split]
        own = self.origin or results.first_test(self.run_dir, self.split)
        if cfg.zero_shot and own.get("name", data.name) != data.name:
            own = {}  # its shot groups are those of another data set, whatever the tested images
            self.list_name = cfg.test_name or data.name
        else:
            list_file = cfg.train_list if cfg.test_train else cfg.test_list
            self.list_name = results.list_name(cfg.test_name, list_file, data.name, fingerprint, own, self.split)
        trained_as = results.trained_as(source)
        self.ways = self.other_ways(trained_as.get("settings", {}), trained_as.get("seed"))
        self.name_files()
        self.files.require_free(fingerprint)
        if path and self.origin:
            self.data = data.counted_as(self.origin["counts"], self.origin["name"])
        return path

    def settle_files(self) -> None:
        """Logits of a test never replace those of another one, nor lie unmarked beside its results."""
        split = self.lists[self.split]
        tested = {"fingerprint": split, **self.about["test"]}
        self.tested = {key: value for key, value in tested.items() if value is not None}  # draws have no expand
        if self.trained and not self.testing:
            return  # what an earlier training run and its tests left is replaced
        if self.cfg.save_logits:
            self.files.require_free(split)
            self.files = self.files.apart(self.tested, getattr(self.data, self.split).labels)
            return
        there = results.logits_about(self.files.logits)
        if there and "fingerprint" in there and not results.same_test(there, self.tested):
            self.log.info(f"note      {self.files.logits} holds the logits of another test, and stays as it is")

    def count_trained_on(self) -> int | None:
        """How many of the tested images the model was trained on; None where that is not known. One line if any.

        Computed by the main process, which alone reports it.
        """
        data, images = self.data, getattr(self.data, self.split)
        if not self.trained or not self.world.main:
            return 0 if not self.trained else None
        lists, known = self.lists, self.origin.get("fingerprint", {})
        if not self.testing:
            self.trained_images = [overlap.record(data.train, data.root), *self.inherited_images()]
        elif not self.trained_images:  # of an older version, or of LIFT+: known if it is the list of this command
            same = results.same_images(known.get("train"), lists["train"])
            self.trained_images = [overlap.record(data.train, data.root) if same else overlap.UNKNOWN]
        records = self.trained_images
        own = not self.testing or results.same_images(known.get("test"), lists["test"])
        if own and data.shares_images and self.split == "test":
            records = records[1:]  # the set is tested as it was published
        count = overlap.count_shared(images, data.root, records)
        if count and self.split == "test":
            self.log.info(
                f"warning   {count:,} of the {len(images):,} test images are training images of this run, "
                "so the accuracy is not that on new images"
            )
        return count

    def about_training_images(self) -> dict:
        """What a checkpoint says of the images of its run; see results.training_record and datasets/overlap.py."""
        data = {"name": self.data.name, "fingerprint": self.lists}
        return {"data": data | {"counts": self.data.class_counts.tolist()}, "trained_on": self.trained_images}

    def inherited_images(self) -> list[dict]:
        """The training images of the run that this training starts from."""
        if not self.cfg.model_dir:
            return []
        about = checkpoint.describe(checkpoint.find(Path(self.cfg.model_dir)))
        return about.get("trained_on", [overlap.UNKNOWN])

    def about_tested(self) -> dict:
        """What the results say of the tested images: the list's name, how many were trained on, the groups' borders."""
        cfg, about = self.cfg, {}
        known, tested = self.origin.get("fingerprint", {}).get("test"), self.lists["test"]
        if self.trained and self.split == "test" and results.same_images(known, tested):
            about["name"] = self.origin["name"]  # the very images of the run, whatever they are called now
        listed = self.list_name or (Path(cfg.test_list).stem if cfg.test_list and self.split == "test" else None)
        if listed:
            about["list"] = listed
        if self.trained_on is not None:
            about["trained_on"] = self.trained_on
        return about | {"groups": [cfg.many_threshold, cfg.few_threshold, cfg.shot_groups]}
