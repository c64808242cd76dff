"""Interrupted runs: saved within an epoch, resumed at the same step; later changes are errors or logged."""

import json
import os
import re
import signal
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from helpers import execute, refused, train, weights
from PIL import Image

import main as cli
from trainer import Trainer
from utils.config import load_config
from utils.device import environment
from utils.errors import CheckpointError, DataError
from utils.run import checkpoint
from utils.run.stopping import Stopped, Stopping


class Killed(BaseException):
    """Replaces SIGKILL."""


def checkpoint_bytes(run):
    return (run.run_dir.path / "checkpoint.safetensors").read_bytes()


def stop_after(run, steps, stop):
    """Calls `stop` within the step after this number of steps, before its backward pass."""
    seen = iter(range(10**6))
    run.loss.register_forward_hook(lambda *_: stop() if next(seen) == steps else None)


def killed():
    raise Killed


def metrics_of(run):
    lines = [json.loads(line) for line in run.run_dir.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


# ---- within an epoch ----


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("optimizer", "AdamW", "accum_step", 2, "schedule", "warmup_cosine")])
def test_a_run_killed_within_an_epoch_resumes_at_the_step(config, few_images, options):
    """69 images in steps of 16 are 5 steps per epoch; save_minutes 0 saves after each of them."""
    options = (*options, "lr", 0.002, "print_freq", 2)
    whole, expected = train(config("output_dir", "whole", *options))
    for steps in (1, 4, 5, 8) if cases.FULL or not options else (1, 8):
        killed_run = f"killed after {steps}"
        run = Trainer(config("output_dir", killed_run, "save_minutes", 0, *options))
        stop_after(run, steps * run.cfg.accum_step, killed)
        with pytest.raises(Killed), run:
            run.fit()
        about = checkpoint.load(run.run_dir.progress)[1]
        assert (about["epoch"], about["step"]) == divmod(steps, 5)
        resumed, results = train(config("output_dir", killed_run, *options))
        assert f"resuming after epoch {steps // 5}" in (resumed.run_dir.path / "log.txt").read_text()
        assert checkpoint_bytes(resumed) == checkpoint_bytes(whole), steps
        assert results["accuracy"] == expected["accuracy"], steps
        assert metrics_of(resumed) == metrics_of(whole), steps


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "saves"), [(0, 9), (1000, 2), (None, 2)])
def test_the_progress_is_saved_every_so_many_minutes(config, few_images, monkeypatch, minutes, saves):
    count, save = [], checkpoint.save_progress
    monkeypatch.setattr(checkpoint, "save_progress", lambda *args: (count.append(1), save(*args)))
    train(config("save_minutes", minutes))
    assert len(count) == (10 if minutes == 0 else saves)


@pytest.mark.slow
def test_sigusr1_saves_and_ends(config, few_images):
    whole, _ = train(config("output_dir", "whole"))
    stopping = Stopping()
    run = Trainer(config("output_dir", "warned"), stopping=stopping)
    stop_after(run, 6, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(Stopped, match="stopped by SIGUSR1, progress saved"), stopping.handled(), run:
        run.fit()
    about = checkpoint.load(run.run_dir.progress)[1]
    assert (about["epoch"], about["step"]) == (1, 2)  # the step in which it came is completed
    resumed, _ = train(config("output_dir", "warned"))
    assert checkpoint_bytes(resumed) == checkpoint_bytes(whole)


# ---- values that are not finite ----


@pytest.mark.slow
def test_weights_that_diverge_in_the_last_step_are_not_saved(config, few_images):
    """The loss is computed before the update, so it shows nothing."""
    run = Trainer(config("output_dir", "run"))
    step, taken = run.optimizer.step, []

    def diverge(*args):
        step(*args)
        taken.append(1)
        if len(taken) == 10:
            next(iter(checkpoint.trainable_tensors(run.model).values())).data.view(-1)[0] = float("nan")

    run.optimizer.step = diverge
    with pytest.raises(FloatingPointError, match=r"not finite.*output/run/progress.safetensors has the last good"), run:
        run.fit()
    assert not run.run_dir.checkpoint.exists()
    assert checkpoint.load(run.run_dir.progress)[1]["epoch"] == 1
    whole, _ = train(config("output_dir", "whole"))
    resumed, _ = train(config("output_dir", "run"))
    assert checkpoint_bytes(resumed) == checkpoint_bytes(whole)


@pytest.mark.parametrize("save_logits", [True, False])
@pytest.mark.parametrize("method", ["zs", "lift+"])
def test_logits_that_are_not_finite_are_an_error(config, few_images, method, save_logits):
    run = Trainer(config("save_logits", save_logits, "num_epochs", 1, method=method))
    with run:
        run.fit()
        bias = dict(run.model.tower.named_parameters())["norm.bias"]
        bias.data[0] = float("nan")
        with pytest.raises(FloatingPointError, match=r"for 100 of 100 images is .*image\[0\]"):
            run.evaluate()
        with pytest.raises(FloatingPointError, match="not finite"):
            run.features()
    assert not run.run_dir.results().exists()


def test_a_loss_that_is_not_finite_is_null_in_the_metrics(config, few_images):
    run = Trainer(config("lr", 1e30, "print_freq", 1))
    with pytest.raises(FloatingPointError, match="the loss is"), run:
        run.fit()
    lines = run.run_dir.metrics.read_text()
    assert json.loads(lines.splitlines()[-1], parse_constant=pytest.fail)["loss"] is None


# ---- changes between start and resumption ----


@pytest.fixture
def pictures(tmp_path):
    for split, count in (("train", 6), ("test", 2)):
        for name, colour in (("cat", 60), ("dog", 190)):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng((colour, index, count)).integers(0, colour + 60, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.bmp")
    return tmp_path / "pictures"


@pytest.fixture
def folder_config(random_clip, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*options):
        base = ["weights", random_clip, "prec_train", "fp32", "prec_test", "fp32", "num_workers", 0, "num_epochs", 2]
        base += ["batch_size", 4, "root", pictures, "output_dir", "run", "classifier_init", "None"]
        return load_config("folder", "clip_vit", "lift+", [str(o) for o in (*base, *options)])

    return make


@pytest.fixture
def interrupted(folder_config):
    """A run on pictures that has completed its first epoch."""
    with Trainer(folder_config()) as run:
        run.fit(1)
    return run.run_dir


def log_of(run_dir):
    return run_dir.log().read_text()


def test_another_picture_of_the_same_name_is_refused_by_name(interrupted, folder_config, pictures):
    picture = pictures / "train" / "dog" / "3.bmp"
    Image.new("RGB", (50, 50)).save(picture)
    with refused(DataError, kind="image_replaced", path=picture):
        execute(Trainer(folder_config()))
    assert interrupted.progress.exists()


def test_another_picture_of_the_same_size_is_refused_by_name(interrupted, folder_config, pictures):
    picture = pictures / "train" / "dog" / "3.bmp"
    size = picture.stat().st_size
    Image.new("RGB", (40, 40)).save(picture)
    assert picture.stat().st_size == size
    with refused(DataError, kind="image_replaced", path=picture):
        execute(Trainer(folder_config()))


def test_a_missing_picture_is_refused_by_name(interrupted, folder_config, pictures):
    """A link whose target is gone; a file that is gone changes the list itself."""
    picture = pictures / "train" / "cat" / "5.bmp"
    picture.unlink()
    picture.symlink_to("gone")
    with refused(DataError, kind="image_replaced", path=picture):
        execute(Trainer(folder_config()))


def test_a_changed_time_alone_is_in_the_log(interrupted, folder_config, pictures):
    os.utime(pictures / "train" / "cat" / "0.bmp", (1, 1))
    execute(Trainer(folder_config()))
    assert "1 training images have another time of change" in log_of(interrupted)


def test_sizes_of_long_lists_are_compared(interrupted, folder_config, pictures, monkeypatch):
    """If contents are hashed only for a sample."""
    monkeypatch.setattr("datasets.images.CONTENT_FILES", 3)
    monkeypatch.setattr("datasets.images.SAMPLE", 2)
    whole, _ = train(folder_config("output_dir", "whole"))
    with Trainer(folder_config("output_dir", "long")) as run:
        run.fit(1)
    picture = pictures / "train" / "dog" / "3.bmp"  # not in the sample
    content = picture.read_bytes()
    picture.write_bytes(content + b"more")
    with refused(DataError, kind="image_replaced", path=picture):
        execute(Trainer(folder_config("output_dir", "long")))
    picture.write_bytes(content)
    resumed, _ = train(folder_config("output_dir", "long"))
    assert checkpoint_bytes(resumed) == checkpoint_bytes(whole)


def test_the_same_machine_resumes_without_a_warning(interrupted, folder_config):
    execute(Trainer(folder_config()))
    assert "resuming after epoch 1" in log_of(interrupted)
    assert "warning" not in log_of(interrupted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda patch: patch.setattr(torch, "get_num_threads", lambda: 3),
            r"device .*1 thread, now .*3 threads",
            id="threads",
        ),
        pytest.param(
            lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON"),
            r"instructions \w+, now NEON",
            id="instructions",
        ),
        pytest.param(
            lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2"),
            r"instructions (\w+), now \1, ONEDNN_MAX_CPU_ISA=AVX2",
            id="switches",
        ),
        pytest.param(
            lambda patch: patch.setattr(environment, "version", lambda package: "0.1"),
            r"numpy [\d.]+, now 0.1; scikit-learn",
            id="packages",
        ),
        pytest.param(
            lambda patch: patch.setattr("models.compile.compile_blocks", lambda *_: True),
            r"compiled False, now True",
            id="compile",
        ),
        pytest.param(
            lambda patch: patch.setattr("trainer.sha256_of_code", lambda *_: "a" * 64),
            r"program \w+, now a{12}",
            id="program",
        ),
    ],
)
def test_another_machine_resumes_with_one_warning(interrupted, folder_config, monkeypatch, change, words):
    change(monkeypatch)
    execute(Trainer(folder_config()))
    warnings = [line for line in log_of(interrupted).splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert re.search(rf"the run began elsewhere \(.*{words}", warnings[0])


def test_progress_of_an_earlier_version_resumes(config, few_images):
    """It has no steps, counters, images or machine."""
    whole, _ = train(config("output_dir", "whole"))
    with Trainer(config("output_dir", "run")) as run:
        run.fit(1)
    tensors, about = checkpoint.load(run.run_dir.progress)
    former = {key: about[key] for key in ("epoch", "seconds", "scaler", "identity")}
    checkpoint.save(run.run_dir.progress, tensors, former)
    resumed, _ = train(config("output_dir", "run"))
    assert checkpoint_bytes(resumed) == checkpoint_bytes(whole)


# ---- a complete run is trained again ----


@pytest.mark.slow
def test_a_complete_run_is_whole_until_its_repetition_is(config, few_images):
    run, _ = train(config("save_logits", "True"))
    train(config("test_only", "True"))
    files = {path: path.read_bytes() for path in run.run_dir.path.iterdir() if path.name != "log.txt"}
    assert {"results.json", "results_test.json", "logits_test.npz", "config.yaml"} <= {path.name for path in files}

    def assert_whole():
        assert all(path.read_bytes() == content for path, content in files.items())

    for steps in (2, 7):
        again = Trainer(config("save_logits", "True", "save_minutes", 0))
        stop_after(again, steps, killed)
        with pytest.raises(Killed), again:
            again.fit()
        assert_whole()
    with Trainer(config("save_logits", "True")) as again:
        again.fit()
        assert_whole()  # it is trained, and not tested
    again, _ = train(config("save_logits", "True"))
    assert not again.run_dir.unfinished.path.exists()
    assert not (run.run_dir.path / "results_test.json").exists()
    assert not set(files) & set(again.run_dir.curves())
    assert len(metrics_of(again)) == 2
    assert checkpoint_bytes(again) == files[run.run_dir.checkpoint]


def test_zero_shot_again_leaves_its_tests(config, few_images):
    train(config(method="zs"))
    run, _ = train(config("test_only", "True", "tte", "True", method="zs"))
    assert "results_tte.json" in run.run_dir.path.joinpath("log_tte.txt").read_text()
    train(config(method="zs"))
    assert (run.run_dir.path / "results_tte.json").exists()
    assert not run.run_dir.unfinished.path.exists()


# ---- a checkpoint of another run ----


@pytest.mark.slow
def test_a_checkpoint_of_another_seed_is_reported_and_marked(config, few_images):
    train(config("output_dir", "zero"))
    other, expected = train(config("output_dir", "one", "seed", 1))
    Path("output/zero/checkpoint.safetensors").write_bytes(checkpoint_bytes(other))
    run, results = train(config("output_dir", "zero", "test_only", "True"))
    assert (
        "warning   output/zero/checkpoint.safetensors is not the checkpoint"
        in (run.run_dir.path / "log_test.txt").read_text()
    )
    assert results["other_checkpoint"] is True
    assert (results["seed"], results["settings"]["seed"]) == (1, 1)
    assert results["accuracy"] == expected["accuracy"]
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(run).items())
    _, own = train(config("output_dir", "one", "seed", 1, "test_only", "True"))
    assert "other_checkpoint" not in own
    assert own["checkpoint"] == expected["checkpoint"] == results["checkpoint"]


def test_results_and_checkpoint_name_each_other(config, few_images):
    run, results = train(config("num_epochs", 1))
    about = checkpoint.describe(run.run_dir.checkpoint)
    assert results["checkpoint"] == about["sha256"]
    assert about["training"] == {key: results[key] for key in ("seed", "epochs", "settings")}


# ---- a start that fails ----


@pytest.mark.parametrize(
    "options", [("weights", "missing.pt"), ("test_only", "True"), ("model_dir", "nothing"), ("resolution", "4")]
)
def test_a_failed_start_leaves_no_directory(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    command = ["-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+", "output_dir", "run", *options]
    assert cli.main(command) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not Path("output").exists()


def test_a_failed_start_of_another_run_changes_nothing(config, few_images):
    run, _ = train(config("output_dir", "run", "num_epochs", 1))
    before = {path.name for path in run.run_dir.path.iterdir()}
    with refused(CheckpointError, kind="other_identity", key="seed"):
        train(config("output_dir", "run", "num_epochs", 1, "seed", 1))
    assert {path.name for path in run.run_dir.path.iterdir()} == before
