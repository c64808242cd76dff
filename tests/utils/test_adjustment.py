"""The record of an adjustment: identities, its formula against scipy, and damaged files or those of another run."""

import json

import numpy as np
import pytest
from helpers import refused
from scipy import special

from utils.adjustment import Adjustment, read_adjustment, write_adjustment
from utils.errors import CheckpointError

CLASSES = 4


def logits(seed=0, count=50):
    return np.random.default_rng(seed).normal(0, 3, (count, CLASSES)).astype(np.float32)


def full(**changes):
    """An adjustment that changes everything."""
    rng = np.random.default_rng(1)
    fields = {"temperature": 0.7, "scale": rng.uniform(0.5, 2, CLASSES), "bias": rng.normal(0, 1, CLASSES)}
    return Adjustment(**(fields | {"about": {"on": "val", "checkpoint": "abc"}} | changes))


def test_the_identity_changes_no_bit():
    z = logits()
    assert Adjustment().is_identity
    assert Adjustment().apply(z) is z
    assert Adjustment(temperature=1.0).apply(z).tobytes() == z.tobytes()
    np.testing.assert_allclose(Adjustment().probabilities(z), special.softmax(z, axis=1), rtol=1e-6)


def test_the_formula_is_that_of_the_record():
    z, zero_shot = logits(), logits(2)
    adjustment = full(zero_shot=True)
    expected = adjustment.scale * z.astype(float) + adjustment.bias + zero_shot
    np.testing.assert_allclose(adjustment.apply(z, zero_shot), expected, rtol=1e-5, atol=1e-5)
    found = adjustment.probabilities(z, zero_shot)
    np.testing.assert_allclose(found, special.softmax(expected / 0.7, axis=1), rtol=1e-4, atol=1e-6)
    assert found.dtype == adjustment.apply(z, zero_shot).dtype == np.float32
    assert not adjustment.is_identity
    with pytest.raises(ValueError):
        adjustment.apply(z)


def test_probabilities_of_huge_logits_are_finite():
    assert np.isfinite(Adjustment(temperature=1e-3).probabilities(100 * logits())).all()


@pytest.mark.parametrize("scale", [True, False])
def test_a_file_gives_back_every_bit(scale, tmp_path):
    written = full() if scale else full(scale=None, zero_shot=True)
    write_adjustment(tmp_path / "adjustment.json", written)
    found = read_adjustment(tmp_path / "adjustment.json", CLASSES, "abc")
    assert (found.temperature, found.zero_shot, found.about) == (0.7, written.zero_shot, written.about)
    assert found.bias.tobytes() == written.bias.tobytes()
    assert (found.scale is None) == (not scale)
    assert found.scale is None or found.scale.tobytes() == written.scale.tobytes()


def test_without_a_file_there_is_no_adjustment(tmp_path):
    assert read_adjustment(tmp_path / "adjustment.json", CLASSES).is_identity


DAMAGE = {
    "half": lambda text: text[: len(text) // 2],
    "binary": lambda text: "\0\1",
    "deep": lambda text: "[" * 100_000,
    "list": lambda text: "[]",
    "null": lambda text: "null",
}
FIELDS = {
    "format": {"format": 99},
    "temperature_zero": {"temperature": 0},
    "temperature_nan": {"temperature": float("nan")},
    "temperature_tiny": {"temperature": 1e-300},
    "temperature_bool": {"temperature": True},
    "temperature_text": {"temperature": "1"},
    "bias_short": {"bias": [0.0]},
    "bias_text": {"bias": "0000"},
    "bias_infinite": {"bias": [0.0, 0.0, 0.0, float("inf")]},
    "bias_beyond_float32": {"bias": [0.0, 0.0, 0.0, 1e300]},
    "bias_huge": {"bias": [0, 0, 0, 10**400]},
    "bias_nested": {"bias": [0.0, 0.0, 0.0, []]},
    "scale_none": {"scale": [1.0, 1.0, 1.0, None]},
    "zero_shot": {"zero_shot": 1},
    "about": {"about": []},
}


@pytest.mark.parametrize("damage", [*DAMAGE, *FIELDS, "lacking"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    path = tmp_path / "adjustment.json"
    write_adjustment(path, full())
    content = json.loads(path.read_text())
    if damage in DAMAGE:
        path.write_text(DAMAGE[damage](path.read_text()))
    elif damage in FIELDS:
        path.write_text(json.dumps(content | FIELDS[damage]))
    else:
        path.write_text(json.dumps({key: content[key] for key in content if key != "bias"}))
    with refused(CheckpointError, kind="damaged_adjustment", path=path):
        read_adjustment(path, CLASSES)


def test_a_folder_in_its_place_is_refused(tmp_path):
    with refused(CheckpointError, kind="unreadable_adjustment", path=tmp_path):
        read_adjustment(tmp_path, CLASSES)


def test_an_adjustment_of_another_checkpoint_is_refused(tmp_path):
    path = tmp_path / "adjustment.json"
    write_adjustment(path, full())
    with refused(CheckpointError, kind="stale_adjustment", path=path):
        read_adjustment(path, CLASSES, "another")
