"""Compares bf16 with float32 on this machine: products, training steps and tests; and the choice of `amp`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from benchmarks.timing import Row, compare
from models.backbones import kernels
from utils.device.precision import PRECISIONS, cpu_has_bf16, pick_precision, precision_name

if TYPE_CHECKING:
    from benchmarks.run import Setup

COLUMNS = ("bf16", "float32")
PASSES = 3  # over the products, in a turn


def measure(setup: "Setup") -> list[Row]:
    """Rates in both precisions, and their ratio, for the Linears of a block, whole training steps, and tests.

    On a CPU without bf16 instructions only products are measured, as the program computes in float32 there.
    """
    rows = [_products(setup)]
    if setup.device.type == "cuda" or cpu_has_bf16():
        rows += _program(setup)
    chosen = precision_name(pick_precision("amp", setup.device)[0])
    slower = [row.what for row in rows if row.ratio and (row.ratio > 1) != (chosen == "bf16")]
    rows[0].note = f"amp is {chosen} on this machine, which is " + (
        f"slower in: {'; '.join(slower)}" if slower else "faster in all of these"
    )
    return rows


def _products(setup: "Setup") -> Row:
    """The four frozen Linears of a block, as models/backbones/kernels.py computes them: GFLOP/s."""
    plan, device = setup.plan, setup.device
    dim, tokens = plan.sizes.dim, (plan.sizes.resolution // plan.sizes.patch) ** 2 + 1
    widths = ((dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim))
    flops = sum(2 * plan.train_images * tokens * fan_in * fan_out for fan_in, fan_out in widths)

    def products(dtype: torch.dtype) -> Callable[[], None]:
        def tensor(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)

        work = [(tensor(plan.train_images, tokens, n), tensor(m, n), tensor(m)) for n, m in widths]

        @torch.inference_mode()
        def compute() -> None:
            for x, weight, bias in work * PASSES:
                kernels.linear(x, weight, bias)

        compute()  # the first call chooses and compiles kernels
        return compute

    seconds = setup.turns({"plain": products(PRECISIONS["fp32"]), "ours": products(PRECISIONS["bf16"])})
    what = f"products of a block, {plan.train_images} x {tokens} rows"
    return compare(what, seconds, PASSES * flops / 1e9, unit="GFLOP/s")


def _program(setup: "Setup") -> list[Row]:
    """Training steps, and tests on files, of two trainers."""
    plan = setup.plan
    images, labels = (tensor.to(setup.device) for tensor in setup.batch(plan.train_images))
    options = {"root": setup.test_root(1), "expand": setup.expand, "batch_size": plan.train_images}
    options["num_workers"] = plan.test_workers
    with (
        setup.trainer(**options, prec_train="fp32", prec_test="fp32") as plain,
        setup.trainer(**options, prec_train="bf16", prec_test="bf16") as ours,
    ):
        seconds = setup.turns(
            {
                "plain": lambda: plain.train_step(images, labels),
                "ours": lambda: ours.train_step(images, labels),
            }
        )
        rows = [compare(f"training step, {plan.train_images} images", seconds, plan.train_images)]
        seconds = setup.turns({"plain": plain.evaluate, "ours": ours.evaluate})
        rows += [compare(f"testing, {plan.test_images} images", seconds, plan.test_images)]
    return rows
