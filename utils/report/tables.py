"""The head of a report: the trained model, its accuracies with their uncertainty, and the facts of its training."""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

from utils.config.schema import LOSSES, METHODS, loss_key
from utils.report import measures
from utils.report.source import GROUPS, Test
from utils.run.published import find_published, read_published
from utils.run.results import words
from utils.text import duration, rate, visible

LARGEST = 1e15  # of the numbers in results


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """An accuracy, percent; None if no class has test images. error: its standard error; low, high: its interval."""

    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A test in the table of accuracies, by the names in ACCURACIES."""

    name: str
    images: int
    accuracies: dict[str, Accuracy]
    is_shown: bool
    published: float | None
    source: str


def accuracies(test: Test) -> dict[str, Accuracy]:
    """The accuracies of a test with their uncertainty over test images."""
    recorded, classes = test.result.accuracy, test.classes
    error = measures.standard_error(int(classes.correct.sum()), int(classes.images.sum()))
    found = {"overall": Accuracy(recorded["overall"], error)}
    tested = classes.images > 0
    masks = {"mean_class": tested} | {name: tested & (classes.group == g) for g, name in enumerate(GROUPS)}
    for name, mask in masks.items():
        bounds = (
            measures.bootstrap_interval(classes.images[mask], classes.correct[mask]) if mask.any() else (None, None)
        )
        found[name] = Accuracy(recorded[name], None, *bounds)
    return found


def accuracy_rows(tests: list[Test], shown: Test) -> list[Row]:
    """A row for each test, with the published value if the run was trained and tested as in its paper."""
    values = read_published()
    return [
        Row(
            test.name,
            int(test.classes.images.sum()),
            accuracies(test),
            test is shown,
            *find_published(test.result, values),
        )
        for test in tests
    ]


# ---- the trained model ----


def method_of(test: Test) -> str:
    """The method or model of the command; if it names none, the name of the run directory."""
    given = re.findall(r" -m (\S+)", test.result.command)
    return given[-1] if given else test.result.run


def title_of(test: Test) -> str:
    """The method and the data set."""
    return f"{method_of(test)} on {test.result.data}"


def subtitle(test: Test) -> str:
    """The backbone, the size of the data, and the test."""
    classes = test.classes
    return (
        f"{test.result.backbone}, {classes.train.sum():,} training images in {len(classes):,} classes; "
        f"tested on {classes.images.sum():,} images, {test.name}"
    )


def more_scores(test: Test) -> list[tuple[str, str]]:
    """The other scores of the results file, in words."""
    scores = _numbers(_of(test.content, "more"))
    return [(visible(name.replace("_", " ")), f"{value:.2f}") for name, value in scores.items()]


def fine_tuning(settings: Mapping[str, Any]) -> str:
    """The trained modules, in words."""
    if settings.get("zero_shot"):
        return "none: zero-shot, from texts of the class names"
    towers = {"v.": "image tower", "l.": "text tower", "": "head"}
    found = []
    for prefix, tower in towers.items():
        names = [name for name in METHODS if settings.get(prefix + name) is True]
        found += [f"{', '.join(names)} in the {tower}"] if names else []
    if classifier := settings.get("classifier"):
        found.append(f"{classifier} (initialised as {settings.get('classifier_init') or 'random'})")
    return "; ".join(found) or "none"


def facts(test: Test) -> list[tuple[str, str]]:
    """Terms and texts about data, model, training and machine; facts that the file does not record are left out."""
    content, classes, settings = test.content, test.classes, test.result.settings
    counts = classes.train
    found = [
        (
            "Data",
            f"{test.result.data}: {counts.sum():,} training images in {len(classes):,} classes "
            f"of {counts.max():,} to {counts.min():,}",
        ),
        ("Tested on", f"{classes.images.sum():,} images: {test.name}"),
        ("Backbone", f"{test.result.backbone} ({test.result.weights or 'weights not recorded'})"),
        ("Fine-tuning", fine_tuning(settings)),
        ("Loss", _loss(content.get("epochs", 0), settings)),
        ("Optimisation", _optimisation(content, settings)),
        ("Checkpoint", _kept(content)),
        ("Started from", str(content.get("started_from") or "")),
        ("Parameters", _parameters(content)),
        ("Time", _time(content)),
        ("Device", _device(content)),
        ("Seed", str(content.get("seed", ""))),
        ("Finished", time.strftime("%Y-%m-%d %H:%M", time.localtime(test.finished))),
        ("Versions", _versions(content)),
    ]
    return [(term, visible(text)) for term, text in found if text]


def _of(content: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """A section of results; {} if it is missing or not a section."""
    found = content.get(section)
    return found if isinstance(found, dict) else {}


def _numbers(section: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a section, without NaN and implausibly large ones."""
    return {key: value for key, value in section.items() if isinstance(value, (int, float)) and abs(value) < LARGEST}


def _loss(epochs: int, settings: Mapping[str, Any]) -> str:
    if not epochs:
        return ""
    loss = str(settings.get("loss_type") or "")
    keys = [loss_key(loss, option) for option in LOSSES[loss].options] if loss in LOSSES else []
    return ", ".join([loss, *(f"{key} {settings[key]}" for key in keys if key in settings)])


def _optimisation(content: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if not content.get("epochs"):
        return ""
    keys = {"batch_size": "batch size", "lr": "learning rate", "schedule": "schedule", "weight_decay": "weight decay"}
    parts = [f"{words} {settings[key]}" for key, words in keys.items() if settings.get(key) is not None]
    return ", ".join([f"{content['epochs']} epochs", str(settings.get("optimizer") or ""), *parts])


def _kept(content: Mapping[str, Any]) -> str:
    """The epoch chosen by keep best, in words; blank for the last one."""
    kept = _of(content, "kept")
    if not {"epoch", "score"} <= kept.keys() or "value" not in _numbers(kept):
        return ""
    score, value = words(str(kept["score"])), kept["value"]
    return f"epoch {kept['epoch']}, the best by {score}: {value:.2f} on the validation images"


def _parameters(content: Mapping[str, Any]) -> str:
    params = _numbers(_of(content, "params"))
    if not {"trained", "total", "peft", "head"} <= params.keys():
        return ""
    return (
        f"{params['trained']:,} of {params['total']:,} trainable: "
        f"{params['peft']:,} in the backbone, {params['head']:,} in the head"
    )


def _time(content: Mapping[str, Any]) -> str:
    seconds, speeds = (_numbers(_of(content, section)) for section in ("seconds", "images_per_second"))
    titles = {"train": "training", "test": "testing"}
    return "; ".join(
        f"{title} {duration(seconds[key])}" + (f" ({rate(speeds[key])})" if speeds.get(key) else "")
        for key, title in titles.items()
        if seconds.get(key)
    )


def _device(content: Mapping[str, Any]) -> str:
    if not content.get("device"):
        return ""
    processes, test = content.get("processes", 1), _of(content, "test")
    memory = _numbers(content).get("peak_memory_mb")
    return ", ".join(
        [
            str(content["device"]),
            *([f"{processes} processes"] if processes != 1 else []),
            *([f"tested in {test['precision']}"] if "precision" in test else []),
            *([f"at most {memory:,.0f} MB of memory"] if memory else []),
        ]
    )


def _versions(content: Mapping[str, Any]) -> str:
    versions = _of(content, "versions")
    shown = {"lift_plus": "LIFT+"} | {name: name for name in ("python", "torch", "timm", "numpy")}
    return ", ".join(f"{title} {versions[name]}" for name, title in shown.items() if name in versions)
