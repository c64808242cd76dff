"""RunDir and Mode: the names of a run's files, and what may be replaced."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import refused

from utils.config import load_config
from utils.errors import CheckpointError, ConfigError
from utils.run import results
from utils.run.directory import RunDir
from utils.run.mode import Mode, build_mode

MODES = [  # options, name, results, log, logits
    ((), "train", "results.json", "log.txt", "logits_test.npz"),
    (("tte", "True"), "train", "results.json", "log.txt", "logits_tte.npz"),
    (("test_only", "True"), "test_only", "results_test.json", "log_test.txt", "logits_test.npz"),
    (("test_only", "True", "tte", "True"), "test_only", "results_tte.json", "log_tte.txt", "logits_tte.npz"),
    (
        ("test_only", "True", "tte", "True", "tte_crops", "10"),
        "test_only",
        "results_tte10.json",
        "log_tte10.txt",
        "logits_tte10.npz",
    ),
    (
        ("test_only", "True", "tte", "True", "tte_draws", "3"),
        "test_only",
        "results_tte_draws3.json",
        "log_tte_draws3.txt",
        "logits_tte_draws3.npz",
    ),
    (("test_train", "True"), "test_train", "results_train.json", "log_train.txt", "logits_train.npz"),
    (
        ("test_train", "True", "tte", "True"),
        "test_train",
        "results_train_tte.json",
        "log_train_tte.txt",
        "logits_train_tte.npz",
    ),
    (
        ("test_only", "True", "test_name", "fold 1/b"),
        "test_only",
        "results_test_fold-1-b.json",
        "log_test_fold-1-b.txt",
        "logits_test_fold-1-b.npz",
    ),
    # not that of tte True
    (
        ("test_train", "True", "test_name", "tte"),
        "test_train",
        "results_train_list_tte.json",
        "log_train_list_tte.txt",
        "logits_train_list_tte.npz",
    ),
    (("test_name", "a"), "train", "results.json", "log.txt", "logits_test.npz"),
]


@pytest.mark.parametrize(("options", "name", *("results", "log", "logits")), MODES)
def test_the_names_of_a_modes_files(options, name, results, log, logits):
    mode = build_mode(load_config("digits_lt", "clip_tiny", "lift+", list(options)))
    run_dir = RunDir(Path("here"))
    assert mode.name == name
    assert [path.name for path in (run_dir.results(mode), run_dir.log(mode), run_dir.logits(mode))] == [
        results,
        log,
        logits,
    ]


def test_a_test_in_another_way_has_a_longer_suffix():
    assert Mode(trains=False, images="b", otherwise=("seed_1",)).suffix == "test_b_seed_1"


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


SETTINGS = {"lr": 0.1, "training images": "aa-bb"}
RESULTS = {"settings": SETTINGS, "seed": 0, "epochs": 1, "data": {"name": "x", "fingerprint": {"test": "cc-dd"}}}


def write(path, content):
    path.write_text(json.dumps(content))


def test_an_unfinished_run_is_not_replaced(run_dir):
    run_dir.progress.touch()
    with refused(CheckpointError, kind="unfinished_run", path=run_dir.progress):
        run_dir.require_same_run(SETTINGS, "cc-dd", {})


@pytest.mark.parametrize("content", [{}, {"other": 1}, [1], None])
def test_files_of_others_are_no_obstacle(run_dir, content):
    write(run_dir.results(), content)
    run_dir.require_same_run(SETTINGS, "cc-dd", {})


def test_a_run_is_replaced_by_the_same_one_only(run_dir):
    write(run_dir.results(), RESULTS)
    run_dir.require_same_run(SETTINGS, "cc-dd", {})
    run_dir.require_same_run(SETTINGS | {"newer key": 5}, "cc", {"newer key": 5})  # older files know names alone
    with refused(CheckpointError, kind="other_identity", path=run_dir.results(), key="lr"):
        run_dir.require_same_run(SETTINGS | {"lr": 0.2}, "cc-dd", {})
    with refused(CheckpointError, kind="other_images", path=run_dir.results()):
        run_dir.require_same_run(SETTINGS, "cc-ee", {})


def test_a_test_of_other_images_is_not_replaced(run_dir):
    mode = Mode(trains=False)
    write(run_dir.results(mode), {"data": {"split": "test", "fingerprint": {"test": "cc-dd"}}})
    run_dir.require_free(mode, "cc-dd")
    with refused(ConfigError, kind="other_images", path=run_dir.results(mode)):
        run_dir.require_free(mode, "ff")


def test_logits_of_another_test_get_a_longer_suffix(run_dir):
    mode, labels = Mode(trains=False), np.zeros(2, np.int64)
    tested = {"fingerprint": "cc-dd", "crops": 1, "precision": "fp32", "interpolation": "bicubic", "variant": "lift+"}
    assert run_dir.mode_for_logits(mode, tested, labels) == mode
    results.save_logits(run_dir.logits(mode), np.zeros((2, 3)), labels, tested)
    assert run_dir.mode_for_logits(mode, tested, labels) == mode
    other = tested | {"crops": 5, "precision": "bf16"}
    assert run_dir.mode_for_logits(mode, other, labels).suffix == "test_crops_5_bf16"
    with refused(ConfigError, kind="other_images", path=run_dir.logits(mode)):
        run_dir.mode_for_logits(mode, tested | {"fingerprint": "ff"}, labels)


def test_what_a_run_leaves_is_forgotten_but_for_its_own(run_dir):
    names = ("results.json", "results_test.json", "logits_test.npz", "logits_tte.npz", "log_test.txt")
    for name in names:
        (run_dir.path / name).touch()
    run_dir.forget_earlier(run_dir.logits())
    assert {path.name for path in run_dir.path.iterdir()} == {"results.json", "logits_test.npz", "log_test.txt"}


def test_the_record_of_a_training_run(run_dir):
    assert run_dir.training_record(None).fingerprints == {}
    write(run_dir.results(), RESULTS | {"per_class": [{"train": 3}, {"train": 1}]})
    record = run_dir.training_record(None)
    assert (record.name, record.counts, record.settings, record.images) == ("x", [3, 1], SETTINGS, None)
