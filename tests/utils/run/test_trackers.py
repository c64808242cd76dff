"""Trackers: the calls of a run to each package, recorded by stand-ins with the packages' public signatures."""

import importlib
import json
import sys

import pytest
from helpers import train

from utils.config.schema import KEYS
from utils.run.directory import RunDir
from utils.run.log import RunLog
from utils.run.trackers import TRACKERS, hyperparameters

STAND_INS = {
    # wandb.init(entity, project, dir, id, name, notes, tags, config, ...) -> Run with log(data, step) and finish()
    "wandb": """
calls = []
class Run:
    def log(self, data, step=None, commit=None):
        calls.append(("log", step, data))
    def finish(self, exit_code=None, quiet=None):
        calls.append(("finish",))
def init(entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None):
    calls.append(("open", project, name, config))
    return Run()
""",
    "mlflow": """
calls = []
opened = []
def set_experiment(experiment_name=None, experiment_id=None):
    opened.append(experiment_name)
def start_run(run_id=None, experiment_id=None, run_name=None, nested=False):
    opened.append(run_name)
def log_params(params, synchronous=None, run_id=None):
    calls.append(("open", *opened, params))
def log_metrics(metrics, step=None, synchronous=None, run_id=None, timestamp=None):
    calls.append(("log", step, metrics))
def end_run(status="FINISHED"):
    calls.append(("finish",))
""",
    "trackio": """
calls = []
def init(project, name=None, group=None, space_id=None, dataset_id=None, config=None, resume="never"):
    calls.append(("open", project, name, config))
def log(metrics, step=None):
    calls.append(("log", step, metrics))
def finish():
    calls.append(("finish",))
""",
}
OPTIONS = ("num_epochs", 1, "output_dir", "run", "print_freq", 3, "val_fraction", 0.2, "val_every", 1)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(NAME, more="") -> a stand-in of that package, from a file on the path, which records its calls."""
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "packages")

    def install(name, more=""):
        (tmp_path / f"packages/{name}.py").write_text(STAND_INS[name] + more)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield install
    for name in STAND_INS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_gets_options_curves_and_scores(name, installed, config, few_images):
    package = installed(name)
    run, results = train(config(*OPTIONS, "tracker", name))
    opened, *logged, finished = package.calls
    assert opened == ("open", "lift_plus", "run", hyperparameters(results["settings"]))
    assert finished == ("finish",)
    assert {step for _, step, _ in logged} == {3, 4}  # 59 images in steps of 16
    steps, rest = logged[:2], logged[2:]
    lines = [json.loads(line) for line in run.run_dir.metrics.read_text().splitlines()]
    expected = [{f"train/{key}": value for key, value in line.items() if key != "step"} for line in lines[:2]]
    assert [values for _, _, values in steps] == expected
    validation, test = (values for _, _, values in rest)
    assert validation == {key: value for key, value in lines[2].items() if key.startswith("val/") and value is not None}
    assert test["test/overall"] == results["accuracy"]["overall"]
    assert "test/many" not in test  # undefined


FAIL = """
def fail(*_, **__):
    calls.append(("failed",))
    raise RuntimeError("the server\\nis gone")
"""


@pytest.mark.parametrize(
    ("name", "call"), [("wandb", "init"), ("wandb", "Run.log"), ("mlflow", "end_run"), ("trackio", "log")]
)
def test_a_tracker_that_fails_is_one_warning(name, call, installed, config, few_images, capsys):
    """The run is complete, and its curves are in its own files."""
    package = installed(name, f"{FAIL}{call} = fail\n")
    run, results = train(config(*OPTIONS, "tracker", name))
    assert package.calls.count(("failed",)) == 1
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1
    assert "warning   the tracker failed (RuntimeError: the server\\nis gone); it gets no more numbers" in printed
    assert len(run.run_dir.metrics.read_text().splitlines()) == 3
    assert run.run_dir.results().exists()
    assert results["accuracy"]["overall"] is not None


def test_a_package_that_exits_does_not_end_the_run(installed, tmp_path, capsys):
    installed("wandb", "\ndef init(**_):\n    raise SystemExit('log in first')\n")
    with RunLog(RunDir(tmp_path / "run")) as log:
        log.start_tracker("wandb", {})
        assert log.tracker is None
    assert "warning   the tracker failed (SystemExit: log in first)" in capsys.readouterr().out


def test_the_settings_are_those_that_are_on():
    settings = {"lr": 0.1, "v.lora": False, "seed": 0, "accum_step": None, "mean": [0.5, 0.5, 0.5], "classes": "ab12"}
    assert hyperparameters(settings) == {"lr": 0.1, "seed": 0, "mean": "[0.5, 0.5, 0.5]"}
    assert tuple(TRACKERS) == KEYS["tracker"].choices


def test_a_test_opens_no_tracker(installed, config, few_images):
    train(config("num_epochs", 1, "output_dir", "run"))
    package = installed("wandb")
    train(config("num_epochs", 1, "output_dir", "run", "tracker", "wandb", "test_only", "True"))
    assert package.calls == []
