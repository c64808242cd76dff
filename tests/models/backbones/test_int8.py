"""Linears in int8: exact without rounding, row by row, and only for frozen Linears."""

import pytest
import torch
from helpers import assert_near, image_tower, normal_images, refused, resnet
from torch.profiler import ProfilerActivity, profile

from models.backbones.int8 import Int8Linear
from models.precision import FrozenWeights, precisions
from utils.device.precision import cpu_has_int8
from utils.errors import ModelError

pytestmark = pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no instructions for int8 products")
DEPTH = 3


def whole_numbers(*shape):
    """-127 .. 127, and 127 in each row, so that its scale is 1."""
    values = torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(0))
    values[..., 0] = 127
    return values


def quantised(tower):
    """The tower in evaluation, and the object that casts it."""
    return tower.eval(), FrozenWeights(tower, torch.float32, torch.int8)


def products(tower, images):
    """The number of Linears computed in int8."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        tower(images)
    return sum(event.count for event in recorded.key_averages() if event.key == "onednn::qlinear_pointwise")


@pytest.mark.parametrize("bias", [True, False])
def test_whole_numbers_have_their_exact_product(bias):
    x, weight = whole_numbers(2, 5, 64), whole_numbers(24, 64)
    b = torch.arange(24) if bias else None
    expected = x @ weight.T + (b if bias else 0)
    assert torch.equal(Int8Linear(weight.float())(x.float(), b if b is None else b.float()), expected.float())


def test_each_row_and_each_output_has_its_own_scale():
    """Scaling a row or an output by a power of two scales only its own result."""
    x, weight = torch.randn(2, 5, 64), torch.randn(24, 64)
    rows, columns = 2.0 ** torch.arange(-4, 6).view(2, 5, 1), 2.0 ** torch.arange(-12, 12)
    plain = Int8Linear(weight)(x, None)
    assert torch.equal(Int8Linear(weight * columns[:, None])(x * rows, None), plain * rows * columns)


def test_a_row_that_is_zero_or_not_finite_stays_so_alone():
    x, weight, bias = torch.randn(1, 5, 64), torch.randn(24, 64), torch.randn(24)
    linear = Int8Linear(weight)
    expected = linear(x, bias)
    x[0, 1], x[0, 2, 7], x[0, 3, 9] = 0, torch.nan, torch.inf
    found = linear(x, bias)
    assert torch.equal(found[0, 1], bias)
    assert not found[0, 2:4].isfinite().any()
    assert torch.equal(found[0, [0, 4]], expected[0, [0, 4]])


@pytest.mark.parametrize("methods", [{}, {"lora": True}, {"adaptformer": True, "ln_tuning": True}, {"bitfit": True}])
def test_a_tower_is_that_of_float32_within_rounding(methods):
    tower, frozen = quantised(image_tower(DEPTH, **methods))
    images, found = normal_images(4, 32), {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.int8):
            frozen.cast(dtype)
            found[dtype] = tower(images)
        assert products(tower, images) == 4 * DEPTH
        assert precisions(tower) == ["torch.float32", "torch.int8"]
        error = (found[torch.int8] - found[torch.float32]).norm() / found[torch.float32].norm()
        assert 0 < error < 0.03
        assert_near(tower(images[:1]), found[torch.int8][:1], 1e-5)  # independent of the rest of the batch
        frozen.cast(torch.float32)
        assert torch.equal(tower(images), found[torch.float32])


def test_nothing_is_computed_in_int8_where_gradients_are_wanted():
    tower, frozen = quantised(image_tower(DEPTH, adaptformer=True))
    frozen.cast(torch.int8)
    assert products(tower, normal_images(1, 32)) == 0


def test_linears_that_train_in_part_stay_in_float32():
    tower, frozen = quantised(image_tower(DEPTH, aft=True, aft_loc="attn", aft_ratio=0.1))
    frozen.cast(torch.int8)
    with torch.no_grad():
        assert products(tower, normal_images(1, 32)) == 2 * DEPTH


@pytest.mark.parametrize(
    "tower", [lambda: image_tower(1, fft=True), lambda: resnet((1, 1, 1, 1), 8, 32)], ids=["full", "resnet"]
)
def test_a_tower_without_frozen_linears_is_refused(tower):
    with refused(ModelError, kind="nothing_in_int8", key="prec_test"):
        FrozenWeights(tower(), torch.bfloat16, torch.int8)
