"""The report of a run, and scripts/report.py, which writes it again and compares runs."""

import importlib
import shutil

import pytest
import script_runs  # noqa: F401 (finds the scripts)
from helpers import assert_one_sentence
from report_runs import NAMES, make_run, random_predictions

import main as cli
import trainer as trainer_module
from utils.run.directory import RunDir

script = importlib.import_module("report")

pytestmark = pytest.mark.slow
COMMAND = ["-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+", "num_epochs", "1", "batch_size", "64"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that trained, with its tests by five crops and on the training images."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for options in ([], ["test_only", "True", "tte", "True"], ["test_train", "True"]):
        assert cli.main([*COMMAND, "output_dir", str(folder), *options]) == 0
    return RunDir(folder)


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of it, with the times of its files."""
    return RunDir(shutil.copytree(trained.path, tmp_path / "run"))


def report(*arguments):
    return script.main([str(argument) for argument in arguments])


def test_every_test_leaves_its_page_and_renews_that_of_the_run(trained):
    log = trained.path / "log.txt"
    last = [line.split("  ", 1)[1] for line in log.read_text().splitlines() if line[:1].isdigit()][-1]
    assert last == f"report    {trained.path}/report.html"
    assert {path.name for path in trained.path.glob("*.html")} == {
        "report.html",
        "report_tte.html",
        "report_train.html",
    }
    page = (trained.path / "report.html").read_text()
    assert "5 crops" in page
    assert "train images" in page
    assert "likely mislabelled" in page
    assert page.count('<img src="data:image/jpeg;base64,') >= 24
    assert "not at hand" not in page
    assert len(page) < 3_000_000
    assert list(trained.path.glob("*.partial")) == []


def test_the_script_writes_the_same_pages(run_dir, capsys):
    before = {path.name: path.read_bytes() for path in run_dir.path.glob("*.html")}
    for name in before:
        (run_dir.path / name).unlink()
    assert report(run_dir.path, "--all") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"report    {run_dir.path}/report.html"
    assert {path.name for path in run_dir.path.glob("*.html")} == before.keys()
    assert (run_dir.path / "report.html").read_bytes() == before["report.html"]
    # these were written before the later tests were there
    assert (run_dir.path / "report_train.html").read_bytes() == before["report_train.html"]


def test_images_that_are_gone_leave_names(run_dir, tmp_path, capsys):
    run_dir.config.unlink()
    out = tmp_path / "page.html"
    assert report(run_dir.path, "--out", out) == 0
    assert "no thumbnails" in capsys.readouterr().err
    page = out.read_text()
    assert "<img" not in page
    assert "not at hand" in page
    assert "image " in page


def test_a_report_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no\nroom")

    monkeypatch.setattr(trainer_module, "write_report", fail)
    assert cli.main(["-d", "digits_lt", "-b", "clip_tiny", "-m", "zs", "output_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/results.json").exists()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("warning   the report could not be written (ValueError: no")


def test_no_report_where_it_is_not_asked_for(tmp_path):
    options = ["output_dir", str(tmp_path / "run"), "report", "False"]
    assert cli.main(["-d", "digits_lt", "-b", "clip_tiny", "-m", "zs", *options]) == 0
    assert list((tmp_path / "run").glob("*.html")) == []


def test_zero_shot_has_a_page(tmp_path):
    assert cli.main(["-d", "digits_lt", "-b", "clip_tiny", "-m", "zs", "output_dir", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run/report.html").read_text()
    assert "zero-shot, from texts of the class names" in page
    assert "Curves of training" not in page


# ---- the script alone ----


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [make_run(tmp_path / name, random_predictions(5, 9, seed), NAMES[:5]).path for seed, name in enumerate("ab")]


def test_several_runs_are_compared(two_runs, tmp_path, capsys):
    assert report(*two_runs) == 0
    assert capsys.readouterr().out == "report    output/comparison.html\n"
    assert "2 runs on digits_lt" in (tmp_path / "output/comparison.html").read_text()
    assert report(*two_runs, "--out", "other.html") == 0
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "output/comparison.html").read_bytes()


@pytest.mark.parametrize(
    "arguments", [["missing"], ["a", "missing"], ["a", "b", "--all"], ["a", "--out", "missing/page.html"], ["a"] * 13]
)
def test_wrong_input_is_refused_in_a_sentence(arguments, two_runs, tmp_path, capsys):
    assert report(*arguments) == 2
    assert not (tmp_path / "output").exists()
    error = capsys.readouterr().err
    assert_one_sentence("".join(line for line in error.splitlines(keepends=True) if not line.startswith("note")))
