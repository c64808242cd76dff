"""Checkpoints: only the trainable parameters, written atomically, and loaded only into the right model."""

import contextlib
import json
import random

import pytest
import torch
from helpers import refused
from safetensors.torch import save_file

from models import convert_upstream
from models.backbones.transformer import Linear
from utils.errors import CheckpointError
from utils.optim import OPTIMIZERS
from utils.run import checkpoint

IDENTITY = {"backbone": "clip_tiny", "weights": "abc"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "c.safetensors"


def model(*widths, frozen=True):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(Linear(4, width) for width in widths))
    layers[0].requires_grad_(not frozen)
    return layers


def save(path, module):
    checkpoint.save(path, checkpoint.trainable_tensors(module), IDENTITY)


def restore(module, path, identity=IDENTITY):
    checkpoint.restore(module, path, identity, convert_upstream)


@contextlib.contextmanager
def unchanged(module):
    """The block changes no tensor of `module`."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    yield
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# ---- content ----


def test_a_checkpoint_is_the_trainable_tensors(path):
    saved, loaded = model(4, 3), model(4, 3)
    save(path, saved)
    assert set(checkpoint.load(path)[0]) == {"1.weight", "1.bias"}
    torch.nn.init.zeros_(loaded[1].weight)
    restore(loaded, path)
    assert torch.equal(loaded[1].weight, saved[1].weight)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, model(4, 3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failure_while_writing_leaves_the_old_file(path, monkeypatch):
    save(path, model(4, 3))
    before = path.read_bytes()

    def no_space(file):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        save(path, model(4, 5))
    assert path.read_bytes() == before


# ---- refusals ----


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((4, 3, 2), id="missing names"),
        pytest.param((4,), id="unexpected names"),
        pytest.param((4, 5), id="other shapes"),
    ],
)
def test_other_tensors_are_refused_by_name(path, other):
    save(path, model(4, 3))
    module = model(*other, frozen=len(other) > 1)
    with unchanged(module), refused(CheckpointError, kind="other_tensors", path=path):
        restore(module, path)


def test_other_frozen_weights_are_refused(path):
    save(path, model(4, 3))
    with refused(CheckpointError, kind="other_identity", path=path, key="backbone"):
        restore(model(4, 3), path, IDENTITY | {"backbone": "clip_vit_b16"})
    with refused(CheckpointError, kind="other_identity", path=path, key="weights"):
        restore(model(4, 3), path, IDENTITY | {"weights": "def"})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04cos\nsystem\n", None])
def test_a_damaged_file_is_refused(path, content):
    """None: a file that lacks its last bytes."""
    save(path, model(4, 3))
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    module = model(4, 3)
    with unchanged(module), refused(CheckpointError, kind="damaged_checkpoint", path=path):
        restore(module, path)


def test_no_flipped_bit_goes_unnoticed(path):
    """Any bit of the file: an error, or the same content, as with a space for a tab in its header."""
    checkpoint.save(path, checkpoint.saved_tensors(model(4, 3)), IDENTITY | {"accuracy": 12.5, "names": ["a", "é"]})
    content, (tensors, about) = path.read_bytes(), checkpoint.load(path)
    flips = random.Random(0).sample(range(8 * len(content)), 400)
    refusals = 0
    for flip in flips:
        damaged = bytearray(content)
        damaged[flip // 8] ^= 1 << flip % 8
        path.write_bytes(damaged)
        try:
            found = checkpoint.load(path)
        except CheckpointError:
            refusals += 1
            continue
        assert found[1] == about
        assert all(torch.equal(found[0][name], value) for name, value in tensors.items())
    assert refusals > 390


def test_a_checksum_cannot_be_left_out(path):
    """A file of earlier versions has none; a file of today without it is damaged."""
    save(path, model(4, 3))
    tensors, about = checkpoint.load(path)
    save_file(tensors, path, {"about": json.dumps(about)})
    with refused(CheckpointError, kind="damaged_checkpoint", path=path):
        checkpoint.load(path)
    del about["format"]
    save_file(tensors, path, {"about": json.dumps(about)})
    assert checkpoint.load(path)[1] == about


def test_the_checksum_is_recorded_and_found(path):
    checksum = checkpoint.save(path, checkpoint.saved_tensors(model(4, 3)), IDENTITY)
    assert checkpoint.describe(path) == IDENTITY | {"format": 2, "sha256": checksum}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_value_that_is_not_finite_is_saved_or_loaded(path, value):
    save(path, model(4, 3))
    before, module = path.read_bytes(), model(4, 3)
    module[1].bias.data[2] = value
    with pytest.raises(FloatingPointError, match="1.bias has values that are not finite"):
        save(path, module)
    assert path.read_bytes() == before
    save_file(checkpoint.trainable_tensors(module), path, {"about": json.dumps(IDENTITY)})  # by an earlier version
    module = model(4, 3)
    with unchanged(module), refused(CheckpointError, kind="not_finite", path=path):
        restore(module, path)
    with refused(CheckpointError, kind="not_finite", path=path):
        checkpoint.read_progress(path)


def test_a_missing_file_is_refused(path):
    with refused(CheckpointError, kind="no_checkpoint", path=path):
        restore(model(4, 3), path)


@pytest.mark.parametrize("content", [{"head": {}}, {"tuner": {}, "head": 3}, [1, 2], None])
def test_a_damaged_upstream_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path)
    with refused(CheckpointError, kind="damaged_upstream_checkpoint", path=path):
        checkpoint.load_upstream(path)


# ---- progress ----


def new_training(optimizer):
    module = model(4, 3, 4, frozen=True)
    parameters = checkpoint.trainable_tensors(module).values()
    return module, OPTIMIZERS[optimizer](parameters, lr=0.1, weight_decay=0.01, momentum=0.9)


def load_progress(path, module, optimizer, identity=IDENTITY):
    progress = checkpoint.read_progress(path)
    progress.load_into(module, optimizer, identity)
    return progress.about


def train(module, optimizer, steps):
    for step in steps:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        sum(layer(x).square().sum() for layer in module).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_progress_resumes_bit_for_bit(path, optimizer):
    whole, resumed = new_training(optimizer), new_training(optimizer)
    train(*whole, range(3))
    checkpoint.save_progress(path, *whole, {"identity": IDENTITY, "epoch": 1})
    train(*whole, range(3, 6))
    assert load_progress(path, *resumed)["epoch"] == 1
    train(*resumed, range(3, 6))
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[name], tensor), name


def test_progress_before_the_first_step_has_no_state(path):
    checkpoint.save_progress(path, *new_training("AdamW"), {"identity": IDENTITY})
    assert set(checkpoint.load(path)[0]) == {f"{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    resumed, whole = new_training("AdamW"), new_training("AdamW")
    load_progress(path, *resumed)
    for training in (resumed, whole):
        train(*training, range(3))
    assert torch.equal(resumed[0][1].weight, whole[0][1].weight)


def test_values_of_the_state_that_are_not_tensors_are_saved(path):
    """As with an optimizer that counts its steps in Python."""
    module, optimizer = new_training("SGD")
    optimizer.state[module[1].weight] = {"count": 7, "unset": None}
    checkpoint.save_progress(path, module, optimizer, {"identity": IDENTITY})
    module, optimizer = new_training("SGD")
    load_progress(path, module, optimizer)
    assert optimizer.state[module[1].weight] == {"count": 7}


def test_progress_of_earlier_versions_loads(path):
    """Their momentum is under "momentum:NAME"."""
    whole, resumed = new_training("SGD"), new_training("SGD")
    train(*whole, range(3))
    trainable = checkpoint.trainable_tensors(whole[0])
    momentum = {f"momentum:{name}": whole[1].state[value]["momentum_buffer"] for name, value in trainable.items()}
    save_file(trainable | momentum, path, {"about": json.dumps({"identity": IDENTITY, "epoch": 1})})
    train(*whole, range(3, 6))
    load_progress(path, *resumed, IDENTITY | {"optimizer": "SGD", "schedule": "cosine"})
    train(*resumed, range(3, 6))
    assert torch.equal(resumed[0][2].weight, whole[0][2].weight)
    with refused(CheckpointError, kind="other_identity", path=path, key="optimizer"):
        load_progress(path, *new_training("AdamW"), IDENTITY | {"optimizer": "AdamW"})


def test_progress_of_other_tensors_is_refused(path):
    checkpoint.save_progress(path, *new_training("SGD"), {"identity": IDENTITY})
    with refused(CheckpointError, kind="other_tensors", path=path):
        load_progress(path, model(4, 3), new_training("SGD")[1])
