"""Heavy packages are imported only when they are used, and not for a part of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer import run
from utils.config import load_config
from utils.imports import submodule
from utils.optim import OPTIMIZERS

ROOT = Path(__file__).parents[1]
HEAVY = {"torch._dynamo", "torchvision", "timm", "open_clip", "sklearn", "scipy", "matplotlib", "tensorboard", "pandas"}
# runs a step of training, without the curves of a whole run, and predicts; prints the imported modules
COMMANDS = """
import sys
sys.path[:0] = [{root!r}, {scripts!r}]
from predict import main as predict
from trainer import Trainer
from utils.config import load_config
with Trainer(load_config("folder", "clip_vit", "lift+", {options!r} + ["output_dir", {other!r}])) as trainer:
    trainer.train_step(*next(trainer.train_batches()))
assert predict([{run!r}, {picture!r}, "--num_workers", "0"]) == 0
print("imported", *sys.modules)
"""


def test_a_step_and_a_prediction_import_no_heavy_package(tmp_path):
    """The weights have a description in open_clip's terms, and the pictures are JPEGs."""
    for split in ("train", "test"):
        for number, name in enumerate(("one", "two")):
            picture = tmp_path / split / name / "0.jpg"
            picture.parent.mkdir(parents=True)
            Image.new("RGB", (40, 40), (number, 80 * number, len(split))).save(picture)
    for name in ("clip_tiny.safetensors", "open_clip_config.json"):
        (tmp_path / name).write_bytes((ROOT / "assets" / name).read_bytes())
    options = ["root", str(tmp_path), "weights", str(tmp_path / "clip_tiny.safetensors"), "num_workers", "0"]
    run(load_config("folder", "clip_vit", "lift+", [*options, "num_epochs", "1", "output_dir", str(tmp_path / "run")]))
    paths = {"root": ROOT, "scripts": ROOT / "scripts", "run": tmp_path / "run", "other": tmp_path / "other"}
    code = COMMANDS.format(**{name: str(path) for name, path in paths.items()}, picture=str(picture), options=options)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    first, *imported = done.stdout.splitlines()[-1].split()
    assert first == "imported"
    assert HEAVY & set(imported) == set()
    assert "torchvision_without_init.io.image" in imported  # it was a JPEG


def test_a_submodule_is_the_packages_own_once_that_is_imported():
    import torchvision.io

    submodule.cache_clear()
    assert submodule("torchvision.io.image").decode_jpeg is torchvision.io.decode_jpeg


def test_a_package_that_is_missing_is_named():
    with pytest.raises(ModuleNotFoundError, match="'no_such_package'"):
        submodule("no_such_package.module")


@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.9}), ("AdamW", {"betas": (0.9, 0.999)})])
def test_an_optimizer_without_the_compiler_takes_torchs_steps(name, options):
    results = []
    for build in (OPTIMIZERS[name], getattr(torch.optim, name)):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        own = {"momentum": 0.9} if build is OPTIMIZERS[name] else options
        optimizer = build([parameter], lr=0.1, weight_decay=0.01, **own)
        for _ in range(3):
            (parameter**3).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append((parameter.detach(), optimizer.state_dict()["state"][0]))
    (ours, our_state), (theirs, their_state) = results
    assert torch.equal(ours, theirs)
    assert our_state.keys() == their_state.keys()
