"""Starts a model from an earlier run, which may have had other classes or sizes: `init_from RUN`.

Tensors of equal names and shapes are copied. The head's rows are copied by class name; those of new classes keep the
values of classifier_init.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.heads.classifiers import Head
from models.model import Model
from models.peft.aft import Entries
from utils.errors import ModelError
from utils.run import checkpoint
from utils.run.saved import SavedRun
from utils.text import listed


@dataclasses.dataclass
class Taken:
    """The tensors of an earlier run that were copied into a model.

    names: tensors copied whole. rows: classes whose rows of the head were copied; new: classes without such rows.
    reasons: {name of a tensor of the model that was not copied: why}. unused: tensors that the model does not have.
    """

    names: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    new: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: list[str] = dataclasses.field(default_factory=list)


@torch.no_grad()
def take_tensors(model: Model, run: SavedRun, classnames: Sequence[str], fits: dict[str, Any]) -> Taken:
    """Copies the tensors of the checkpoint of `run` that fit into `model`, in place.

    classnames, fits: of the model (models/identity.py). Raises CheckpointError, and ModelError where nothing fits.
    """
    if run.checkpoint is None or run.checkpoint.suffix == checkpoint.UPSTREAM:
        message = f"init_from needs a training run of this program, and {run.directory} is not one; choose another"
        raise ModelError(message, kind="not_a_start", path=run.directory, key="init_from")
    tensors, about = checkpoint.load(run.checkpoint)
    checkpoint.require_finite(tensors, run.checkpoint)
    targets, taken = checkpoint.saved_tensors(model), Taken()
    taken.unused = sorted(tensors.keys() - targets.keys())

    # ---- the head's rows, by class name ----
    if isinstance(model.head, Head):
        rows = _matching_rows(run.classnames, classnames)
        for name in [f"head.{name}" for name, _ in model.head.named_parameters()]:
            target, found = targets.pop(name), tensors.get(name)
            if found is None or len(found) != len(run.classnames) or found.shape[1:] != target.shape[1:]:
                taken.reasons[name] = "another head" if found is None else _shapes(found, target)
                continue
            target[list(rows)] = found[list(rows.values())].to(target)
            taken.rows = len(rows)
        taken.new = [name for c, name in enumerate(classnames) if not taken.rows or c not in rows]

    # ---- tensors of equal names and shapes ----
    same_entries = about.get(checkpoint.ENTRIES) == fits.get(checkpoint.ENTRIES)
    of_entries = {f"{name}.values" for name, module in model.named_modules() if isinstance(module, Entries)}
    for name, target in targets.items():
        found = tensors.get(name)
        if found is None:
            taken.reasons[name] = "not there"
        elif found.shape != target.shape:
            taken.reasons[name] = _shapes(found, target)
        elif name in of_entries and not same_entries:
            taken.reasons[name] = "other entries"
        else:
            target.copy_(found)
            taken.names.append(name)
    if not (taken.names or taken.rows):
        message = f"no tensor of {run.checkpoint} fits this model; choose the method and backbone of that run"
        raise ModelError(message, kind="not_a_start", path=run.checkpoint, key="init_from")
    return taken


def _shapes(found: Tensor, target: Tensor) -> str:
    return f"{list(found.shape)} there, {list(target.shape)} here"


def _matching_rows(earlier: Sequence[str], now: Sequence[str]) -> dict[int, int]:
    """{class now: class of the same name earlier}. The k-th class of a repeated name is the k-th one earlier."""
    rows = {name: row for row, name in enumerate(_numbered(earlier))}
    return {row: rows[name] for row, name in enumerate(_numbered(now)) if name in rows}


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with the number of its earlier occurrences."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def describe(taken: Taken, run: SavedRun, weights: str, init: str | None) -> list[str]:
    """Lines for a log. weights: SHA-256 of the backbone's weights; init: the classifier_init of new rows."""
    rows = f", and the head's rows of {taken.rows:,} classes" if taken.rows else ""
    lines = [f"start     from {run.checkpoint}: {len(taken.names):,} tensors{rows}"]
    if taken.rows and taken.new:
        lines.append(f"          new classes, which start as classifier_init {init}: {listed(taken.new)}")
    if taken.reasons:
        reasons = listed(f"{name} ({reason})" for name, reason in taken.reasons.items())
        lines.append(f"          tensors of the model that keep their initial values: {reasons}")
    if taken.unused:
        lines.append(f"          tensors of that run that are not used: {listed(taken.unused)}")
    if run.settings.get("weights") != weights:
        lines.append("warning   that run was trained on other backbone weights, so its tensors may not fit these")
    return lines
