"""Averages of tensors against numpy's, their identities bit for bit, the greedy choice by hand, and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused

from utils.errors import CheckpointError
from utils.run import averaging
from utils.run.averaging import average, describe_average, greedy, require_alike, require_same_shapes

PATHS = Path("one/checkpoint.safetensors"), Path("other/checkpoint.safetensors")


def state(seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    tensors = {"head.weight": torch.randn(3, 4, generator=generator), "bias": torch.randn(3, generator=generator)}
    tensors["bias"][0] = -0.0
    return tensors | {"batches": torch.tensor(seed)} | more


def bits(tensors):
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize(("weights", "expected"), [([0.0, 1.0], 1), ([1.0, 0.0], 0)])
def test_the_ends_of_wise_ft_are_its_tensors_bit_for_bit(weights, expected):
    states = [state(0), state(1)]
    assert bits(average(states, weights)) == bits(states[expected])


def test_a_soup_of_one_run_or_of_copies_is_that_run_bit_for_bit():
    assert bits(average([state(3)], [1.0])) == bits(state(3))
    for count in range(2, 8):
        copies = average([state(3)] * count, [1 / count] * count)
        assert all(torch.equal(copies[name], tensor) for name, tensor in state(3).items())


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0), (0.2, 0.3, 0.5), (1 / 3, 1 / 3, 1 / 3), (-0.5, 1.5, 0)])
def test_an_average_is_numpys(weights):
    states = [state(seed) for seed in range(3)]
    found = average(states, weights)
    for name in ("head.weight", "bias"):
        stacked = np.stack([each[name].numpy() for each in states]).astype(np.float64)
        expected = np.tensordot(weights, stacked, axes=1)
        assert found[name].dtype == torch.float32
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-6, atol=1e-7)
    assert found["batches"] == (2 if weights[2] else 1)


def test_the_greedy_soup_takes_what_does_not_lower_the_score():
    """Scores of means of numbers: the distance to 10. 9 is the best; 12 helps, 0 does not, and 10.5 is equal."""
    states = [{"x": torch.tensor([value], dtype=torch.float64)} for value in (0.0, 12.0, 9.0, 10.5)]
    tried = []

    def score(tensors, numbers):
        tried.append(float(tensors["x"]))
        assert tried[-1] == pytest.approx(np.mean([float(states[number]["x"]) for number in numbers]))
        return -abs(10 - tried[-1])

    assert greedy(states, score) == [3, 2]  # 10.5, then 9.75; with 12 it is 10.5, with 0 6.5
    assert tried == pytest.approx([0, 12, 9, 10.5, 9.75, 10.5, 6.5])


def test_the_greedy_soup_of_equal_scores_has_all_runs_in_their_order():
    assert greedy([state(seed) for seed in range(4)], lambda tensors, numbers: 50.0) == [0, 1, 2, 3]


# ---- records ----


def about(seed=0, **changes):
    settings = {"seed": seed, "lr": 0.02, "resolution": None, "prompt": "default", "training images": "abc"}
    settings |= {key: value for key, value in changes.items() if key in ("resolution", "prompt", "lr")}
    training = {"seed": seed, "epochs": 5, "settings": settings}
    identity = {
        "backbone": "clip_tiny",
        "weights": "w",
        "classes": "c",
        "classifier": "CosineClassifier",
        "mean": [0.5],
    }
    identity |= {key: value for key, value in changes.items() if key in identity}
    records = {"data": {"name": "digits_lt", "counts": [1]}, "trained_on": changes.get("trained_on", [{"kind": "a"}])}
    return identity | records | {"training": training, "sha256": f"sha{seed}", "format": 2}


def test_runs_of_other_seeds_and_rates_are_alike():
    require_alike(about(0), about(1, lr=0.1), PATHS)
    require_same_shapes(state(0), state(1), PATHS)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"weights": "v", "mean": [0.1]}, "weights"),
        ({"classes": "d"}, "classes"),
        ({"mean": [0.1]}, "mean"),
        ({"classifier": "LinearClassifier"}, "classifier"),
        ({"resolution": 48}, "resolution"),
    ],
)
def test_other_models_are_refused_by_the_first_difference(changes, key):
    with refused(CheckpointError, kind="not_alike", path=PATHS[1], key=key):
        require_alike(about(), about(1, **changes), PATHS)


def test_prompts_differ_where_the_head_reads_them():
    runs = about(), about(1, prompt="ensemble")
    require_alike(*runs, PATHS)
    with refused(CheckpointError, kind="not_alike", path=PATHS[1], key="prompt"):
        require_alike(*({**run, "classifier": None} for run in runs), PATHS)


@pytest.mark.parametrize("more", [{"bias": torch.zeros(4)}, {"lora": torch.zeros(1)}])
def test_other_tensors_are_refused_by_the_first_difference(more):
    with refused(CheckpointError, kind="not_alike", path=PATHS[1]):
        require_same_shapes(state(), state(1, **more), PATHS)


def test_the_record_of_an_average_has_its_sources_and_what_they_share():
    runs = [
        about(0),
        about(1, lr=0.1, trained_on=[{"kind": "a"}, {"kind": "b"}]),
        about(2, trained_on=[{"kind": "unknown"}]),
    ]
    found = describe_average(runs, [0.2, 0.3, 0.5], "a soup", ["x", "y", "z"])
    assert "training" not in found and "sha256" not in found and "format" not in found
    assert [(each["run"], each["checkpoint"], each["weight"]) for each in found["averaged"]["sources"]] == [
        ("x", "sha0", 0.2),
        ("y", "sha1", 0.3),
        ("z", "sha2", 0.5),
    ]
    shared = averaging.training_of(found)
    assert (shared["seed"], shared["epochs"], shared["averaged"]) == (None, 5, "a soup")
    assert shared["settings"] == {"resolution": None, "prompt": "default", "training images": "abc"}
    assert found["trained_on"] == [{"kind": "a"}, {"kind": "b"}, {"kind": "unknown"}]
    assert found["backbone"] == "clip_tiny" and found["data"]["name"] == "digits_lt"
    require_alike(found, about(5), PATHS)  # an average of averages
