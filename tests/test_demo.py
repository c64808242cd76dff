"""The demo: clip_tiny within its limits, and its accuracy and LIFT+'s on digits_lt, far below the usual values."""

import json

import pytest
from safetensors import safe_open

import main as cli
from models.backbones import BACKBONES
from models.weights.load import ASSETS, load_backbone


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """demo(method, options...) -> results.json of `-d digits_lt -b clip_tiny -m method`."""
    monkeypatch.chdir(tmp_path)

    def run(method, *options):
        assert cli.main(["-d", "digits_lt", "-b", "clip_tiny", "-m", method, "output_dir", method, *options]) == 0
        return json.loads((tmp_path / "output" / method / "results.json").read_text())

    return run


def test_clip_tiny_is_small_and_says_how_it_was_made():
    path = ASSETS / "clip_tiny.safetensors"
    assert path.stat().st_size <= 5_000_000
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        assert {"command", "seed", "steps", "seconds", "versions", "images", "zero_shot_test"} <= set(file.metadata())
    assert {part.get_dtype() for name, part in tensors.items() if name != "token_ids"} == {"F16"}
    backbone, _ = load_backbone("clip_tiny")
    outside = [p.numel() for name, p in backbone.named_parameters() if "token_embedding" not in name]
    assert sum(outside) <= 2_000_000
    assert backbone.config == BACKBONES["clip_tiny"].config


@pytest.mark.slow
def test_zero_shot(demo):
    results = demo("zs")
    assert results["accuracy"]["overall"] > 60
    assert results["params"]["trained"] == 0


@pytest.mark.slow
def test_lift_plus(demo):
    """In 3 of the demo's 20 epochs."""
    results = demo("lift+", "num_epochs", "3")
    assert results["accuracy"]["overall"] > 90
    assert results["accuracy"]["few"] > 80
