"""scripts/average.py on small runs: tensors against formulas and a Trainer, commands on the result, errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import run_averages
import torch
from earlier_runs import DATA, flags, trainer_logits
from helpers import assert_one_sentence, weights
from results_table import collect

import main as cli
from models import load_run
from trainer import Trainer
from utils.config import load_config
from utils.run import checkpoint
from utils.run.directory import RunDir


@pytest.fixture
def average(call, runs):
    """average(ARGUMENTS...) -> the tensors and the `about` of output/new, and the output."""

    def make(*arguments):
        status, out, error = call("average", *arguments, "--out", runs / "new")
        assert status == 0, error
        tensors, about = checkpoint.load(runs / "new/checkpoint.safetensors")
        return tensors, about, out

    return make


def tensors_of(name):
    return checkpoint.load(Path(f"output/{name}/checkpoint.safetensors"))[0]


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(found[name].numpy().tobytes() == expected[name].detach().numpy().tobytes() for name in expected)


def command_on_new(*options):
    """The command that tests output/new."""
    return flags("la", "output_dir", "new", "test_only", "True", *options)


# ---- WiSE-FT ----


@pytest.mark.parametrize(
    "options", [(), ("classifier_init", "class_mean"), ("v.adaptformer", "False", "v.lora", "True")]
)
def test_alpha_0_is_the_model_before_its_first_step(options, average, runs):
    """Recomputed without the trainer, except for a head that starts from training images."""
    assert cli.main(flags("la", "output_dir", "other", *options)) == 0
    arguments = [*flags("la")[6:], "output_dir", "untrained", *options]
    with Trainer(load_config("digits_lt", "clip_tiny", "lift+", arguments)) as trainer:
        start = weights(trainer)
    found, _, out = average(runs / "other", "--alpha", 0)
    assert_equal(found, start)
    assert ("start     zero-shot CLIP\n" in out) == ("class_mean" not in options)
    assert not torch.equal(start["head.weight"], tensors_of("other")["head.weight"])


def test_alpha_1_is_the_run_bit_for_bit(average, runs):
    found, about, _ = average(runs / "la", "--alpha", 1)
    assert_equal(found, tensors_of("la"))
    assert "training" not in about
    assert cli.main(command_on_new()) == 0
    new, old = (json.loads((runs / file).read_text()) for file in ("new/results_test.json", "la/results.json"))
    assert new["accuracy"] == old["accuracy"]
    assert new["averaged"] == "WiSE-FT, alpha 1" and "unknown_training" not in new
    assert new["settings"] == old["settings"]


def test_alpha_lies_between(average, runs):
    start = average(runs / "la", "--alpha", 0)[0]
    shutil.rmtree(runs / "new")
    found, _, _ = average(runs / "la", "--alpha", 0.3)
    for name, end in tensors_of("la").items():
        expected = 0.7 * start[name].numpy().astype(float) + 0.3 * end.numpy().astype(float)
        np.testing.assert_array_equal(found[name].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("key", ["model_dir", "init_from"])
def test_the_start_of_a_run_that_started_from_another_is_that_one(key, average, runs, call):
    assert cli.main(flags("la", key, "la1", "output_dir", "later")) == 0
    found, _, out = average(runs / "later", "--alpha", 0)
    assert_equal(found, tensors_of("la1"))
    assert "not zero-shot CLIP" in out
    shutil.rmtree(runs / "new")
    shutil.copy(runs / "la/checkpoint.safetensors", runs / "la1/checkpoint.safetensors")
    status, _, error = call("average", runs / "later", "--out", runs / "new")
    assert status == 2
    assert_one_sentence(error)


# ---- soups ----


def test_a_soup_is_the_mean_of_its_runs(average, runs):
    found, about, _ = average(runs / "la", runs / "la1")
    for name, tensor in tensors_of("la").items():
        expected = (tensor.double() + tensors_of("la1")[name].double()) / 2
        assert torch.equal(found[name], expected.float())
    sources = about["averaged"]["sources"]
    checksums = [checkpoint.describe(runs / name / "checkpoint.safetensors")["sha256"] for name in ("la", "la1")]
    assert [source["checkpoint"] for source in sources] == checksums
    assert [source["run"] for source in sources] == ["la", "la1"]
    assert len(about["trained_on"]) == 1  # the same images
    settings = about["averaged"]["training"]["settings"]
    assert "seed" not in settings and settings["loss_type"] == "LA"


def test_a_soup_is_tested_predicts_is_adjusted_and_collected(average, runs, call, capsys):
    average(runs / "la", runs / "la1")
    assert cli.main(command_on_new("save_logits", "True")) == 0
    assert "it is an average: soup of 2 runs" in capsys.readouterr().out
    with np.load(runs / "new/logits_test.npz") as file:
        logits = file["logits"]
    found = load_run(runs / "new").logits(DATA.test.images)
    assert found.tobytes() == logits.tobytes()
    content = json.loads((runs / "new/results_test.json").read_text())
    assert (content["averaged"], content["seed"]) == ("soup of 2 runs", None)
    assert content["data"]["trained_on"] == 0

    status, out, _ = call("adjust", runs / "new", "--target", "training")
    assert status == 0 and "from the prior of its loss, LA, to training" in out
    rows = {
        row.test: len(row.runs) for row in collect(RunDir.all_results(runs), runs) if row.runs[0].run in ("la", "new")
    }
    assert rows == {"1 crop": 2, "1 crop, soup of 2 runs": 1}  # the two runs have a separate row


def test_training_never_replaces_an_average(average, runs, capsys):
    average(runs / "la", runs / "la1")
    assert cli.main(flags("la", "output_dir", "new")) == 2
    assert_one_sentence(capsys.readouterr().err)


def test_the_greedy_soup_is_chosen_by_validation_images(average, runs, monkeypatch):
    """The accuracy of each candidate is a Trainer's on the same images, here the test's, called validation."""
    monkeypatch.setattr(run_averages, "own_images", lambda *_: DATA.test)
    monkeypatch.setattr(run_averages, "build_data", lambda *_, **__: DATA)
    _, about, out = average(runs / "la", runs / "la1", "--greedy", "--score", "overall")
    scores = [100 * (trainer_logits(name, "test").argmax(1) == DATA.test.labels).mean() for name in ("la", "la1")]
    found = [float(line.split()[1]) for line in out.splitlines() if line.startswith("score")]
    assert found[:2] == pytest.approx(scores, abs=0.005)
    chosen = [source["weight"] > 0 for source in about["averaged"]["sources"]]
    assert chosen[int(np.argmax(scores))]
    assert all(chosen) == (found[2] >= max(found[:2]))
    assert about["averaged"]["training"]["averaged"] == f"greedy soup of {sum(chosen)} of 2 runs"


def test_the_greedy_soup_takes_no_run_that_was_trained_on_the_validation_images(call, runs, monkeypatch):
    monkeypatch.setattr(run_averages, "own_images", lambda *_: DATA.train)
    monkeypatch.setattr(run_averages, "build_data", lambda *_, **__: DATA)
    status, _, error = call("average", runs / "la", runs / "la1", "--greedy", "--out", runs / "new")
    assert status == 2
    assert_one_sentence(error)


# ---- refusals ----


@pytest.mark.parametrize(
    "arguments",
    [
        ("la", "linear"),
        ("zs",),
        ("none",),
        ("la", "la1", "--greedy"),
        ("la", "--out", "output/la1"),
        ("la", "--out", "output/la/config.yaml/new"),
    ],
    ids=" ".join,
)
def test_wrong_runs_are_refused(arguments, call, runs):
    before = sorted(runs.rglob("*"))
    words = [runs / word if (runs / word).exists() or word == "none" else word for word in arguments]
    status, _, error = call("average", *words)
    assert status == (1 if "config.yaml" in arguments[-1] else 2)
    assert_one_sentence(error, "failed: " if status == 1 else "error: ")
    assert sorted(runs.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [("la", "la1", "--alpha", "0.5"), ("la", "--greedy"), ("la", "--alpha", "1.5")], ids=" ".join
)
def test_wrong_options_are_refused(arguments, call, capsys):
    with pytest.raises(SystemExit) as caught:
        call("average", *arguments)
    assert caught.value.code == 2
    assert_one_sentence(capsys.readouterr().err.splitlines()[-1], "scripts/average.py: error: ")


def test_an_average_has_no_start(average, runs, call):
    average(runs / "la", runs / "la1")
    status, _, error = call("average", runs / "new")
    assert status == 2
    assert_one_sentence(error)
