"""Validation while training: it changes no bit, the best epoch is saved, and tests of the validation images."""

import dataclasses
import importlib
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import execute, refused, train, weights
from sklearn.metrics import accuracy_score, recall_score

from datasets import DATASETS
from datasets.sets import digits_lt
from trainer import Trainer
from utils.config import load_config
from utils.errors import CheckpointError, ConfigError
from utils.report import write_report
from utils.report.source import read_run
from utils.run import checkpoint
from utils.run.best import better_of, is_better
from utils.run.stopping import Stopped, Stopping

BEST = ("val_fraction", 0.3, "val_every", 1, "keep", "best")
BASE = ["prec_train", "fp32", "prec_test", "fp32", "num_workers", "0", "num_epochs", "3", "batch_size", "16"]
# its best epoch is the second one
BASE += ["report", "False", "print_freq", "2", "classifier_init", "None", "lr", "0.1", "seed", "1"]


@pytest.fixture(scope="module")
def val_config(random_clip, tmp_path_factory):
    """val_config(KEY, VALUE, ...) -> a CLIP with random weights on few images, in one folder for all tests.

    Every fifth image of digits_lt: 69 to train with, of which val_fraction 0.3 holds out 21, so an epoch has 3 steps.
    """
    data = digits_lt.build()
    train, test = (images.subset(slice(None, None, 5)) for images in (data.train, data.test))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("validation"))
        patch.setitem(DATASETS, "digits_lt", lambda *_: dataclasses.replace(data, train=train, test=test))
        base = [*BASE, "weights", random_clip]
        yield lambda *options: load_config("digits_lt", "clip_vit", "lift+", [*map(str, (*base, *options))])


@pytest.fixture(scope="module")
def plain(val_config):
    """A run without validation, and its results."""
    return train(val_config("val_fraction", 0.3, "output_dir", "plain"))


@pytest.fixture(scope="module")
def best(val_config):
    """The same run with keep best."""
    return train(val_config(*BEST, "output_dir", "best"))


def lines(run, kind):
    """The lines of metrics.jsonl of steps, or of validations, without speeds."""
    found = [json.loads(line) for line in run.run_dir.metrics.read_text().splitlines()]
    of_kind = [line for line in found if ("epoch" in line) == (kind == "validation")]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in of_kind]


# ---- no effect on training ----


OTHER = ("optimizer", "AdamW", "accum_step", 2, "num_workers", 1, "lr", 0.01, "prec_test", "bf16")


@pytest.mark.parametrize("options", [(), OTHER])
def test_validation_changes_no_bit_of_the_training(val_config, plain, options):
    options = ("val_fraction", 0.3, *options)
    without, results = plain if len(options) == 2 else train(val_config(*options, "output_dir", "without"))
    often, validated = train(val_config(*options, "val_every", 2, "output_dir", f"often {len(options)}"))
    assert without.run_dir.checkpoint.read_bytes() == often.run_dir.checkpoint.read_bytes()
    assert lines(without, "step") == lines(often, "step")
    assert [(row["epoch"], row["step"]) for row in lines(often, "validation")] == [(2, 6), (3, 9)]  # and after the last
    assert (results["accuracy"], results["settings"]) == (validated["accuracy"], validated["settings"])
    assert "kept" not in validated


def test_the_best_epoch_is_kept(val_config, best):
    """Scores of each epoch against scikit-learn, and the tensors against those after each epoch."""
    run, results = best
    with Trainer(val_config("output_dir", "pieces", "val_fraction", 0.3)) as pieces:
        labels, scores, after = pieces.data.val.labels, [], []
        for row in lines(run, "validation"):
            pieces.fit(row["epoch"])
            predicted = pieces.predict("val").argmax(1)
            after.append(weights(pieces))
            recalls = recall_score(labels, predicted, labels=np.unique(labels), average=None)
            scores.append(100 * recalls.mean())
            assert row["val/mean_class"] == pytest.approx(scores[-1])
            assert row["val/overall"] == pytest.approx(100 * accuracy_score(labels, predicted))
            assert row["val/worst_class"] == pytest.approx(100 * recalls.min())
    number = int(np.argmax(scores))
    assert number == 1  # neither the first nor the last
    expected = {"epoch": 2, "score": "mean_class", "value": pytest.approx(scores[number])}
    found = checkpoint.load(run.run_dir.checkpoint)[0]
    assert found.keys() == after[number].keys()
    assert all(torch.equal(tensor, after[number][name]) for name, tensor in found.items())
    assert results["kept"] == expected
    assert checkpoint.describe(run.run_dir.checkpoint)["training"]["kept"] == expected
    log = run.run_dir.log().read_text()
    assert [line.endswith("(best so far)") for line in log.splitlines() if "  validation  overall " in line] == [
        *(True, True, False)
    ]
    assert f"kept      epoch 2: mean class {scores[number]:.2f} on the validation images" in log
    assert (results["settings"]["keep"], results["settings"]["val_every"]) == ("best", 1)
    _, again = train(val_config("output_dir", "best", *BEST, "test_only", "True"))
    assert (again["accuracy"], again["kept"]) == (results["accuracy"], expected)


def test_the_report_shows_the_validations(best):
    run, results = best
    page = write_report(run.run_dir).read_text()
    kept = f"epoch 2, the best by mean class: {results['kept']['value']:.2f} on the validation images"
    assert kept in page
    for name in ("overall", "mean_class"):
        points = [[row["epoch"], float(f"{row[f'val/{name}']:.5g}")] for row in lines(run, "validation")]
        title = json.dumps(f"validation, {name.replace('_', ' ')}")
        found = re.search(rf"{title}:\s*(\[\[.*?\]\])", page)
        assert found and json.loads(found[1]) == points


def test_the_earlier_of_equal_epochs_stays():
    model = torch.nn.Linear(2, 2)
    first = better_of(None, 1, "mean_class", 50.0, model)
    with torch.no_grad():
        model.weight += 1
    assert better_of(first, 2, "mean_class", 50.0, model) is first
    assert better_of(first, 2, "mean_class", None, model) is first
    assert better_of(first, 2, "mean_class", float("nan"), model) is first
    second = better_of(first, 2, "mean_class", 50.1, model)
    assert (second.epoch, second.value) == (2, 50.1)
    assert torch.equal(second.tensors["weight"], model.weight)
    assert torch.equal(first.tensors["weight"] + 1, model.weight)  # a copy
    assert is_better("calibration_error", 1.0, 2.0)
    assert not is_better("calibration_error", 2.0, 2.0)


def test_a_score_of_other_evaluators_may_choose(val_config):
    options = (*BEST, "evaluators", "accuracy,calibration", "keep_score", "calibration_error")
    run, results = train(val_config(*options, "output_dir", "calibrated"))
    errors = [row["val/calibration_error"] for row in lines(run, "validation")]
    assert results["kept"]["epoch"] == np.argmin(errors) + 1
    assert results["kept"]["value"] == min(errors)


@pytest.mark.parametrize("score", ["mean_clas", "calibration_error", "many"])
def test_a_score_that_there_is_not_is_refused_before_anything_is_written(val_config, score):
    """The few images have no many-shot class."""
    with refused(ConfigError, kind="unknown_keep_score", key="keep_score"):
        Trainer(val_config(*BEST, "keep_score", score, "output_dir", "refused"))
    assert not Path("output/refused").exists()


# ---- interruptions ----


class Killed(BaseException):
    """Replaces SIGKILL."""


@pytest.mark.parametrize("place", [3, 7, "validation 2", "validation 3", "the end"])
def test_a_killed_run_resumes_with_its_best_epoch(val_config, best, place, monkeypatch):
    """3 steps an epoch: killed in the first step of an epoch and within one, while it validates, before the test."""
    whole, expected = best
    folder = f"killed {place}"
    run = Trainer(val_config(*BEST, "output_dir", folder, "save_minutes", 0))
    with run, monkeypatch.context() as patch:
        stop(run, place, patch)
        with pytest.raises(Killed):
            run.fit()
            raise Killed
    resumed, results = train(val_config(*BEST, "output_dir", folder))
    assert "resuming after epoch" in resumed.run_dir.log().read_text()
    assert resumed.run_dir.checkpoint.read_bytes() == whole.run_dir.checkpoint.read_bytes()
    assert results["accuracy"] == expected["accuracy"]
    for kind in ("step", "validation"):
        assert lines(resumed, kind) == lines(whole, kind)


def stop(run, place, patch):
    """Kills the run after this number of steps, or once the scores of a validation are computed; "the end": never."""
    if isinstance(place, int):
        seen = iter(range(100))
        run.loss.register_forward_hook(lambda *_: kill() if next(seen) == place else None)
    elif place != "the end":
        seen, number = iter(range(1, 100)), int(place.split()[1])
        validation = run.log.validation

        def log(*args):
            validation(*args)
            if next(seen) == number:
                kill()

        patch.setattr(run.log, "validation", log)


def kill():
    raise Killed


def test_a_signal_before_a_validation_saves_at_once(val_config, best, monkeypatch):
    """And the validation follows when the run is resumed."""
    whole, _ = best
    stopping, seen = Stopping(), iter(range(100))
    run = Trainer(val_config("output_dir", "warned", *BEST), stopping=stopping)

    def warn(*_):
        if next(seen) == 2:  # in the last step of the epoch
            os.kill(os.getpid(), signal.SIGUSR1)

    run.loss.register_forward_hook(warn)
    with pytest.raises(Stopped), stopping.handled(), run:
        run.fit()
    about = checkpoint.load(run.run_dir.progress)[1]
    assert (about["epoch"], about["step"]) == (0, 3)
    assert lines(run, "validation") == []
    run = Trainer(val_config(*BEST, "output_dir", "warned"))
    with run, monkeypatch.context() as patch:  # its line is written twice, but occurs once in the end
        stop(run, "validation 1", patch)
        with pytest.raises(Killed):
            run.fit()
    assert len(lines(run, "validation")) == 1
    resumed, _ = train(val_config("output_dir", "warned", *BEST))
    assert resumed.run_dir.checkpoint.read_bytes() == whole.run_dir.checkpoint.read_bytes()
    assert lines(resumed, "validation") == lines(whole, "validation")


@pytest.mark.parametrize(
    ("option", "key"), [(("val_every", 2), "val_every"), (("tte", "True"), "tte"), (("keep", "last"), "keep")]
)
def test_what_decides_the_best_epoch_is_part_of_the_run(val_config, best, option, key):
    run, _ = best
    with refused(CheckpointError, kind="other_identity", path=run.run_dir.results(), key=key):
        execute(Trainer(val_config(*BEST, *option, "output_dir", "best")))


# ---- tests of the validation images ----


MODEL_DIR = ("model_dir", "output/plain", "test_only", "True")


def test_the_validation_images_are_tested_under_their_own_names(val_config, plain):
    run, results = plain
    before = {path: path.read_bytes() for path in run.run_dir.path.iterdir()}
    tested, found = train(val_config(*MODEL_DIR, "test_split", "val", "save_logits", "True"))
    assert tested.data.fingerprints() == run.data.fingerprints()
    assert found["data"]["split"] == "val"
    assert found["data"]["trained_on"] == 0
    assert sum(row["test"] for row in found["per_class"]) == len(run.data.val) == 21
    labels, predicted = run.data.val.labels, tested.predict("val").argmax(1)
    assert found["accuracy"]["overall"] == pytest.approx(100 * accuracy_score(labels, predicted))
    train(val_config(*MODEL_DIR, "test_split", "val", "tte", "True"))
    names = {path.name for path in run.run_dir.path.iterdir()} - {path.name for path in before}
    assert names == {
        *("results_val.json", "log_val.txt", "logits_val.npz", "predictions_val.csv"),
        *("results_val_tte.json", "log_val_tte.txt", "predictions_val_tte.csv"),
    }
    assert all(path.read_bytes() == content for path, content in before.items())
    _, test = train(val_config(*MODEL_DIR))
    assert test["data"]["fingerprint"] == results["data"]["fingerprint"]
    assert test["accuracy"] == results["accuracy"]
    assert "class counts are those" not in (run.run_dir.path / "log_test.txt").read_text()
    _, on_train = train(val_config("model_dir", "output/plain", "test_train", "True"))
    assert sum(row["test"] for row in on_train["per_class"]) == len(run.data.train) == 48


def test_a_test_in_another_precision_leaves_the_predictions_of_the_run(val_config, plain):
    run, results = plain
    own = run.run_dir.path / "predictions_test.csv"
    before = own.read_bytes()
    _, again = train(val_config(*MODEL_DIR))
    assert results["predictions"] == again["predictions"] == own.name
    _, other = train(val_config(*MODEL_DIR, "prec_test", "bf16"))
    assert other["predictions"] == "predictions_test_bf16.csv"
    assert own.read_bytes() == before
    tests = {test.path.name: test for test in read_run(run.run_dir).tests}
    assert tests["results.json"].predictions_path == own
    for name in ("results.json", "results_test.json"):
        tests[name].predictions()  # is of this test


def test_another_val_fraction_than_that_of_the_run_is_refused(val_config, plain):
    for options in (("val_fraction", 0.5, "test_split", "val"), ("val_fraction", 0.5)):
        with refused(ConfigError, kind="other_val_fraction", key="val_fraction"):
            train(val_config(*MODEL_DIR, *options))


def test_a_training_may_be_tested_on_validation_images(val_config, plain, monkeypatch):
    run, results = train(val_config("val_fraction", 0.3, "output_dir", "unseen", "test_split", "val"))
    assert (results["data"]["split"], results["test"]) == ("val", plain[1]["test"])
    assert run.run_dir.predictions(run.mode).name == "predictions_val.csv"
    assert len(read_run(run.run_dir).main.predictions().labels) == len(run.data.val)
    assert run.run_dir.checkpoint.read_bytes() == plain[0].run_dir.checkpoint.read_bytes()
    assert "accuracy on digits_lt (val), %" in run.run_dir.log().read_text()
    command = "python main.py"
    fingerprints = run.data.fingerprints
    assert run.run_dir.find_results(run.mode, command, fingerprints) == run.run_dir.results()
    assert run.run_dir.find_results(dataclasses.replace(run.mode, split="test"), command, fingerprints) is None
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    results_table = importlib.import_module("results_table")
    found = [directory.run_dir.results() for directory in (run, plain[0])]
    rows = results_table.collect(found, Path("output"))
    assert {row.test for row in rows} == {"1 crop", "1 crop, val images"}  # one seed, and never one row
    assert [row.runs[0].usual for row in rows if "val" in row.test] == [False]


def test_validation_images_that_were_trained_on_are_reported(val_config, monkeypatch):
    with Trainer(val_config("output_dir", "whole")) as run:
        run.fit()
    folder = ("model_dir", "output/whole", "test_only", "True", "test_split", "val")
    with refused(ConfigError, kind="other_val_fraction", key="val_fraction"):
        train(val_config(*folder, "val_fraction", 0.3))
    with_val = dataclasses.replace(run.data, val=run.data.train.subset(slice(10)))
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: with_val)
    run, results = train(val_config(*folder))
    assert results["data"]["trained_on"] == 10
    warning = "10 of the 10 validation images are training images of this run"
    assert warning in (run.run_dir.path / "log_val.txt").read_text()
    with Trainer(val_config("val_every", 1, "output_dir", "copies")) as run:
        assert warning in run.run_dir.log().read_text()
