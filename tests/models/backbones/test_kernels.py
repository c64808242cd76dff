"""The kernels are the plain computation: attention, linear, activation, convolutions."""

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_near, image_tower, normal_images, resnet
from torch import nn
from torch.profiler import ProfilerActivity, profile

from models import precision
from models.backbones import BACKBONES, kernels
from models.backbones.text import TextConfig, TextTransformer
from models.backbones.tokenizer import tokenize
from models.backbones.transformer import ACTIVATIONS

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def kernels_of(function):
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return {event.key: event.count for event in recorded.key_averages()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_runs_in_the_flash_kernel_or_in_bf16_as_products(dtype):
    """In every block of both towers, forward and backward, the last block's single query too."""
    image, text = image_tower(3, adaptformer=True, adaptformer_dim=2), TextTransformer(TextConfig(64, 2))
    for tower, inputs in ((image, normal_images(2, 32)), (text, tokenize(["a photo of a cat."]))):
        precision.FrozenWeights(tower).cast(dtype)
        found = kernels_of(functools.partial(lambda f, x: f(x).float().sum().backward(), tower.to(dtype), inputs))
        assert not [name for name in found if "attention_math" in name]
        if dtype == torch.bfloat16:
            assert FLASH not in found
            assert found["aten::_softmax"] == len(tower.blocks)
        else:
            assert found[FLASH] == len(tower.blocks)
            assert found[f"{FLASH}_backward"] >= len(tower.blocks) - 1  # nothing trains before the first attention


@pytest.mark.parametrize(("queries", "causal"), [(9, False), (9, True), (1, False)])
def test_attention_as_products_is_attention(queries, causal, device):
    """Against torch's own in float64, value and gradients, within bf16's rounding. A GPU uses its fused kernel."""
    torch.manual_seed(0)
    given = [torch.randn(3, 2, n, 16).bfloat16() for n in (queries, 9, 9)]
    grad, results = torch.randn(3, 2, queries, 16), []
    for function, dtype in ((kernels.attend, torch.bfloat16), (F.scaled_dot_product_attention, torch.float64)):
        q, k, v = (x.clone().to(device, dtype).requires_grad_() for x in given)
        out = function(q, k, v, **({"causal": causal} if dtype == torch.bfloat16 else {"is_causal": causal}))
        out.backward(grad.to(device, dtype))
        results.append([out, q.grad, k.grad, v.grad])
    for ours, exact in zip(*results, strict=True):
        assert_near(ours.double(), exact, 2e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trains", [None, "weight", "bias"])
@pytest.mark.parametrize("rows", [(16, 128), (3, 5)])
def test_linear_is_linear(dtype, tolerance, bias, trains, rows):
    """Against a product in float64: value and gradients, many rows and few; large frozen ones leave F.linear."""
    torch.manual_seed(0)
    x, w, b = (torch.randn(size).to(dtype) for size in ((*rows, 24), (40, 24), 40))
    x.requires_grad_()
    w.requires_grad_(trains == "weight")
    b = b.requires_grad_(trains == "bias") if bias else None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        found = kernels_of(lambda: kernels.linear(x, w, b))
        out = kernels.linear(x, w, b)
    out[..., :8] += 0  # in place, as LoRA adds to q and v
    grad = torch.randn(out.shape)
    out.backward(grad.to(dtype))
    assert_near(out.double(), x.double() @ w.double().T + (0 if b is None else b.double()), tolerance)
    assert_near(x.grad.double(), grad.to(dtype).double() @ w.double(), tolerance)
    if trains == "weight":
        assert_near(w.grad.double(), grad.double().flatten(0, 1).T @ x.double().flatten(0, 1), tolerance)
    elif trains is None or b is None:
        assert x.shape not in kept and x.flatten(0, 1).shape not in kept
        in_onednn = rows[0] * rows[1] >= kernels.MIN_ROWS[dtype] and kernels.X86
        assert ("mkldnn::_linear_pointwise" in found) == in_onednn
    else:
        assert_near(b.grad.double(), grad.double().flatten(0, 1).sum(0), tolerance)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("rows", [(16, 128), (3, 5)], ids=["many", "few"])
def test_a_linear_with_an_activation_is_both(name, dtype, grad, rows, device):
    """Against torch's formulas in float64; a training step has the gradient, a test one pass in oneDNN."""
    torch.manual_seed(0)
    x, w, b = (torch.randn(size).to(device, dtype) for size in ((*rows, 24), (40, 24), 40))
    x.requires_grad_(grad)
    exact = {
        "quick_gelu": lambda h: h * torch.sigmoid(1.702 * h),
        "gelu": F.gelu,
        "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
        "silu": F.silu,
    }
    with torch.set_grad_enabled(grad):
        out = kernels.linear(x, w, b, ACTIVATIONS[name]())
    h = x.detach().double().requires_grad_()
    expected = exact[name](h @ w.double().T + b.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert out.dtype == dtype
    assert_near(out.double(), expected, tolerance)
    if grad:
        out.sum().backward()
        assert_near(x.grad.double(), torch.autograd.grad(expected.sum(), h)[0], tolerance)


def test_quick_gelu_and_its_derivative(device):
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64, requires_grad=True, device=device)
    ours = torch.autograd.grad(kernels.quick_gelu(x).sum(), x)[0]
    plain = x * torch.sigmoid(1.702 * x)
    assert_near(kernels.quick_gelu(x), plain, 1e-12)
    assert_near(ours, torch.autograd.grad(plain.sum(), x)[0], 1e-12)
    assert torch.autograd.gradcheck(kernels.quick_gelu, x[::100].detach().requires_grad_())


@pytest.mark.parametrize("name", ["clip_rn50", "in1k_rn50"])
def test_convolutions_run_channels_last(name):
    g = BACKBONES[name].config
    tower = resnet((1, 1, 1, 1), 8, 96, joint=16 if g.text else 0)
    tower.load_state_dict(tower.state_dict())  # as in every backbone
    maps = []

    def keep(module, args, out):
        maps.extend([args[0], out])

    for module in tower.net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            module.register_forward_hook(keep)
    with torch.no_grad():
        tower(normal_images(2, 96))
    assert len(maps) > 20
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
