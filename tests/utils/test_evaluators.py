"""Evaluators against scikit-learn, scipy and a loop over bins; shot groups at their borders."""

import json

import numpy as np
import pytest
from helpers import refused
from scipy import special, stats
from sklearn import metrics

from datasets.base import shot_groups
from trainer import run
from utils.config import load_config
from utils.config.schema import KEYS
from utils.errors import ConfigError
from utils.evaluators import EVALUATORS, ClassInfo, evaluate, need_logits
from utils.metrics import top_k_accuracy
from utils.run.results import table


def random_case(case):
    """Labels with some classes untested, predictions of varied quality, training counts of a long tail."""
    rng = np.random.default_rng(case)
    classes = int(rng.integers(2, 12))
    tested = rng.choice(classes, size=int(rng.integers(1, classes + 1)), replace=False)
    labels = rng.choice(tested, size=int(rng.integers(5, 200)))
    random = rng.integers(classes, size=len(labels))
    predictions = np.where(rng.random(len(labels)) < rng.random(), labels, random)
    counts = rng.choice([0, 1, 19, 20, 21, 99, 100, 101, 500], size=classes)
    return labels, predictions, ClassInfo([f"class {c}" for c in range(classes)], counts, shot_groups(counts))


def random_logits(case, num_images=500, num_classes=12):
    """Logits, float32, of a classifier that is better than chance, and labels."""
    rng = np.random.default_rng(case)
    labels = rng.integers(num_classes, size=num_images)
    logits = rng.normal(0, rng.uniform(0.1, 5), (num_images, num_classes))
    logits[np.arange(num_images), labels] += rng.uniform(0, 2)
    return logits.astype(np.float32), labels, classes_of(num_classes)


def classes_of(count):
    return ClassInfo([f"class {c}" for c in range(count)], np.ones(count, int), {})


# ---- accuracy ----


@pytest.mark.parametrize("case", range(40))
def test_accuracy_is_scikit_learns_and_scipys(case):
    labels, predictions, classes = random_case(case)
    found = evaluate((), predictions, labels, classes)
    tested = np.unique(labels)
    recalls = metrics.recall_score(labels, predictions, labels=tested, average=None, zero_division=0)

    accuracy = found["accuracy"]
    assert accuracy["overall"] == pytest.approx(100 * metrics.accuracy_score(labels, predictions))
    assert accuracy["mean_class"] == pytest.approx(100 * recalls.mean())
    for name, mask in classes.groups.items():
        inside = mask[tested]
        expected = pytest.approx(100 * recalls[inside].mean()) if inside.any() else None
        assert accuracy[name] == expected, name

    f1 = metrics.f1_score(labels, predictions, labels=tested, average="macro", zero_division=0)
    assert found["more"] == {
        "macro_f1": pytest.approx(100 * f1),
        "worst_class": pytest.approx(100 * recalls.min()),
        "harmonic_mean": pytest.approx(stats.hmean(100 * recalls)),
        "geometric_mean": pytest.approx(stats.gmean(100 * recalls) if recalls.all() else 0),
    }

    rows = found["per_class"]
    assert [row["name"] for row in rows] == classes.names
    assert [row["train"] for row in rows] == classes.counts.tolist()
    assert [row["test"] for row in rows] == [int((labels == c).sum()) for c in range(len(classes.names))]
    per_class = dict(zip(tested.tolist(), 100 * recalls, strict=True))
    for c, row in enumerate(rows):
        assert row["accuracy"] == (pytest.approx(per_class[c]) if c in per_class else None)


def test_mean_class_accuracy_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    labels, predictions = np.arange(50) % 5, rng.integers(5, size=50)
    expected = 100 * metrics.balanced_accuracy_score(labels, predictions)
    found = evaluate((), predictions, labels, classes_of(5))
    assert found["accuracy"]["mean_class"] == pytest.approx(expected)


def test_an_untested_class_counts_nowhere():
    """Class 1, and so the few-shot group, has no test image; one prediction of it changes no recall."""
    labels, predictions = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    counts = np.array([200, 5, 50])
    found = evaluate((), predictions, labels, ClassInfo(["a", "b", "c"], counts, shot_groups(counts)))
    assert found["accuracy"] == {"overall": 75, "mean_class": 75, "many": 50, "medium": 100, "few": None}
    assert found["more"]["worst_class"] == 50
    assert found["more"]["harmonic_mean"] == pytest.approx(200 / 3)
    assert found["per_class"][1] == {"name": "b", "train": 5, "test": 0, "accuracy": None, "group": "few"}


def test_shot_groups_at_their_borders():
    """many > 100, 20 <= medium <= 100, few < 20; every class is in exactly one."""
    counts = np.array([0, 1, 19, 20, 21, 99, 100, 101, 5000])
    groups = shot_groups(counts)
    assert list(groups) == ["many", "medium", "few"]
    assert counts[groups["few"]].tolist() == [0, 1, 19]
    assert counts[groups["medium"]].tolist() == [20, 21, 99, 100]
    assert counts[groups["many"]].tolist() == [101, 5000]
    assert (sum(mask.astype(int) for mask in groups.values()) == 1).all()


# ---- top5 ----


@pytest.mark.parametrize("case", range(5))
def test_top5_is_scikit_learns(case):
    logits, labels, classes = random_logits(case)
    expected = 100 * metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(12))
    assert 0 < expected < 100
    assert evaluate(["top5"], logits, labels, classes)["more"]["top5"] == pytest.approx(expected)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_among_five_classes_or_fewer_each_is_in_the_top5(num_classes):
    logits, labels, classes = random_logits(0, num_classes=num_classes)
    found = evaluate(["top5"], logits, labels, classes)
    assert found["accuracy"]["overall"] < 100
    assert found["more"]["top5"] == 100


def test_equal_logits_rank_as_by_argmax():
    logits = np.random.default_rng(0).integers(3, size=(200, 12)).astype(np.float32)
    labels = np.arange(200) % 12
    assert top_k_accuracy(logits, labels, 1) == pytest.approx(100 * (logits.argmax(1) == labels).mean())
    order = np.argsort(-logits, axis=1, kind="stable")
    assert top_k_accuracy(logits, labels, 5) == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).mean())


# ---- calibration ----


def calibration_error(logits, labels):
    """Guo et al. 2017, equations 2 and 3, image by image and bin by bin."""
    probabilities = special.softmax(logits.astype(float), axis=1)
    error = 0.0
    for m in range(1, 16):
        inside = [i for i, p in enumerate(probabilities) if (m - 1) / 15 < p.max() <= m / 15]
        if inside:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([probabilities[i].max() for i in inside])
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return 100 * error


@pytest.mark.parametrize("case, num_images", [*((case, 500) for case in range(8)), (8, 3000), (9, 1)])
def test_calibration_is_the_expected_calibration_error(case, num_images):
    logits, labels, classes = random_logits(case, num_images)
    found = evaluate(["calibration"], logits, labels, classes)["more"]["calibration_error"]
    assert found == pytest.approx(calibration_error(logits, labels), abs=1e-4)


def test_certain_predictions_are_miscalibrated_by_their_errors():
    """Confidence 1, three of four correct; large logits do not overflow."""
    logits = 1000 * np.eye(4, dtype=np.float32)
    found = evaluate(["calibration"], logits, np.array([0, 1, 2, 0]), classes_of(4))
    assert found["more"]["calibration_error"] == 25


# ---- the table ----


def test_the_configuration_lists_the_evaluators():
    assert KEYS["evaluators"].choices == tuple(EVALUATORS)


def test_all_evaluators_together_are_each_by_itself():
    """accuracy always comes first, and each number once; they are plain numbers for a JSON file."""
    logits, labels, classes = random_logits(0)
    together = evaluate(["calibration", "accuracy", "top5"], logits, labels, classes)
    assert list(together) == ["accuracy", "more", "per_class"]
    assert list(together["more"])[-2:] == ["calibration_error", "top5"]
    for name in EVALUATORS:
        alone = evaluate([name], logits, labels, classes)
        assert all(together[section].items() >= alone[section].items() for section in ("accuracy", "more"))
    assert json.loads(json.dumps(together)) == together
    assert evaluate([], logits.argmax(1), labels, classes) == evaluate([], logits, labels, classes)


def test_which_evaluators_need_logits():
    assert not need_logits(("accuracy",))
    assert need_logits(("accuracy", "calibration"))


@pytest.mark.parametrize(
    "text, names",
    [
        ("top5", ("top5",)),
        ("accuracy,top5,top5", ("accuracy", "top5")),
        ("[calibration, top5]", ("calibration", "top5")),
    ],
)
def test_names_of_evaluators(text, names):
    assert load_config("digits_lt", "clip_tiny", "lift+", ["evaluators", text]).evaluators == names


@pytest.mark.parametrize("text", ["top6", "accuracy,", "", "None"])
def test_other_names_are_refused(text):
    with refused(ConfigError, kind="wrong_value", key="evaluators"):
        load_config("digits_lt", "clip_tiny", "lift+", ["evaluators", text])


def test_a_run_computes_the_chosen_measures_of_its_logits(config, few_images):
    options = ("evaluators", "top5,calibration", "save_logits", "True", "output_dir", "run")
    found = run(config(*options, method="zs"))
    with np.load("output/run/logits_test.npz") as file:
        logits, labels = file["logits"], file["labels"]
    top5 = 100 * metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(10))
    assert found["more"]["top5"] == pytest.approx(top5)
    assert found["more"]["calibration_error"] == pytest.approx(calibration_error(logits, labels), abs=1e-4)

    unsaved = run(config("evaluators", "top5", method="zs"))
    usual = run(config(method="zs"))
    assert unsaved["more"] == usual["more"] | {"top5": pytest.approx(top5)}
    for key in ("accuracy", "per_class", "settings"):
        assert usual[key] == unsaved[key] == found[key]


def test_the_table_shows_an_undefined_measure_as_a_dash(config, few_images):
    found = run(config(method="zs"))
    lines = table(found | {"more": found["more"] | {"worst_group": None, "top5": 50.0}}).splitlines()
    assert "worst group -, top5 50.00" in lines


def test_lifts_harmonic_mean_has_a_floor():
    labels, predictions = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 0])  # 100, 50 and 0 percent

    def harmonic_mean(floor):
        classes = ClassInfo(["a", "b", "c"], np.array([2, 2, 1]), {}, floor)
        return evaluate((), predictions, labels, classes)["more"]["harmonic_mean"]

    assert harmonic_mean(0.0) == 0
    assert harmonic_mean(1e-3) == pytest.approx(3 / (1 / 100 + 1 / 50 + 1 / 1e-3))
