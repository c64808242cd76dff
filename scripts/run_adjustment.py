"""Fits and writes the adjustment of a run, for scripts/adjust.py."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from class_priors import model_log_prior, named_log_prior, uniform
from run_logits import Images, Run
from scipy.special import log_softmax

from models.heads.classifiers import LinearClassifier
from utils import posthoc, terminal
from utils.adjustment import CHECKPOINT, LARGEST, Adjustment, read_adjustment, write_adjustment
from utils.errors import CheckpointError, ConfigError, ModelError, UserError
from utils.evaluators import evaluate
from utils.files import write_errors
from utils.metrics import expected_calibration_error
from utils.run.directory import RunDir
from utils.run.saved import read_run
from utils.text import shortened

SMALLEST_NORM = 1e-12  # of a row of the head


# ---- fitting ----


@dataclasses.dataclass
class Fit:
    """An adjustment under construction.

    log_prior: of the classes, [C], in its probabilities. chosen: the numbers that were chosen, for its
    record. lines: the same in words.
    """

    adjustment: Adjustment
    log_prior: np.ndarray
    chosen: dict[str, Any]
    lines: list[str]


def needs_images(args: argparse.Namespace) -> bool:
    """Whether any number is to be chosen from images."""
    return args.gla or "sweep" in (args.tau, args.tau_norm) or args.temperature == "fit"


def fit(run: Run, images: Images | None) -> Fit:
    """The adjustment that the options describe. images: see `needs_images`. Raises UserErrors."""
    args = run.args
    if args.tau is not None:
        found = _fit_tau(run, images)
    elif args.tau_norm is not None:
        found = _fit_tau_norm(run, images)
    elif args.target or args.gla:
        found = _fit_prior(run, images)
    else:
        found = Fit(Adjustment(), _log_source(run)[0], {}, [])
    if args.temperature is not None:
        _fit_temperature(found, images, args.temperature)
    vectors = [vector for vector in (found.adjustment.scale, found.adjustment.bias) if vector is not None]
    if not all((np.abs(vector) < LARGEST).all() for vector in vectors):
        raise ConfigError("the adjusted logits exceed the range of float32; choose a smaller tau", kind="too_large")
    return found


def _log_source(run: Run) -> tuple[np.ndarray, str]:
    """The log of the prior of the run's model, [C], and its origin in words: --source, or its loss."""
    if given := run.args.source:
        return named_log_prior(given, run.counts, run.saved.classnames), given
    return model_log_prior(run.cfg, run.counts)


def _fit_tau(run: Run, images: Images | None) -> Fit:
    """z - tau log pi (Menon et al. 2021, arXiv 2007.07314, equation 9)."""
    log_pi = posthoc.training_log_prior(run.counts)

    def shifted(tau: float) -> Adjustment:
        return Adjustment(bias=-tau * log_pi)

    tau, lines = _chosen(run.args.tau, posthoc.TAUS, shifted, images)
    return Fit(shifted(tau), log_softmax(_log_source(run)[0] - tau * log_pi), {"tau": tau}, lines)


def _fit_tau_norm(run: Run, images: Images | None) -> Fit:
    """<w_c, f> / |w_c|^tau, without the bias (Kang et al. 2020, arXiv 1910.09217, section 4.2), for a uniform prior.

    Raises ModelError for a head that is not linear.
    """
    if run.cfg.classifier != "LinearClassifier":
        name = run.cfg.classifier or "the similarity to texts"
        message = f"--tau-norm rescales the weights of a linear head, and the head is {name}; leave it out"
        raise ModelError(message, kind="head_is_not_linear", key="classifier")
    head = cast(LinearClassifier, run.predictor.model.head)
    norms = np.maximum(head.weight.detach().double().norm(dim=1).cpu().numpy(), SMALLEST_NORM)
    offset = head.bias.detach().double().cpu().numpy()

    def normalised(tau: float) -> Adjustment:
        scale = norms**-tau
        return Adjustment(scale=scale, bias=-offset * scale)

    tau, lines = _chosen(run.args.tau_norm, posthoc.NORM_TAUS, normalised, images)
    return Fit(normalised(tau), uniform(len(norms)), {"tau_norm": tau}, lines)


def _chosen(
    given: float | str, taus: np.ndarray, adjustment_of: Callable[[float], Adjustment], images: Images | None
) -> tuple[float, list[str]]:
    """The number of the option, or the best of a sweep; and a line about it."""
    if given != "sweep" or images is None:
        return float(given), [f"tau       {given:g}, from the option"]
    tau, curve = posthoc.sweep(taus, lambda tau: adjustment_of(tau).apply(images.logits), images.labels)
    best = max(accuracy for _, accuracy in curve)
    return tau, [f"tau       {tau:g}, best of {len(taus)} by mean class accuracy ({best:.2f} % of {images.words})"]


def _fit_prior(run: Run, images: Images | None) -> Fit:
    """z + log target - log source; GLA adds z_zs - log q."""
    (log_source, source), target = _log_source(run), run.args.target or "uniform"
    log_prior = named_log_prior(target, run.counts, run.saved.classnames)
    bias, chosen = log_prior - log_source, {"source": source, "target": target}
    lines = [f"prior     from {source}, to {target}"]
    zero_shot = None if images is None else images.zero_shot
    if run.args.gla and images is not None:
        # zero-shot CLIP itself has only one set of logits
        log_q = posthoc.fit_label_bias(images.logits if zero_shot is None else zero_shot, images.labels)
        bias, chosen["log_q"] = bias - log_q, log_q.tolist()
        most, least = (run.saved.classnames[number] for number in (log_q.argmax(), log_q.argmin()))
        low, high = np.exp([log_q.min(), log_q.max()])
        lines.append(f"label bias of zero-shot CLIP: {low:.3g} ({shortened(least)}) to {high:.3g} ({shortened(most)})")
    return Fit(Adjustment(bias=bias, zero_shot=zero_shot is not None), log_prior, chosen, lines)


def _fit_temperature(found: Fit, images: Images | None, given: float | str) -> None:
    """Adds a temperature, fitted to images weighted to the class prior of the adjusted model."""
    if given != "fit" or images is None:
        temperature, how = float(given), "from the option"
    else:
        adjusted = found.adjustment.apply(images.logits, images.zero_shot)
        weights = posthoc.class_weights(images.labels, found.log_prior)
        temperature = posthoc.fit_temperature(adjusted, images.labels, weights)
        how = f"with the lowest NLL on {images.words}"
    found.adjustment = dataclasses.replace(found.adjustment, temperature=temperature)
    found.chosen["temperature"] = temperature
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
    if sets[0].split != "test":
        lines.append(
            f"NLL and ECE of the {sets[0].words} are weighted to the class shares of the adjusted model's prior."
        )
    return "\n".join(lines)


# ---- the commands ----


def adjust(args: argparse.Namespace) -> None:
    """Fits, shows, and writes the adjustment of a run. Raises UserErrors."""
    run = Run(args)
    with_zero_shot = args.gla and not run.cfg.zero_shot
    if args.logits and with_zero_shot:
        message = "--gla computes the logits of zero-shot CLIP for the fitting images; replace --logits by --on"
        raise ConfigError(message, kind="logits_with_gla", path=args.logits)
    split = args.on or ("val" if "val" in run.record.fingerprints else "train")
    images = run.given_images(args.logits) if args.logits else None
    if images is None and (args.on or needs_images(args)):
        images = run.images(split, with_zero_shot)
    found = fit(run, images)
    for line in found.lines:
        terminal.say(line)
    if images is not None and images.split == "train" and not run.cfg.zero_shot:
        terminal.say(
            "note      the model was trained on these images, so it is more often correct and more confident than on "
            "new ones, and a fitted temperature is too low; validation images (val_fraction 0.1) are better"
        )

    # test images are read only after all numbers are chosen
    sets = [] if images is None else [images]
    try:
        sets.append(run.images("test", with_zero_shot))
    except UserError as error:
        terminal.say(f"note      the test images are left out: {error}")
    if sets:
        terminal.say(table(run, found, sets))
    if args.dry_run:
        terminal.say("nothing was written (--dry-run)")
        return
    about = found.chosen | {CHECKPOINT: run.saved.checksum}
    if images is not None:
        about |= {"images": images.words, "fingerprint": run.record.fingerprints.get(images.split or "")}
    write_adjustment(run.directory.adjustment, dataclasses.replace(found.adjustment, about=about))
    terminal.say(f"written   {run.directory.adjustment}; predictions and exports use it (--reset removes it)")


def show(directory: Path) -> None:
    """Prints the adjustment of a run. Raises CheckpointError."""
    saved = read_run(directory)
    path = RunDir(directory).adjustment
    found = read_adjustment(path, len(saved.classnames), saved.checksum)
    if found.is_identity:
        terminal.say(f"{directory} has no adjustment; --help lists the ways to fit one")
        return
    chosen = {key: value for key, value in found.about.items() if key not in (CHECKPOINT, "fingerprint", "log_q")}
    words = [f"{value:.4g}" if isinstance(value, float) else shortened(str(value)) for value in chosen.values()]
    terminal.say("\n".join([str(path), *(f"{key:12}{word}" for key, word in zip(chosen, words, strict=True))]))


def reset(directory: Path) -> None:
    """Removes the adjustment of a run. Raises CheckpointError if there is no run."""
    path = RunDir(directory).adjustment
    if not directory.is_dir():
        message = f"{directory} is not a folder; name the run directory of a training, as output/NAME"
        raise CheckpointError(message, kind="no_run", path=directory)
    was_there = os.path.lexists(path)
    with write_errors(path):
        path.unlink(missing_ok=True)
    terminal.say(f"removed   {path}" if was_there else f"{directory} has no adjustment")
