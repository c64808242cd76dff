"""RunDir and Mode: the names of a run's files, and the replacement of runs."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import refused

from utils.config import load_config
from utils.errors import CheckpointError, ConfigError
from utils.run import checkpoint, results
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


@pytest.mark.parametrize(
    "content", ["", "{", "{}", '{"other": 1}', "[1]", "null", json.dumps(RESULTS)[:-1], "\x00" * 99]
)
def test_damaged_results_protect_their_run(run_dir, content):
    run_dir.results().write_text(content)
    with refused(CheckpointError, kind="damaged_results", path=run_dir.results()):
        run_dir.require_same_run(SETTINGS, "cc-dd", {})


def test_a_checkpoint_without_results_is_protected(run_dir):
    """By the training that it records, or if it is older by its tensors."""
    checkpoint.save(run_dir.checkpoint, {}, {"backbone": "a", "training": {"settings": SETTINGS}})
    run_dir.require_same_run(SETTINGS, "cc-dd", {})
    with refused(CheckpointError, kind="other_identity", path=run_dir.checkpoint, key="lr"):
        run_dir.require_same_run(SETTINGS | {"lr": 0.2}, "cc-dd", {})
    checkpoint.save(run_dir.checkpoint, {}, {"backbone": "a"})
    run_dir.require_same_run(SETTINGS | {"backbone": "a"}, "cc-dd", {})
    with refused(CheckpointError, kind="other_identity", path=run_dir.checkpoint, key="backbone"):
        run_dir.require_same_run(SETTINGS | {"backbone": "b"}, "cc-dd", {})
    run_dir.checkpoint.write_bytes(b"")
    with refused(CheckpointError, kind="damaged_checkpoint", path=run_dir.checkpoint):
        run_dir.require_same_run(SETTINGS, "cc-dd", {})


def test_a_run_is_replaced_by_the_same_one_only(run_dir):
    write(run_dir.results(), RESULTS)
    run_dir.require_same_run(SETTINGS, "cc-dd", {})
    run_dir.require_same_run(SETTINGS | {"newer key": 5}, "cc", {"newer key": 5})  # older files record only names
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
    tested = {"fingerprint": "cc-dd", "crops": 1, "precision": "fp32", "variant": "lift+"}
    tested |= {"interpolation": "bicubic", "resize": "shortest"}
    assert run_dir.mode_for_logits(mode, tested, labels) == mode
    results.save_logits(run_dir.logits(mode), np.zeros((2, 3)), labels, tested)
    assert run_dir.mode_for_logits(mode, tested, labels) == mode
    other = tested | {"crops": 5, "precision": "bf16"}
    assert run_dir.mode_for_logits(mode, other, labels).suffix == "test_crops_5_bf16"
    with refused(ConfigError, kind="other_images", path=run_dir.logits(mode)):
        run_dir.mode_for_logits(mode, tested | {"fingerprint": "ff"}, labels)


def test_logits_of_earlier_versions_are_of_images_resized_as_ever(run_dir):
    """They do not record the rule; a squashed image is another one."""
    mode, labels = Mode(trains=False), np.zeros(2, np.int64)
    older = {"fingerprint": "cc-dd", "crops": 1, "precision": "fp32"}
    results.save_logits(run_dir.logits(mode), np.zeros((2, 3)), labels, older)
    tested = older | {"variant": "lift+", "interpolation": "bicubic", "resize": "shortest"}
    assert run_dir.mode_for_logits(mode, tested, labels) == mode
    other = tested | {"interpolation": "bilinear", "resize": "squash"}
    assert set(run_dir.mode_for_logits(mode, other, labels).otherwise) == {"interpolation_bilinear", "resize_squash"}


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


# ---- a complete run is trained again ----

EARLIER = {"config.yaml": "1", "metrics.jsonl": "1", "events.out.1": "1", "checkpoint.safetensors": "1"}
NEW = {"config.yaml": "2", "metrics.jsonl": "2", "events.out.2": "2", "checkpoint.safetensors": "2"}


def content_of(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def repeated(run_dir):
    """A complete run, and the files of its repetition in `unfinished`."""
    run_dir.begin()
    assert run_dir.working() == run_dir
    for name, text in ({"results.json": "{}"} | EARLIER).items():
        (run_dir.path / name).write_text(text)
    assert run_dir.working() == run_dir  # killed after its results, it has no other files
    run_dir.begin()
    assert run_dir.working() == run_dir.unfinished
    for name, text in NEW.items():
        (run_dir.unfinished.path / name).write_text(text)
    return run_dir


def test_the_new_files_replace_the_earlier_ones_together(repeated):
    repeated.publish()
    assert content_of(repeated.path) == {"results.json": "{}"} | NEW
    repeated.clear_unfinished()
    assert not repeated.unfinished.path.exists()
    assert content_of(repeated.path) == {"results.json": "{}"} | NEW


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", range(9))
def test_publishing_can_be_done_again_after_each_operation(repeated, failing, links, monkeypatch):
    """It fails at the n-th link, copy, replacement or removal, and succeeds the second time."""
    count = 0

    def failing_at(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == failing + 1:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    def no_links(*args):
        raise OSError(errno.EPERM, "no links here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", failing_at(os.link) if links else no_links)
        patch.setattr(shutil, "copyfile", failing_at(shutil.copyfile))
        patch.setattr(os, "replace", failing_at(os.replace))
        patch.setattr(Path, "unlink", failing_at(Path.unlink))
        with contextlib.suppress(KeyboardInterrupt):
            repeated.publish()
    assert count > failing
    repeated.publish()
    repeated.clear_unfinished()
    assert content_of(repeated.path) == {"results.json": "{}"} | NEW


def test_what_killed_processes_left_is_removed(run_dir):
    mine = [run_dir.path / f"{name}.0123abcd.partial" for name in ("progress.safetensors", "checkpoint.safetensors")]
    others = [run_dir.path / name for name in ("notes.partial", "results_test.json.0123abcd.partial")]
    for path in (*mine, *others):
        path.touch()
    run_dir.clear_unfinished()
    assert not any(path.exists() for path in mine)
    assert all(path.exists() for path in others)
    run_dir.remove_partials(run_dir.results(Mode(trains=False)))
    assert [path.exists() for path in others] == [True, False]


def test_a_link_in_the_place_of_unfinished_is_not_followed(run_dir, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").touch()
    run_dir.unfinished.path.symlink_to(elsewhere)
    run_dir.clear_unfinished()
    assert (elsewhere / "file").exists()
    assert not run_dir.unfinished.path.is_symlink()


# ---- the existing checkpoint ----


def test_a_checkpoint_of_another_run_is_foreign(run_dir):
    training = {"seed": 0, "epochs": 1, "settings": SETTINGS}
    checksum = checkpoint.save(run_dir.checkpoint, {}, {"training": training})
    write(run_dir.results(), RESULTS | {"checkpoint": checksum})
    assert not run_dir.training_record(run_dir.checkpoint).is_foreign
    other = training | {"seed": 1}
    checkpoint.save(run_dir.checkpoint, {}, {"training": other, "data": {"name": "y"}})
    record = run_dir.training_record(run_dir.checkpoint)
    assert (record.is_foreign, record.training, record.name) == (True, other, "y")
    write(run_dir.results(), RESULTS)  # of an earlier version, without the checksum
    assert run_dir.training_record(run_dir.checkpoint).is_foreign
    checkpoint.save(run_dir.checkpoint, {}, {"training": training})
    assert not run_dir.training_record(run_dir.checkpoint).is_foreign
    checkpoint.save(run_dir.checkpoint, {}, {})  # both are older: unknown
    assert not run_dir.training_record(run_dir.checkpoint).is_foreign
