"""scripts/adjust.py on small runs: its output against formulas, scipy and a Trainer, and its errors."""

import json
import shutil
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from earlier_runs import COUNTS, DATA, flags, trainer_logits
from helpers import assert_one_sentence
from PIL import Image
from scipy import optimize, special
from sklearn.metrics import log_loss

import main as cli
from models import load_run
from utils.adjustment import read_adjustment
from utils.run import checkpoint, results

PRIOR = COUNTS / COUNTS.sum()
CLASSES = 10


@pytest.fixture
def adjust(call, runs):
    """adjust(RUN, ARGUMENTS...) -> the written adjustment, and the output."""

    def fit(name, *arguments):
        status, out, error = call("adjust", runs / name, *arguments)
        assert status == 0, error
        return read_adjustment(runs / name / "adjustment.json", CLASSES), out

    return fit


# ---- the written adjustment ----


@pytest.mark.parametrize("arguments", [("--tau", 0), ("--temperature", 1), ("--target", "uniform")])
def test_identities_change_no_logit(arguments, adjust):
    """tau 0, T 1, and for a model of the loss LA the uniform prior, which it already has."""
    adjustment, _ = adjust("la", *arguments)
    logits = trainer_logits("la", "test")
    assert adjustment.scaled(logits).tobytes() == logits.tobytes()


def test_tau_is_post_hoc_logit_adjustment(adjust):
    adjustment, out = adjust("linear", "--tau", 0.7)
    np.testing.assert_allclose(adjustment.bias, -0.7 * np.log(PRIOR))
    assert (adjustment.temperature, adjustment.scale, adjustment.zero_shot) == (1, None, False)
    assert "tau       0.7, from the option" in out


def test_the_uniform_prior_of_a_model_of_cross_entropy_is_tau_1(adjust):
    adjustment, _ = adjust("linear", "--target", "uniform")
    shift = adjustment.bias + np.log(PRIOR)
    np.testing.assert_allclose(shift, shift.mean())


@pytest.mark.parametrize(("source", "expected"), [((), 0), (("--source", "training"), 1)])
def test_a_file_of_counts_is_a_target(source, expected, adjust, tmp_path):
    shares = np.arange(1, 11)
    names = load_run("output/la").classnames
    lines = [f"{c if c % 2 else names[c]},{count}" for c, count in enumerate(shares)]
    (tmp_path / "target.csv").write_text("class,count\n" + "\n".join(reversed(lines)))
    adjustment, _ = adjust("la", "--target", tmp_path / "target.csv", *source)
    np.testing.assert_allclose(special.softmax(adjustment.bias + expected * np.log(PRIOR)), shares / shares.sum())


def test_the_temperature_is_scipys_optimum_on_images_weighted_to_the_models_prior(adjust):
    adjustment, out = adjust("la", "--temperature", "fit")
    logits, labels = trainer_logits("la", "train").astype(float), DATA.train.labels
    weights = 1 / COUNTS[labels]  # the loss LA makes the model's prior uniform

    def loss(temperature):
        p = special.softmax(logits / temperature, axis=1)
        return log_loss(labels, p, sample_weight=weights, labels=np.arange(CLASSES))

    found = optimize.minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-10})
    assert adjustment.temperature == pytest.approx(found.x, rel=1e-4)
    assert adjustment.bias is None
    assert "the model was trained on these images" in out


def test_a_sweep_takes_the_best_tau(adjust):
    adjustment, _ = adjust("linear", "--tau", "sweep")
    logits, labels = trainer_logits("linear", "train"), DATA.train.labels

    def mean_class(tau):
        predicted = (logits - tau * np.log(PRIOR)).argmax(1)
        return np.mean([(predicted[labels == c] == c).mean() for c in range(CLASSES)])

    assert mean_class(adjustment.about["tau"]) == max(mean_class(tau) for tau in np.linspace(0, 2, 41))


@pytest.mark.parametrize("tau", [0.5, 1])
def test_tau_normalisation_divides_the_rows_of_the_head(tau, adjust, runs):
    adjustment, _ = adjust("linear", "--tau-norm", tau)
    model = load_run(runs / "linear").model
    features = torch.randn(5, model.tower.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight = model.head.weight
        expected = features @ (weight / weight.norm(dim=1, keepdim=True) ** tau).T
        found = adjustment.apply(model.head(features).numpy())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_gla_adds_debiased_zero_shot_logits(adjust, runs):
    """z_ft + z_zs - log q, q being the bias with which zero-shot CLIP predicts the class shares of its images."""
    adjustment, _ = adjust("la", "--gla", "--temperature", 2)
    z_zs = {split: trainer_logits("zs", split) for split in ("train", "test")}
    log_q = np.array(adjustment.about["log_q"])
    assert np.exp(log_q).sum() == pytest.approx(1)
    mean = special.softmax(z_zs["train"] - log_q + np.log(PRIOR), axis=1).mean(axis=0)
    assert mean == pytest.approx(PRIOR, abs=1e-5)
    expected = special.softmax((trainer_logits("la", "test") + z_zs["test"] - log_q) / 2, axis=1)
    np.testing.assert_allclose(predicted_probabilities(runs / "la"), expected, atol=1e-5)


def test_gla_of_zero_shot_clip_is_debiased_zero_shot_clip(adjust):
    adjustment, _ = adjust("zs", "--gla")
    assert not adjustment.zero_shot
    shift = adjustment.bias + np.array(adjustment.about["log_q"])
    np.testing.assert_allclose(shift, shift.mean(), atol=1e-12)


def predicted_probabilities(run):
    """The probabilities [n, C] that a run predicts for files of the test images."""
    paths = [f"{index}.png" for index in range(len(DATA.test))]
    for index, path in enumerate(paths):
        Image.fromarray(DATA.test.images.read(index).permute(1, 2, 0).numpy()).save(path)
    found = load_run(run, num_workers=0).predict(paths, top=CLASSES)
    by_class = [{ranked.label: ranked.probability for ranked in each.top} for each in found]
    return np.array([[each[c] for c in range(CLASSES)] for each in by_class])


def test_predictions_use_what_was_written(adjust, runs):
    logits = trainer_logits("la", "test")
    np.testing.assert_allclose(predicted_probabilities(runs / "la"), special.softmax(logits, axis=1), atol=1e-6)
    adjustment, _ = adjust("la", "--tau", 0.3, "--temperature", "fit")
    expected = special.softmax((logits - 0.3 * np.log(PRIOR)) / adjustment.temperature, axis=1)
    np.testing.assert_allclose(predicted_probabilities(runs / "la"), expected, atol=1e-5)


def test_the_table_has_the_scores_of_the_test_after_everything_is_chosen(adjust, runs):
    _, out = adjust("linear", "--tau", 1)
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| 125 test images")]
    assert [row[1] for row in rows] == ["before", "after"]
    logits, labels = trainer_logits("linear", "test"), DATA.test.labels
    for row, z in zip(rows, (logits, logits - np.log(PRIOR)), strict=True):
        assert float(row[2]) == pytest.approx(100 * (z.argmax(1) == labels).mean(), abs=0.005)
        assert float(row[7]) == pytest.approx(log_loss(labels, special.softmax(z.astype(float), axis=1)), abs=6e-5)
    accuracy = json.loads((runs / "linear/results.json").read_text())["accuracy"]
    shown = [accuracy[key] for key in ("overall", "mean_class", "many", "medium", "few")]
    assert rows[0][2:7] == ["-" if value is None else f"{value:.2f}" for value in shown]


# ---- files ----


def test_a_dry_run_writes_nothing_and_reset_removes(adjust, call, runs):
    path = runs / "la/adjustment.json"
    assert adjust("la", "--tau", 1, "--dry-run")[0].is_identity
    adjust("la", "--tau", 1)
    assert path.exists()
    assert "tau         1\n" in call("adjust", runs / "la")[1]
    path.write_text("damaged")
    assert call("adjust", runs / "la")[0] == 2
    assert call("adjust", runs / "la", "--reset")[:2] == (0, f"removed   {path}\n")
    assert not path.exists()
    assert "no adjustment" in call("adjust", runs / "la", "--reset")[1]
    assert "no adjustment" in call("adjust", runs / "la")[1]


def test_logits_of_the_run_are_read_where_they_are_of_its_checkpoint(adjust, runs, monkeypatch):
    computed, out = adjust("la", "--temperature", "fit")
    for options in (("test_train", "True"), ("test_only", "True")):
        assert cli.main(flags("la", "output_dir", "la", "save_logits", "True", *options)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("run_logits.load_model", None)  # nothing is computed
        read, again = adjust("la", "--temperature", "fit")
        assert (read.temperature, again) == (computed.temperature, out)

    # files of another checkpoint are not read
    logits = runs / "la/logits_train.npz"
    about = results.logits_about(logits)
    with np.load(logits) as file:
        labels = file["labels"]
    results.save_logits(logits, np.eye(CLASSES)[labels] + np.eye(CLASSES)[0], labels, about)
    content = json.loads((runs / "la/results_train.json").read_text())
    (runs / "la/results_train.json").write_text(json.dumps(content | {"checkpoint": "another"}))
    assert adjust("la", "--temperature", "fit")[0].temperature == computed.temperature


def test_logits_of_other_images_can_be_given_by_hand(adjust, runs, tmp_path):
    logits, labels = trainer_logits("la", "test")[::2], DATA.test.labels[::2]
    results.save_logits(tmp_path / "own.npz", logits, labels, {"fingerprint": "0123456789abcdef"})
    adjustment, out = adjust("la", "--temperature", "fit", "--logits", tmp_path / "own.npz")
    assert adjustment.temperature != 1
    assert "63 other images" in out and "was trained on these" not in out


def test_the_adjustment_of_an_earlier_checkpoint_is_refused(adjust, runs, call):
    adjust("la", "--tau", 1)
    shutil.copy(runs / "la/adjustment.json", runs / "la1")
    status, _, error = call("adjust", runs / "la1")
    assert status == 2
    assert_one_sentence(error)
    assert call("adjust", runs / "la1", "--tau", 1)[0] == 0  # it can be fitted again


def test_validation_images_are_preferred(adjust, runs):
    assert cli.main(flags("la", "val_fraction", 0.3, "output_dir", "held")) == 0
    adjustment, out = adjust("held", "--temperature", "fit")
    assert adjustment.about["images"].endswith("validation images")
    assert "was trained on" not in out
    assert adjust("held", "--temperature", "fit", "--on", "train")[0].temperature != adjustment.temperature
    options = ("val_fraction", 0.3, "test_only", "True", "test_split", "val", "save_logits", "True")
    assert cli.main(flags("la", "output_dir", "held", *options)) == 0
    with np.load(runs / "held/logits_val.npz") as file:
        logits, labels = file["logits"].astype(float), file["labels"]
    weights = 1 / np.bincount(labels)[labels]
    columns = {"labels": np.arange(CLASSES), "sample_weight": weights}

    def loss(temperature):
        return log_loss(labels, special.softmax(logits / temperature, axis=1), **columns)

    found = optimize.minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-10})
    assert adjustment.temperature == pytest.approx(found.x, rel=1e-3)


def test_given_numbers_need_no_images(call, runs):
    """The table has the test images if they are available."""
    status, out, _ = call("adjust", runs / "la", "--tau", 1, "--temperature", 2, "--root", "pictures")
    assert status == 0
    assert "note      the test images are left out: digits_lt" in out
    found = read_adjustment(runs / "la" / "adjustment.json", 10)
    np.testing.assert_allclose(found.bias, -np.log(DATA.class_counts / DATA.class_counts.sum()))
    assert found.temperature == 2
    status, out, _ = call("adjust", runs / "la", "--tau", 1)
    assert [line.split(" |")[0] for line in out.splitlines() if "after" in line] == [f"| {len(DATA.test)} test images"]


def test_validation_images_are_compared_with_those_of_training_and_test(call, runs, monkeypatch):
    """A list of training images is reported, and the list of test images is an error."""
    monkeypatch.setattr("run_logits.build_data", lambda *_, **__: DATA)
    for split, lines in (("train", "the run was trained on 171 of the 171 validation images"), ("test", None)):
        listed = getattr(DATA, split)
        monkeypatch.setattr("run_logits.own_images", lambda data, *_, images=listed: images)
        status, out, error = call("adjust", runs / "la", "--tau", 1, "--on", "val")
        assert status == (0 if lines else 2)
        assert (lines or "") in out
    assert_one_sentence(error)


def test_training_again_removes_the_adjustment_of_the_earlier_checkpoint(adjust, runs):
    adjust("linear", "--tau", 1)
    assert cli.main(flags("linear", "output_dir", "linear")) == 0
    assert not (runs / "linear/adjustment.json").exists()


# ---- refusals ----


@pytest.mark.parametrize(
    ("run", "arguments"),
    [
        ("la", ("--tau-norm", "1")),
        ("zs", ("--tau-norm", "1")),
        ("la", ("--on", "val", "--tau", "sweep")),
        ("none", ("--tau", "1")),
        ("none", ("--reset",)),
        ("la", ("--target", "missing.csv")),
        ("la", ("--gla", "--logits", "missing.npz")),
        ("la", ("--tau", "1", "--logits", "missing.npz")),
        ("la", ("--tau", "sweep", "--root", "pictures")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_commands_are_refused(run, arguments, call, runs):
    status, _, error = call("adjust", runs / run, *arguments)
    assert status == 2
    assert_one_sentence(error)
    assert not (runs / run / "adjustment.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tau", "1", "--target", "uniform"),
        ("--gla", "--tau", "1"),
        ("--tau", "x"),
        ("--temperature", "0"),
        ("--temperature", "nan"),
        ("--source", "training"),
        ("--reset", "--tau-norm", "1"),
        ("--on", "test", "--tau", "1"),
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused(arguments, call, runs, capsys):
    with pytest.raises(SystemExit) as caught:
        call("adjust", runs / "la", *arguments)
    assert caught.value.code == 2
    assert_one_sentence(capsys.readouterr().err.splitlines()[-1], "scripts/adjust.py: error: ")


def test_gla_without_a_text_tower_is_refused(call, runs, tmp_path):
    helpers.vit_pair(tmp_path)
    weights = ["weights", str(tmp_path / "vit.safetensors"), "activation", "gelu", "heads", "2", "mean", "half"]
    options = ["classifier_init", "None", "num_epochs", "1", "num_workers", "0", "output_dir", "vit"]
    assert cli.main(["-d", "digits_lt", "-b", "vit", "-m", "lp", *weights, *options]) == 0
    status, _, error = call("adjust", runs / "vit", "--gla")
    assert status == 2
    assert_one_sentence(error)


def test_fitting_on_the_test_set_is_refused(call, runs, tmp_path):
    """Under any name, with any logits, and if the run does not record its test images."""
    assert cli.main(flags("la", "output_dir", "la", "save_logits", "True", "test_only", "True")) == 0
    shutil.copy(runs / "la/logits_test.npz", tmp_path / "harmless.npz")
    arguments = ("--temperature", "fit", "--logits", tmp_path / "harmless.npz")
    for change in (lambda: None, forget_test_images):
        change()
        status, _, error = call("adjust", "output/la", *arguments)
        assert status == 2
        assert_one_sentence(error)
    assert not (runs / "la/adjustment.json").exists()


def forget_test_images():
    """Makes output/la a run that does not record its data."""
    path = Path("output/la/checkpoint.safetensors")
    tensors, about = checkpoint.load(path)
    about["data"]["fingerprint"].pop("test")
    checkpoint.save(path, tensors, about)
    for file in path.parent.glob("results*.json"):
        file.unlink()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zero,1",
        "zero,1\nzero,2",
        "zero,-1",
        "zero,nan",
        "zero,inf",
        "zero,1\neleven,2",
        "zero",
        "\n".join(f"{c},0" for c in range(10)),
        "\x00\udcff",
    ],
)
def test_wrong_priors_are_refused(text, call, runs, tmp_path):
    (tmp_path / "prior.csv").write_bytes(text.encode(errors="surrogateescape"))
    status, _, error = call("adjust", runs / "la", "--target", tmp_path / "prior.csv")
    assert status == 2
    assert_one_sentence(error)


@pytest.mark.parametrize("damage", ["truncated", "shapes", "classes", "nan", "unmarked"])
def test_damaged_logits_are_refused(damage, call, runs, tmp_path):
    path, about = tmp_path / "logits.npz", {"fingerprint": "0123456789abcdef"}
    logits, labels = np.zeros((20, CLASSES), np.float32), np.arange(20) % CLASSES
    if damage == "shapes":
        logits = logits[:, :5]
    elif damage == "classes":
        labels[0] = CLASSES
    elif damage == "nan":
        logits[3] = np.nan
    results.save_logits(path, logits, labels, {} if damage == "unmarked" else about)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:700])
    status, _, error = call("adjust", runs / "la", "--temperature", "fit", "--logits", path)
    assert status == 2
    assert_one_sentence(error)
