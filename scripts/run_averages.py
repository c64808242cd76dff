"""Averages of runs for scripts/average.py: WiSE-FT, uniform and greedy soups, and their run directory."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from run_images import count_trained_on, load_model, own_images, with_options
from torch import Tensor

from datasets import build_data, overlap
from models import Model, build_backbone, build_model, described_values
from models.earlier_run import take_tensors
from trainer import Trainer
from utils import terminal
from utils.config import Config, changed, completed
from utils.errors import CheckpointError, DataError
from utils.evaluators import ClassInfo, evaluate
from utils.files import atomic_folder, sha256, write_text
from utils.run import averaging, checkpoint
from utils.run.directory import RunDir
from utils.run.saved import SavedRun, read_run

INITS_FROM_IMAGES = ("class_mean", "linear_probing")


class Source(NamedTuple):
    """A run, and its checkpoint's tensors and `about`."""

    run: SavedRun
    path: Path
    tensors: Mapping[str, Tensor]
    about: dict[str, Any]


class Average(NamedTuple):
    """The tensors of an average, the weight of each source, and the way of averaging in words."""

    tensors: Mapping[str, Tensor]
    weights: list[float]
    how: str


def read_source(directory: Path) -> Source:
    """A run to average. Raises CheckpointError."""
    run = read_run(directory)
    if run.checkpoint is None or run.checkpoint.suffix == checkpoint.UPSTREAM:
        what = "zero-shot CLIP, which trains nothing" if run.checkpoint is None else "a file of LIFT or LIFT+"
        message = f"{directory} has {what}; choose runs trained by this program"
        raise CheckpointError(message, kind="no_tensors", path=directory)
    tensors, _ = checkpoint.load(run.checkpoint)
    checkpoint.require_finite(tensors, run.checkpoint)
    older = {"classnames": run.classnames, "shot_groups": run.shot_groups, "trained_on": [overlap.UNKNOWN]}
    about = older | checkpoint.describe(run.checkpoint)
    return Source(run, run.checkpoint, tensors, about)


def require_alike(sources: list[Source]) -> None:
    """Raises a CheckpointError that names the first difference."""
    first, *others = sources
    for other in others:
        paths = first.path, other.path
        averaging.require_alike(first.about, other.about, paths)
        averaging.require_same_shapes(first.tensors, other.tensors, paths)


def write(out: Path, average: Average, sources: list[Source]) -> None:
    """Writes the run directory atomically. Raises WriteError."""
    names = [source.run.directory.resolve().name for source in sources]
    about = averaging.describe_average([source.about for source in sources], average.weights, average.how, names)
    with atomic_folder(out) as folder:
        partial = RunDir(folder)
        write_text(partial.config, changed(sources[0].run.cfg, {"output_dir": str(out)}).dump())
        checkpoint.save(partial.checkpoint, average.tensors, about)


# ---- WiSE-FT ----


def wise_ft(source: Source, args: argparse.Namespace) -> Average:
    """The average of a run's start, 1 - alpha, and its end, alpha. Raises UserErrors."""
    start, words = _start_of(source, args)
    averaging.require_same_shapes(source.tensors, start, (source.path, Path("its start")))
    terminal.say(f"start     {words}")
    tensors = averaging.average([start, source.tensors], [1 - args.alpha, args.alpha])
    return Average(tensors, [args.alpha], f"WiSE-FT, alpha {args.alpha:g}")


def _start_of(source: Source, args: argparse.Namespace) -> tuple[Mapping[str, Tensor], str]:
    """The run's trainable parameters before its first step, and a description."""
    if averaging.AVERAGED in source.about:
        message = f"{source.path} is an average, which has no start; choose a run that was trained"
        raise CheckpointError(message, kind="no_start", path=source.path)
    training = source.about.get("training", {})
    earlier, settings = training.get("started_from"), training.get("settings", {})
    words = f"{earlier}, from which the run started, not zero-shot CLIP"
    if earlier and checkpoint.INIT not in settings:
        path = RunDir(Path(earlier)).checkpoint
        _require_start(source, path, path.is_file() and sha256(path) == settings.get("start"))
        return checkpoint.load(path)[0], words

    cfg = with_options(source.run.cfg, args)
    model = _first_model(cfg, source.run.classnames)
    if earlier:
        run = read_run(Path(earlier))
        _require_start(source, Path(earlier), run.checksum == settings[checkpoint.INIT])
        take_tensors(model, run, source.run.classnames, source.about)
    elif cfg.classifier is not None and cfg.classifier_init != "semantic":
        words = f"a head of classifier_init {cfg.classifier_init}, not zero-shot CLIP"
    else:
        words = "zero-shot CLIP"
    return {name: tensor.detach().cpu() for name, tensor in checkpoint.saved_tensors(model).items()}, words


def _require_start(source: Source, path: Path, is_there: bool) -> None:
    """Raises a CheckpointError if the checkpoint from which a training started is missing or has changed."""
    if not is_there:
        message = f"{source.path} started from {path}, which is missing or has changed; restore it from a copy"
        raise CheckpointError(message, kind="no_start", path=path)


def _first_model(cfg: Config, classnames: list[str]) -> Model:
    """The model before the first step. Only a head that starts from training images needs the data set."""
    if cfg.classifier is None or cfg.classifier_init not in INITS_FROM_IMAGES:
        cfg = completed(cfg, described_values(cfg))
        return build_model(cfg, build_backbone(cfg)[0], classnames)
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = {"output_dir": folder, "model_dir": None, "init_from": None, "compile": "never", "accum_step": 1}
        with Trainer(changed(cfg, elsewhere), "scripts/average.py") as trainer:
            return trainer.model


# ---- soups ----


def soup(sources: list[Source], args: argparse.Namespace) -> Average:
    """The mean of runs, or of the chosen ones with --greedy. Raises UserErrors."""
    count = len(sources)
    chosen = _choose(sources, args) if args.greedy else list(range(count))
    weights = [1 / len(chosen) if number in chosen else 0.0 for number in range(count)]
    for source, weight in zip(sources, weights, strict=True):
        terminal.say(f"weight    {weight:.3f}  {source.run.directory}")
    tensors = averaging.average([source.tensors for source in sources], weights)
    return Average(
        tensors, weights, f"greedy soup of {len(chosen)} of {count} runs" if args.greedy else f"soup of {count} runs"
    )


def _choose(sources: list[Source], args: argparse.Namespace) -> list[int]:
    """The indices of the sources in the greedy soup. Raises DataError without a validation set."""
    first = sources[0]
    cfg = with_options(first.run.cfg, args)
    fingerprints = RunDir(first.run.directory).training_record(first.path).fingerprints
    data = build_data(cfg, validation=True)
    images = own_images(data, "val", fingerprints)
    for source in sources:
        if count := count_trained_on(images, data, source.about["trained_on"]):
            message = (
                f"{source.run.directory} was trained on {count:,} of the {len(images):,} validation images of "
                f"{first.run.directory}, which would favour it; choose runs with the same validation images"
            )
            raise DataError(message, kind="validation_was_trained_on", path=source.run.directory)
    predictor = load_model(cfg, first.run, args)
    classes = ClassInfo(first.run.classnames, data.class_counts, data.groups)

    def score(tensors: Mapping[str, Tensor], members: list[int]) -> float:
        checkpoint.copy_into(checkpoint.saved_tensors(predictor.model), dict(tensors), first.path)
        predictor.model.eval()  # recomputes cached text features
        logits = predictor.logits(images.images)
        found = evaluate((), logits, images.labels, classes)["accuracy"][args.score]
        names = " + ".join(str(sources[number].run.directory) for number in members)
        terminal.say(f"score     {found:.2f} % ({args.score.replace('_', ' ')}, validation)  {names}")
        return found

    return averaging.greedy([source.tensors for source in sources], score)
