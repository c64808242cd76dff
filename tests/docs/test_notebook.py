"""docs/notebook.md runs as it is printed, and computes the same as the command line."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import main as cli
from datasets import DATASETS
from datasets.sets import digits_lt

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs/notebook.md"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The variables after running the page's code, block after block, in a separate folder, with half of the images."""
    whole = digits_lt.build()
    train, test = (part.subset(slice(None, None, 2)) for part in (whole.train, whole.test))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "digits_lt", lambda *_: dataclasses.replace(whole, train=train, test=test))
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        names = {}
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
            exec(compile(block, PAGE.name, "exec"), names)
        yield names


def test_the_scores_are_those_of_the_command_line(notebook):
    options = ["num_epochs", "2", "output_dir", "command"]
    assert cli.main(["-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+", *options]) == 0
    results = json.loads(Path("output/command/results.json").read_text())
    for key in ("accuracy", "more", "per_class"):
        assert notebook["scores"][key] == results[key]
    checkpoints = [Path(f"output/{name}/checkpoint.safetensors").read_bytes() for name in ("notebook", "command")]
    assert checkpoints[0] == checkpoints[1]


def test_a_test_can_be_repeated(notebook):
    assert notebook["scores"] == notebook["again"]
    assert notebook["on_training_images"]["accuracy"] != notebook["scores"]["accuracy"]


def test_logits_and_features_are_those_of_the_scores(notebook):
    logits, features, labels = (notebook[name] for name in ("logits", "features", "labels"))
    assert (logits.dtype, logits.shape, features.shape) == (np.float32, (250, 10), (250, 1, 128))
    assert 100 * accuracy_score(labels, logits.argmax(1)) == pytest.approx(notebook["scores"]["accuracy"]["overall"])
    with torch.no_grad():
        head = notebook["trainer"].model.head(torch.from_numpy(features[:, 0]))
    assert np.allclose(head.numpy(), logits, atol=1e-5)


def test_training_helps(notebook):
    assert notebook["scores"]["accuracy"]["overall"] > notebook["before"] + 2


def test_a_model_from_plain_arguments(notebook):
    assert notebook["out"].shape == (2, 3)
    assert "head.weight" in notebook["trainable"]
    assert all(name == "head.weight" or ".side." in name for name in notebook["trainable"])
