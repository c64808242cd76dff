"""Backward passes and optimizers without a GPU: the Trainer's own step on the meta device, the update on a fake one."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from cases import covering
from fake_gpu import fake_gpu, model_with, small_model
from torch import nn

from models.losses import LOSSES
from models.peft import METHODS
from models.precision import FrozenWeights
from trainer import Trainer
from utils.device.distributed import Distributed
from utils.device.precision import PRECISIONS
from utils.optim import OPTIMIZERS
from utils.run.checkpoint import trainable_tensors

META = torch.device(
    "meta"
)  # tensors without numbers: reading one is an error, and so is a tensor of the CPU beside one
COUNTS = torch.tensor([9, 4, 1])
OPTIONS = {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9}


def take_steps(model, loss="LA", precision=torch.float32, optimizer="SGD", micro_batch_size=4):
    """Two steps of four images, as Trainer.train_step takes them; returns the optimizer."""
    FrozenWeights(model, precision)
    model.to(META).train()
    state = SimpleNamespace(
        device=META,
        distributed=Distributed(),
        model=model,
        loss=LOSSES[loss](COUNTS).to(META),
        micro_batch_size=micro_batch_size,
        optimizer=OPTIMIZERS[optimizer](trainable_tensors(model).values(), **OPTIONS),
        scaler=torch.amp.GradScaler("cuda", enabled=False),
    )
    images = torch.zeros(4, 3, *[model.tower.resolution] * 2, dtype=torch.uint8, device=META)
    for _ in range(2):
        counters = Trainer.train_step(state, images, torch.zeros(4, dtype=torch.int64, device=META))
        assert (counters.device, counters.shape) == (META, (2,))
    return state.optimizer


def assert_all_trained(model, optimizer):
    """Every trainable parameter got a gradient, of its own device."""
    trained = trainable_tensors(model)
    assert {*optimizer.state} == {*trained.values()} and trained
    state = [value for values in optimizer.state.values() for name, value in values.items() if name != "step"]
    assert {tensor.device for tensor in state} == {META}


OF_VITS = [name for name, method in METHODS.items() if method.targets != ("resnet",)]


@pytest.mark.parametrize(("method", "precision"), covering(OF_VITS, [*PRECISIONS], together=1))
def test_every_method_trains_without_waiting(method, precision):
    model = model_with(method)
    assert_all_trained(model, take_steps(model, precision=PRECISIONS[precision]))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if "resnet" in method.targets])
def test_every_method_of_a_resnet_trains_without_waiting(method, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # none on meta
    model = small_model("CLIP ResNet", methods={method: {}})
    assert_all_trained(model, take_steps(model))


@pytest.mark.parametrize(("loss", "optimizer"), covering([*LOSSES], [*OPTIMIZERS], together=1))
def test_every_loss_and_optimizer_trains_without_waiting(loss, optimizer):
    model = small_model()
    whole = loss == "LADE"
    assert_all_trained(model, take_steps(model, loss, optimizer=optimizer, micro_batch_size=4 if whole else 3))


class Reads(nn.Module):
    def forward(self, features):
        return features[:, :3] * float(features.abs().max())


class LeftBehind(nn.Module):
    def forward(self, features):
        return features[:, :3] + torch.ones(3)


@pytest.mark.parametrize("head", [Reads, LeftBehind])
def test_a_step_that_waits_or_mixes_devices_is_found(head):
    model = small_model(methods={"bitfit": {}})
    model.head = head()
    with pytest.raises(RuntimeError, match="meta"):
        take_steps(model)


# ---- the update of fp16 ----


@pytest.fixture
def fused_sgd():
    """torch has no form of its fused SGD for tensors without numbers: it changes its arguments and returns nothing."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_fused_sgd_", lambda *_, **__: None, "Meta")
        yield


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_update_of_fp16_does_not_wait(optimizer, fused_sgd):
    """GradScaler checks on the device whether gradients are finite, and the fused optimizer skips the step there."""
    with fake_gpu():
        parameter = nn.Parameter(torch.zeros(3, 4, device="cuda"))
        optimizer = OPTIMIZERS[optimizer]([parameter], **OPTIONS)
        assert optimizer.param_groups[0]["fused"]
        scaler = torch.amp.GradScaler("cuda")
        for _ in range(2):
            assert scaler.scale(torch.zeros((), device="cuda")).device.type == "cuda"
            parameter.grad = torch.zeros(3, 4, device="cuda")
            scaler.step(optimizer)
            scaler.update()
        assert {value.device.type for value in optimizer.state[parameter].values()} == {"cuda"}


def test_that_of_another_optimizer_would_wait():
    with fake_gpu():
        parameter = nn.Parameter(torch.zeros(3, device="cuda"))
        parameter.grad = torch.zeros(3, device="cuda")
        scaler = torch.amp.GradScaler("cuda")
        scaler.scale(torch.zeros((), device="cuda"))
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            scaler.step(torch.optim.SGD([parameter], 0.1))
