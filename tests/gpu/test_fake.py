"""The fake GPU detects the same errors as a real one: a tensor left on the CPU, a step that waits for the device."""

import pytest
import torch
from fake_gpu import fake_gpu, labels, pixels, small_model
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

# fake tensors of two devices, or a real tensor beside fake ones
OTHER_DEVICE = "found at least two devices|different devices|two different devices|convert all Tensors to FakeTensors"


class Planted(nn.Module):
    """A head with a tensor that `to` does not move: neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__()
        self.shift = torch.ones(3)

    def forward(self, features):
        return features[:, :3] + self.shift


class MadeInForward(nn.Module):
    """A head that makes a tensor on the CPU in every forward pass."""

    def forward(self, features):
        return features[:, :3] * torch.arange(3)


@pytest.mark.parametrize("head", [Planted, MadeInForward])
def test_a_tensor_on_the_cpu_is_an_error(head):
    model = small_model()
    model.head = head()
    with fake_gpu(model), pytest.raises((RuntimeError, AssertionError), match=OTHER_DEVICE):
        model(pixels(2))


def test_a_batch_on_the_cpu_is_an_error():
    model = small_model()
    with fake_gpu(model), pytest.raises(RuntimeError, match=OTHER_DEVICE):
        model(pixels(2).cpu())


@pytest.mark.parametrize(
    "wait",
    [lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: bool((x > 0).all()), lambda x: x[x > 0]],
    ids=["item", "tolist", "bool", "mask"],
)
def test_waiting_for_the_gpu_is_an_error(wait):
    with fake_gpu(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        wait(labels(2))


def test_models_are_on_the_gpu_and_their_outputs_too():
    model = small_model()
    with fake_gpu(model):
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cuda"}
        assert (model(pixels(2)).device.type, model(pixels(2)).shape) == ("cuda", (2, 3))
