"""Checkpoints: the trained tensors and no others, whole or not at all, and never the wrong ones."""

import pytest
import torch

from models import convert_upstream
from models.backbones.transformer import Linear
from utils.errors import CheckpointError
from utils.run import checkpoint

IDENTITY = {"backbone": "clip_tiny", "weights": "abc"}


def model(*widths, frozen=True):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(Linear(4, width) for width in widths))
    layers[0].requires_grad_(not frozen)
    return layers


def save(path, module):
    checkpoint.save(path, checkpoint.trained_tensors(module), IDENTITY)


def refusal(path, module, identity=IDENTITY):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(module, path, identity, convert_upstream)
    assert (
        all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()) or identity != IDENTITY
    )
    return str(caught.value)


def test_a_checkpoint_is_the_trained_tensors(tmp_path):
    saved, loaded = model(4, 3), model(4, 3)
    save(tmp_path / "c", saved)
    assert set(checkpoint.load(tmp_path / "c")[0]) == {"1.weight", "1.bias"}
    torch.nn.init.zeros_(loaded[1].weight)
    checkpoint.restore(loaded, tmp_path / "c", IDENTITY, convert_upstream)
    assert torch.equal(loaded[1].weight, saved[1].weight)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, model(4, 3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    save(path, model(4, 3))
    before = path.read_bytes()

    def no_space(file):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        save(path, model(4, 5))
    assert path.read_bytes() == before


def test_other_names_are_refused_by_name(tmp_path):
    save(tmp_path / "c", model(4, 3))
    message = refusal(tmp_path / "c", model(4, 3, 2))
    assert "it lacks 2.bias, 2.weight" in message
    message = refusal(tmp_path / "c", model(4, frozen=False))
    assert "it lacks 0.bias, 0.weight" in message
    assert "it has besides 1.bias, 1.weight" in message


def test_other_shapes_are_refused_by_name(tmp_path):
    save(tmp_path / "c", model(4, 3))
    assert "1.weight [3, 4] where [5, 4] is needed" in refusal(tmp_path / "c", model(4, 5))


def test_other_frozen_weights_are_refused(tmp_path):
    save(tmp_path / "c", model(4, 3))
    message = refusal(tmp_path / "c", model(4, 3), IDENTITY | {"backbone": "clip_vit_b16"})
    assert "clip_tiny" in message
    assert "clip_vit_b16" in message


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04cos\nsystem\n"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "c", model(4, 3))


def test_a_truncated_file_is_refused(tmp_path):
    save(tmp_path / "c", model(4, 3))
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole[:-7])
    assert "damaged" in refusal(tmp_path / "c", model(4, 3))


def test_a_missing_file_says_what_to_do(tmp_path):
    message = refusal(tmp_path / "c", model(4, 3))
    assert "train first" in message
    assert "model_dir" in message
