"""Runs for scripts that evaluate them again: trained once per session; scripts are called within the process."""

import contextlib
import dataclasses
import functools
import importlib
import shutil
import sys
from pathlib import Path

import pytest

import main as cli
from datasets import DATASETS
from datasets.sets import digits_lt
from trainer import Trainer
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
command = importlib.import_module("command")

RUNS = {  # name: method and options
    "la": ("lift+",),
    "la1": ("lift+", "seed", 1),
    "linear": ("lp", "classifier", "LinearClassifier", "loss_type", "CE"),
    "zs": ("zs",),
}


WHOLE = digits_lt.build()
DATA = dataclasses.replace(
    WHOLE, train=WHOLE.train.subset(slice(None, None, 2)), test=WHOLE.test.subset(slice(None, None, 4))
)
COUNTS = DATA.class_counts
FOLDERS: list[Path] = []  # of the trained runs, once there are some


def flags(name, *more):
    """The command line of a run."""
    method, *options = map(str, (*RUNS[name], *more))
    return ["-d", "digits_lt", "-b", "clip_tiny", "-m", method, "num_epochs", "1", "num_workers", "0", *options]


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory):
    """A folder with output/NAME of each of RUNS, trained for an epoch on some images of digits_lt."""
    folder = tmp_path_factory.mktemp("runs")
    FOLDERS.append(folder)
    with in_folder(folder):
        for name in RUNS:
            assert cli.main(flags(name, "output_dir", name)) == 0
    return folder


@contextlib.contextmanager
def in_folder(folder):
    """Makes it the working directory in the block, with few images in digits_lt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(DATASETS, "digits_lt", lambda *source: digits_lt.build(*source) and DATA)
        yield


@pytest.fixture
def runs(trained_runs, tmp_path):
    """A copy of these runs to change; the working directory is its folder. Yields output/."""
    shutil.copytree(trained_runs / "output", tmp_path / "output")
    with in_folder(tmp_path):
        yield Path("output")


@pytest.fixture
def call(capsys):
    """call(SCRIPT, ARGUMENTS...) -> exit status, stdout and stderr of a script."""

    def run_script(script, *arguments):
        capsys.readouterr()
        module = importlib.import_module(script)
        status = command.execute(module.run, [str(argument) for argument in arguments], "nothing changed")
        return status, *capsys.readouterr()

    return run_script


@functools.cache
def trainer_logits(name, split):
    """The logits of a trained run by a Trainer, float32 [n, C]."""
    arguments = [*flags(name)[6:], "output_dir", f"tested_{name}", "model_dir", name, "test_only", "True"]
    with in_folder(FOLDERS[0]), Trainer(load_config("digits_lt", "clip_tiny", RUNS[name][0], arguments)) as trainer:
        return trainer.predict(split)
