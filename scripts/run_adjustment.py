"""Fits and writes the adjustment of a run, for scripts/adjust.py."""

import argparse
import csv
import dataclasses
import functools
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from run_images import WORDS, build_run_data, own_images, pick_device, with_options
from scipy.special import log_softmax
from tqdm import tqdm

from datasets.long_tail import shot_groups
from models.heads.classifiers import LinearClassifier
from models.losses import build_loss
from models.predictor import Predictor, build_predictor
from utils import posthoc, terminal
from utils.adjustment import CHECKPOINT, LARGEST, Adjustment, read_adjustment, write_adjustment
from utils.errors import CheckpointError, ConfigError, DataError, ModelError, UserError
from utils.evaluators import ClassInfo, evaluate
from utils.files import read_limited, write_errors
from utils.metrics import expected_calibration_error
from utils.run import results
from utils.run.directory import RunDir
from utils.run.mode import Mode
from utils.run.results import same_images
from utils.run.saved import read_run
from utils.text import shortened

PRIOR_BYTES = 10_000_000
SMALLEST_NORM = 1e-12  # of a row of the head
LARGEST_SHARE = 1e100  # so that sums are finite


class Images(NamedTuple):
    """Images with their logits, float32 [n, C], and labels, int64 [n]. split: of the run; None of another file.

    zero_shot: the logits of the zero-shot model, where they are needed.
    """

    split: str | None
    logits: np.ndarray
    labels: np.ndarray
    zero_shot: np.ndarray | None = None

    @property
    def words(self) -> str:
        """The images in words."""
        return f"{len(self.labels):,} {WORDS.get(self.split or '', 'other')} images"


class Run:
    """A run that is adjusted: its records, and its logits, from its files or computed."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.saved = read_run(args.run)
        self.directory = RunDir(args.run)
        self.record = self.directory.training_record(self.saved.checkpoint)
        self.cfg = with_options(self.saved.cfg, args)
        if not self.saved.counts:
            message = (
                f"{args.run} does not record its class counts; test it once with test_only True model_dir {args.run}"
            )
            raise CheckpointError(message, kind="unrecorded_run", path=args.run)

    @property
    def counts(self) -> np.ndarray:
        """Training images of each class, int64 [C]."""
        return np.array(self.saved.counts, np.int64)

    @functools.cached_property
    def classes(self) -> ClassInfo:
        """The classes with their shot groups."""
        groups = shot_groups(self.counts, self.cfg.many_threshold, self.cfg.few_threshold)
        if recorded := self.saved.shot_groups:
            groups = {name: np.array([group == name for group in recorded]) for name in groups}
        return ClassInfo(self.saved.classnames, self.counts, groups)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The model of the run."""
        return build_predictor(self.cfg, self.saved, pick_device(self.args), num_workers=self.cfg.num_workers)

    # ---- logits ----

    def images(self, split: str, with_zero_shot: bool) -> Images:
        """The images of a split; logits from the run's files, where they are of its checkpoint. Raises UserErrors."""
        found = None if with_zero_shot else self._saved_logits(split)
        if found is not None:
            return found
        data = build_run_data(self.cfg, with_validation=split == "val")
        images = own_images(data, split, self.record.fingerprints)
        if split == "val" and same_images(images.fingerprint(data.root), data.test.fingerprint(data.root)):
            message = f"the validation images of {data.name} are its test images, and fitting on these is refused"
            raise ConfigError(message, kind="fits_on_test")
        zero_shot = None
        if with_zero_shot:
            zero_shot = self._compute(self._zero_shot(), images.images, split)
        return Images(split, self._compute(self.predictor, images.images, split), images.labels, zero_shot)

    def _zero_shot(self) -> Predictor:
        """CLIP alone. Raises ModelError."""
        try:
            return self.predictor.zero_shot()
        except ModelError as error:
            if error.kind != "no_text_tower":
                raise
            message = f"--gla adds zero-shot CLIP, and {self.cfg.backbone} has no text tower; leave --gla out"
            raise ModelError(message, kind="no_text_tower") from error

    def _compute(self, predictor: Predictor, images: Any, split: str) -> np.ndarray:
        with tqdm(total=len(images), desc=WORDS[split], leave=False, file=terminal.BARS, disable=None) as bar:
            return predictor.logits(images, bar.update, terminal.say)

    def _saved_logits(self, split: str) -> Images | None:
        """The images in the run's own file of logits; None where there is none of its checkpoint and its images."""
        mode = Mode(trains=False, split=split)
        path = self.directory.logits(mode)
        writers = [results.read(self.directory.results(each)) for each in (mode, Mode())]
        written = [content for content in writers if content.get("logits") == path.name]
        about = results.logits_about(path)
        if not (written and about and "fingerprint" in about):
            return None
        same = same_images(about["fingerprint"], self.record.fingerprints.get(split, about["fingerprint"]))
        if written[0].get("checkpoint") != self.saved.checksum or not same:
            return None
        return read_logits(path, len(self.saved.classnames), split)

    def given_images(self, path: Path) -> Images:
        """The images in a file of logits that is given by hand. Raises ConfigError for test images."""
        about = results.logits_about(path)
        if about is None or "fingerprint" not in about:
            message = f"{path} is not a file of logits that records its images; write one with save_logits True"
            raise ConfigError(message, kind="not_logits", path=path)
        self.require_not_test(about["fingerprint"], path)
        split = next(
            (s for s in ("train", "val") if same_images(about["fingerprint"], self.record.fingerprints.get(s))), None
        )
        return read_logits(path, len(self.saved.classnames), split)

    def require_not_test(self, fingerprint: str, path: Path) -> None:
        """Raises a ConfigError for the test images of the run, and where these are not known. path: of the logits."""
        tested = self.record.fingerprints.get("test")
        if tested is None:
            message = f"{self.args.run} does not record its test images, so others cannot be told from them: give --on"
            raise ConfigError(message, kind="unknown_test_images", path=path)
        if same_images(fingerprint, tested):
            message = f"{path} has the test images of the run, and fitting on these is refused; fit on others: --on"
            raise ConfigError(message, kind="fits_on_test", path=path)

    # ---- priors ----

    def log_source(self) -> tuple[np.ndarray, str]:
        """The log of the prior for which the softmax of the run's model stands, [C], and what it follows from.

        See docs/after_training.md.
        """
        if given := self.args.source:
            return self.log_prior(given), given
        if self.cfg.zero_shot:
            return uniform(len(self.counts)), "uniform, as that of zero-shot CLIP is not known"
        counts = torch.from_numpy(self.counts)
        log_prior = build_loss(self.cfg, counts).softmax_log_prior(counts).numpy()
        return log_softmax(log_prior), f"that of its loss, {self.cfg.loss_type}"

    def log_prior(self, name: str) -> np.ndarray:
        """The log of a prior, [C]: uniform, training, or of a file. Raises ConfigError or DataError."""
        if name == "uniform":
            return uniform(len(self.counts))
        if name == "training":
            return posthoc.training_log_prior(self.counts)
        return posthoc.log_prior(read_prior(Path(name), self.saved.classnames))


def uniform(num_classes: int) -> np.ndarray:
    """The log of the uniform prior, [C]."""
    return np.full(num_classes, -np.log(num_classes))


def read_logits(path: Path, num_classes: int, split: str | None) -> Images:
    """Logits and labels of a file that `results.logits_about` accepts. Raises DataError for others."""
    try:
        with np.load(path) as file:
            logits, labels = file["logits"], file["labels"]
        fits = logits.ndim == 2 and logits.shape == (len(labels), num_classes) and labels.ndim == 1 and len(labels)
        if not (fits and logits.dtype == np.float32 and labels.dtype == np.int64 and np.isfinite(logits).all()):
            raise ValueError("other shapes")
        if not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError("other classes")
    except (OSError, ValueError, KeyError, EOFError, MemoryError) as error:
        message = (
            f"{path} is damaged, or its logits are not of {num_classes:,} classes; write it again (save_logits True)"
        )
        raise DataError(message, kind="damaged_logits", path=path) from error
    return Images(split, logits, labels)


def read_prior(path: Path, classnames: Sequence[str]) -> np.ndarray:
    """The shares or counts in a file, float64 [C]: a line for each class, its name or number and a value >= 0.

    A first line whose value is not a number is a header. Raises DataError.
    """
    try:
        text = read_limited(path, PRIOR_BYTES, shell_pipe=True).decode("utf-8-sig")
        rows = [(line, row) for line, row in enumerate(csv.reader(io.StringIO(text)), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not CSV in UTF-8"
        message = f"{path} cannot be read as a class prior ({reason}); --target takes uniform, training or a CSV file"
        raise DataError(message, kind="unreadable_prior", path=path) from error
    if rows and len(rows[0][1]) == 2 and not _is_number(rows[0][1][1]):
        del rows[0]

    # names first, as a class may be called "3"
    numbers = {str(number): number for number in range(len(classnames))}
    times = Counter(classnames)
    numbers |= {name: number for number, name in enumerate(classnames) if times[name] == 1}
    values = np.full(len(classnames), np.nan)
    for line, row in rows:
        label, value = (numbers.get(row[0].strip()), _share(row[1])) if len(row) == 2 else (None, None)
        if label is None or value is None or not np.isnan(values[label]):
            message = (
                f"{path}, line {line}: '{shortened(','.join(row))}' is not CLASS,SHARE of another class; a line has "
                "the name or the number of a class, and a number of at least 0"
            )
            raise DataError(message, kind="wrong_prior", path=path, line=line)
        values[label] = value
    if np.isnan(values).any():
        name = classnames[int(np.isnan(values).argmax())]
        message = f"{path} has no line for class '{shortened(name)}'; a prior takes a line for each class"
        raise DataError(message, kind="incomplete_prior", path=path)
    if not values.sum():
        raise DataError(f"{path} has zeros only; give a share above 0", kind="wrong_prior", path=path)
    return values


def _share(text: str) -> float | None:
    """A share or a count; None for other texts."""
    value = float(text) if _is_number(text) else math.nan
    return value if 0 <= value < LARGEST_SHARE else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- fitting ----


@dataclasses.dataclass
class Fit:
    """An adjustment that is being put together.

    log_prior: of the classes, [C], for which its probabilities stand. chosen: the numbers that were chosen, for its
    record. lines: the same in words.
    """

    adjustment: Adjustment
    log_prior: np.ndarray
    chosen: dict[str, Any]
    lines: list[str]


def fit(run: Run, images: Images) -> Fit:
    """The adjustment that the options ask for. Raises UserErrors."""
    args = run.args
    if args.tau is not None:
        found = _fit_tau(run, images)
    elif args.tau_norm is not None:
        found = _fit_tau_norm(run, images)
    elif args.target or args.gla:
        found = _fit_prior(run, images)
    else:
        found = Fit(Adjustment(), run.log_source()[0], {}, [])
    if args.temperature is not None:
        _fit_temperature(found, images, args.temperature)
    vectors = [vector for vector in (found.adjustment.scale, found.adjustment.bias) if vector is not None]
    if not all((np.abs(vector) < LARGEST).all() for vector in vectors):
        raise ConfigError("the adjusted logits leave the range of float32; choose a smaller tau", kind="too_large")
    return found


def _fit_tau(run: Run, images: Images) -> Fit:
    """z - tau log pi (Menon et al. 2021, arXiv 2007.07314, equation 9)."""
    log_pi = posthoc.training_log_prior(run.counts)

    def shifted(tau: float) -> Adjustment:
        return Adjustment(bias=-tau * log_pi)

    tau, lines = _chosen(run.args.tau, posthoc.TAUS, lambda tau: shifted(tau).apply(images.logits), images)
    return Fit(shifted(tau), log_softmax(run.log_source()[0] - tau * log_pi), {"tau": tau}, lines)


def _fit_tau_norm(run: Run, images: Images) -> Fit:
    """<w_c, f> / |w_c|^tau, without the bias (Kang et al. 2020, arXiv 1910.09217, section 4.2). It aims at classes that
    count equally. Raises ModelError for a head that is not linear.
    """
    if run.cfg.classifier != "LinearClassifier":
        name = run.cfg.classifier or "the similarity to texts"
        message = f"--tau-norm takes the length out of a linear head's weights, and the head is {name}; leave it out"
        raise ModelError(message, kind="head_is_not_linear", key="classifier")
    head = cast(LinearClassifier, run.predictor.model.head)
    norms = np.maximum(head.weight.detach().double().norm(dim=1).cpu().numpy(), SMALLEST_NORM)
    offset = head.bias.detach().double().cpu().numpy()

    def normalised(tau: float) -> Adjustment:
        scale = norms**-tau
        return Adjustment(scale=scale, bias=-offset * scale)

    tau, lines = _chosen(run.args.tau_norm, posthoc.NORM_TAUS, lambda tau: normalised(tau).apply(images.logits), images)
    return Fit(normalised(tau), uniform(len(norms)), {"tau_norm": tau}, lines)


def _chosen(
    given: float | str, taus: np.ndarray, adjusted: Callable[[float], np.ndarray], images: Images
) -> tuple[float, list[str]]:
    """The given number, or the best of a sweep; and a line about it."""
    if given != "sweep":
        return float(given), [f"tau       {given:g}, as given"]
    tau, curve = posthoc.sweep(taus, adjusted, images.labels)
    best = max(accuracy for _, accuracy in curve)
    return tau, [f"tau       {tau:g}, of {len(taus)} the best for mean class accuracy ({best:.2f} % of {images.words})"]


def _fit_prior(run: Run, images: Images) -> Fit:
    """z + log target - log source, and with GLA z_zs - log q beside it."""
    (log_source, source), target = run.log_source(), run.args.target or "uniform"
    log_prior = run.log_prior(target)
    bias, chosen = log_prior - log_source, {"source": source, "target": target}
    lines = [f"prior     from {source}, to {target}"]
    if run.args.gla:
        # zero-shot CLIP itself has the one set of logits
        log_q = posthoc.fit_label_bias(images.logits if images.zero_shot is None else images.zero_shot, images.labels)
        bias, chosen["log_q"] = bias - log_q, log_q.tolist()
        most, least = (run.saved.classnames[number] for number in (log_q.argmax(), log_q.argmin()))
        low, high = np.exp([log_q.min(), log_q.max()])
        lines.append(f"label bias of zero-shot CLIP: {low:.3g} ({shortened(least)}) to {high:.3g} ({shortened(most)})")
    return Fit(Adjustment(bias=bias, zero_shot=images.zero_shot is not None), log_prior, chosen, lines)


def _fit_temperature(found: Fit, images: Images, given: float | str) -> None:
    """Adds a temperature, fitted to images that are weighted to the class prior of the adjusted model."""
    adjusted = found.adjustment.apply(images.logits, images.zero_shot)
    weights = posthoc.class_weights(images.labels, found.log_prior)
    temperature = posthoc.fit_temperature(adjusted, images.labels, weights) if given == "fit" else float(given)
    found.adjustment = dataclasses.replace(found.adjustment, temperature=temperature)
    found.chosen["temperature"] = temperature
    how = f"of the lowest NLL on {images.words}" if given == "fit" else "as given"
    found.lines.append(f"temperature {temperature:.4g}, {how}")


# ---- showing ----

HEADER = ("images", "", "overall", "mean class", "many", "medium", "few", "NLL", "ECE")


def table(run: Run, found: Fit, sets: Sequence[Images]) -> str:
    """The scores before and after, in Markdown; accuracies and ECE in percent.

    NLL and ECE of the fitting images, the first ones, are weighted to the class prior of the adjusted model.
    """
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|" + "---:|" * (len(HEADER) - 2)]
    for images in sets:
        weights = None if images.split == "test" else posthoc.class_weights(images.labels, found.log_prior)
        for word, adjustment in (("before", Adjustment()), ("after", found.adjustment)):
            logits = adjustment.scaled(images.logits, images.zero_shot)
            accuracy = evaluate((), logits, images.labels, run.classes)["accuracy"]
            numbers = ["-" if value is None else f"{value:.2f}" for value in accuracy.values()]
            numbers.append(f"{posthoc.nll(logits, images.labels, weights):.4f}")
            numbers.append(f"{expected_calibration_error(logits, images.labels, weights=weights):.2f}")
            lines.append("| " + " | ".join([images.words, word, *numbers]) + " |")
    lines.append(f"NLL and ECE of the {sets[0].words} are weighted to the class shares of the adjusted model's prior.")
    return "\n".join(lines)


# ---- the commands ----


def adjust(args: argparse.Namespace) -> None:
    """Fits, shows, and writes the adjustment of a run. Raises UserErrors."""
    run = Run(args)
    with_zero_shot = args.gla and not run.cfg.zero_shot
    if args.logits and with_zero_shot:
        message = "--gla computes the logits of zero-shot CLIP for the fitting images, so it takes --on, not --logits"
        raise ConfigError(message, kind="logits_with_gla", path=args.logits)
    split = args.on or ("val" if "val" in run.record.fingerprints else "train")
    images = run.given_images(args.logits) if args.logits else run.images(split, with_zero_shot)
    found = fit(run, images)
    for line in found.lines:
        terminal.say(line)
    if images.split == "train":
        terminal.say(
            "note      the model was trained on these images, so it is right and sure more often than on new ones, and "
            "a fitted temperature is too low; validation images (val_fraction 0.1) fit better"
        )

    # everything is chosen: now the test images
    sets = [images]
    try:
        sets.append(run.images("test", with_zero_shot))
    except UserError as error:
        terminal.say(f"note      the test images are left out: {error}")
    terminal.say(table(run, found, sets))
    if args.dry_run:
        terminal.say("nothing was written (--dry-run)")
        return
    about = found.chosen | {"images": images.words, "fingerprint": run.record.fingerprints.get(images.split or "")}
    about[CHECKPOINT] = run.saved.checksum
    write_adjustment(run.directory.adjustment, dataclasses.replace(found.adjustment, about=about))
    terminal.say(f"written   {run.directory.adjustment}; predictions and exports use it (--reset removes it)")


def show(directory: Path) -> None:
    """Prints the adjustment of a run. Raises CheckpointError."""
    saved = read_run(directory)
    path = RunDir(directory).adjustment
    found = read_adjustment(path, len(saved.classnames), saved.checksum)
    if found.is_identity:
        terminal.say(f"{directory} has no adjustment; --help lists the ways to make one")
        return
    chosen = {key: value for key, value in found.about.items() if key not in (CHECKPOINT, "fingerprint", "log_q")}
    terminal.say(f"{path}\n" + "\n".join(f"{key:12}{shortened(str(value))}" for key, value in chosen.items()))


def reset(directory: Path) -> None:
    """Removes the adjustment of a run. Raises CheckpointError where there is no run."""
    path = RunDir(directory).adjustment
    if not directory.is_dir():
        message = f"{directory} is not a folder; give the run directory of a training, as output/NAME"
        raise CheckpointError(message, kind="no_run", path=directory)
    was_there = os.path.lexists(path)
    with write_errors(path):
        path.unlink(missing_ok=True)
    terminal.say(f"removed   {path}" if was_there else f"{directory} has no adjustment")
