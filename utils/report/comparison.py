"""The page that compares runs: accuracies, differences from the first run with sign tests, and differing settings."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.predictions import Predictions
from utils.report import charts, measures, page, tables
from utils.report.source import GROUPS, Run, Test
from utils.run.record import ACCURACIES
from utils.run.results import same_images
from utils.text import listed, shortened, visible

SCRIPTS = ("charts.js", "table.js", "comparison.js")
MOST_RUNS = 12
SETTINGS = 60  # maximal number of differing settings that are shown
CLASS_NAMES = {"mean_class": "all classes", **{name: f"{name}-shot classes" for name in GROUPS}}


@dataclasses.dataclass(frozen=True)
class SignTest:
    """How often the other run and how often the first is better, and the two-sided p-value."""

    wins: int
    losses: int
    p: float

    @classmethod
    def of(cls, wins: int, losses: int) -> "SignTest":
        """The sign test of these numbers."""
        return cls(wins, losses, float(measures.sign_test(np.array(wins), np.array(losses))))


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of a run from the first one.

    accuracies: differences in points, by the names in ACCURACIES; None if one of both is undefined. images: the sign
    test over all images, None if they are not paired. classes: those over classes, by group; "mean_class" is all.
    class_wins, class_losses, class_p: of each class, over its images; [] if these are not paired.
    """

    name: str
    accuracies: dict[str, float | None]
    images: SignTest | None
    classes: dict[str, SignTest]
    class_wins: list[int]
    class_losses: list[int]
    class_p: list[float]


def compare(runs: Sequence[Run]) -> str:
    """The page that compares runs, each by its own test. Raises a DataError for runs of different classes."""
    tests = [run.main for run in runs]
    require_comparable(tests)
    names, first = _names(runs), tests[0]
    unpaired = why_unpaired(tests)
    predictions = [None if unpaired else test.predictions() for test in tests]
    differences = [
        difference(name, (first, test), (predictions[0], found))
        for name, test, found in zip(names[1:], tests[1:], predictions[1:], strict=True)
    ]
    rows = [dataclasses.replace(tables.accuracy_rows([t], t)[0], name=n) for n, t in zip(names, tests, strict=True)]
    data: charts.Json = {
        "runs": names,
        "classes": charts.class_columns(first.classes, None),
        "accuracies": [charts.class_columns(test.classes, None)["accuracy"] for test in tests],
        "differences": [
            {"wins": d.class_wins, "losses": d.class_losses, "p": charts.rounded(d.class_p, 5)} for d in differences
        ],
        "groups": [
            {name: [a.value, a.low, a.high] for name, a in row.accuracies.items() if a.value is not None}
            for row in rows
        ],
    }
    return page.render(
        "comparison.html",
        SCRIPTS,
        data,
        title=f"{len(runs)} runs on {visible(first.result.data)}",
        names=names,
        titles=ACCURACIES,
        class_names=CLASS_NAMES,
        rows=rows,
        methods=[visible(tables.method_of(test)) for test in tests],
        commands=[visible(test.result.command) for test in tests],
        any_published=any(row.published is not None for row in rows),
        differences=differences,
        unpaired=unpaired,
        warnings=[sentence for sentence in (unpaired, other_groups(names, tests)) if sentence],
        settings=differing_settings(tests),
        notes=[note for run in runs for note in run.notes],
    )


def require_comparable(tests: Sequence[Test]) -> None:
    """Raises a DataError for too many or too few runs, and for runs of different classes."""
    if not 2 <= len(tests) <= MOST_RUNS:
        raise DataError(f"{len(tests)} runs; 2 to {MOST_RUNS} can be compared on a page", kind="number_of_runs")
    first = tests[0]
    for test in tests[1:]:
        if test.classes.names != first.classes.names:
            message = (
                f"{first.path} has {len(first.classes):,} classes of {first.result.data} and {test.path} has "
                f"{len(test.classes):,} others of {test.result.data}; compare runs of the same classes"
            )
            raise DataError(message, kind="other_classes", path=test.path)


def why_unpaired(tests: Sequence[Test]) -> str:
    """The reason why the tests cannot be compared image by image; blank if they can."""
    first = tests[0]
    for test in tests[1:]:
        if not (first.images and same_images(first.images, test.images)):
            return f"{test.path} is of other test images than {first.path}, so nothing is compared image by image."
    for test in tests:
        try:
            test.predictions()
        except DataError as error:
            return f"Nothing is compared image by image: {error}."
    return ""


def other_groups(names: Sequence[str], tests: Sequence[Test]) -> str:
    """A sentence about runs with other shot groups than the first; blank if there are none."""
    first = tests[0].classes.group
    other = [name for name, test in zip(names, tests, strict=True) if not np.array_equal(test.classes.group, first)]
    if not other:
        return ""
    return (
        f"The shot groups of {listed(other)} have other classes than those of {names[0]}, because the numbers of "
        "training images differ: many, medium and few are not of the same classes."
    )


def difference(
    name: str, tests: tuple[Test, Test], predictions: tuple[Predictions | None, Predictions | None]
) -> Difference:
    """The difference of a run from the first one. tests, predictions: (first, other); None if they are not paired."""
    first, other = tests
    accuracies = {key: _change(first.result.accuracy[key], other.result.accuracy[key]) for key in ACCURACIES}

    # ---- over images ----
    size, paired = len(first.classes), None not in predictions
    wins, losses = np.zeros(size, np.int64), np.zeros(size, np.int64)
    if predictions[0] is not None and predictions[1] is not None:
        labels = predictions[0].labels
        before, after = (found.predicted == labels for found in predictions if found is not None)
        wins = np.bincount(labels[after & ~before], minlength=size)
        losses = np.bincount(labels[before & ~after], minlength=size)

    # ---- over classes ----
    tested = (first.classes.images > 0) & (other.classes.images > 0)
    shares = [test.classes.correct / np.maximum(test.classes.images, 1) for test in tests]
    better, worse = shares[1] > shares[0], shares[1] < shares[0]
    masks = {"mean_class": tested} | {group: tested & (first.classes.group == g) for g, group in enumerate(GROUPS)}
    return Difference(
        name=name,
        accuracies=accuracies,
        images=SignTest.of(int(wins.sum()), int(losses.sum())) if paired else None,
        classes={key: SignTest.of(int((better & m).sum()), int((worse & m).sum())) for key, m in masks.items()},
        class_wins=wins.tolist() if paired else [],
        class_losses=losses.tolist() if paired else [],
        class_p=measures.sign_test(wins, losses).tolist() if paired else [],
    )


def _change(before: float | None, after: float | None) -> float | None:
    """The difference of two accuracies; None if one of them is undefined."""
    return None if before is None or after is None else after - before


def differing_settings(tests: Sequence[Test]) -> list[tuple[str, list[str]]]:
    """The differing options of training, and their values in each run."""
    settings = [{"backbone": t.result.backbone, "seed": t.result.seed} | t.result.settings for t in tests]
    keys = dict.fromkeys(key for each in settings for key in each)
    found = []
    for key in keys:
        values = [shortened(visible(str(each.get(key, "–"))), 40) for each in settings]
        if len(set(values)) > 1:
            found.append((visible(str(key)), values))
    return found[:SETTINGS]


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the run directories, with as many parents as needed to distinguish them."""
    paths = [Path(os.path.abspath(run.directory.path)).parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return [shortened(visible(name), 80) for name in names]
    return [f"{shortened(visible(parts[-1]), 76)} ({number})" for number, parts in enumerate(paths, 1)]
