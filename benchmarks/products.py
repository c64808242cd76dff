"""The program's FLOP/s as a share of the device's rate of large matrix products, in the precision of the run.

The rate is measured in the same run. All FLOPs of the work count, even those that the program avoids. See the targets
in docs/gpu.md.
"""

import dataclasses
import statistics
from typing import TYPE_CHECKING

import torch

from benchmarks.baseline import Sizes
from benchmarks.timing import Row, take_turns
from utils.config import load_config
from utils.device.precision import pick_precision, precision_name

if TYPE_CHECKING:
    from benchmarks.run import Setup

SIZE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
TARGETS = {"train": "5,700", "forward": "11,300"}  # images/s on an H100
TARGET_SHARE = 0.45
WORK = {"train": "training step", "forward": "testing, images in memory", "test": "testing, from JPEGs"}


@dataclasses.dataclass(frozen=True)
class Share:
    """Images/s in a stage, and the corresponding share of the device's product rate (FLOP/s)."""

    stage: str
    images_per_second: float
    precision: str
    product_rate: float
    share: float


def forward_flops(sizes: Sizes) -> float:
    """FLOPs per image of a tower's forward pass: patches, Linears, and the two products of attention."""
    patches = (sizes.resolution // sizes.patch) ** 2
    embedding = 2 * patches * 3 * sizes.patch**2 * sizes.dim
    return embedding + sizes.depth * (_linears(sizes) + _attention(sizes))


def training_flops(sizes: Sizes, width: int) -> float:
    """FLOPs per image of a training step with AdaptFormers of this width; no gradient leaves the first block."""
    adapters = 3 * 4 * sizes.dim * width * _tokens(sizes) * sizes.depth
    backward = (sizes.depth - 1) * (_linears(sizes) + 2 * _attention(sizes))
    return forward_flops(sizes) + adapters + backward


def _tokens(sizes: Sizes) -> int:
    return (sizes.resolution // sizes.patch) ** 2 + 1


def _linears(sizes: Sizes) -> float:
    """FLOPs of a block's four Linears, which have 12 d^2 weights."""
    return 24 * sizes.dim**2 * _tokens(sizes)


def _attention(sizes: Sizes) -> float:
    return 4 * _tokens(sizes) ** 2 * sizes.dim


def product_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """FLOP/s of a large matrix product, the best of several turns."""
    size = SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    count = 10 if device.type == "cuda" else 1

    def multiply() -> None:
        for _ in range(count):
            a @ b

    return count * 2 * size**3 / min(take_turns({"product": multiply}, repeats + 1, device)["product"])


def forward(setup: "Setup") -> Row:
    """Times tests with one crop from images in host memory: the device's speed without reading files."""
    plan = setup.plan
    images, _ = setup.batch(plan.train_images)
    with setup.trainer() as trainer:
        trainer.frozen.cast(trainer.test_dtype)
        model = trainer.model.eval()

        @torch.inference_mode()
        def ours() -> None:
            for _ in range(plan.train_steps):
                model(images.to(setup.device, non_blocking=True))

        seconds = setup.turns({"ours": ours})["ours"]
    return Row(WORK["forward"], "images/s", plan.train_images * plan.train_steps / statistics.median(seconds))


def measure(setup: "Setup", rows: dict[str, Row]) -> list[Share]:
    """The shares of the stages in `rows`, by name, that use the tower."""
    plan, shares = setup.plan, []
    data, backbone, method, *options = setup.command()
    cfg = load_config(data, backbone, method, options)
    rates: dict[torch.dtype, float] = {}
    for stage in WORK.keys() & rows.keys():
        dtype, _ = pick_precision(cfg.prec_train if stage == "train" else cfg.prec_test, setup.device)
        if dtype not in rates:
            rates[dtype] = product_rate(setup.device, dtype, plan.repeats)
        flops = training_flops(plan.sizes, plan.width) if stage == "train" else forward_flops(plan.sizes)
        speed = rows[stage].ours
        shares.append(Share(stage, speed, precision_name(dtype), rates[dtype], flops * speed / rates[dtype]))
    return sorted(shares, key=lambda share: list(WORK).index(share.stage))


def table(device: str, shares: list[Share]) -> str:
    """The Markdown of docs/gpu.md."""
    lines = ["| device | work | precision | images/s | target on an H100 | large products | our share | target |"]
    lines += ["|---" * 8 + "|"]
    for share in shares:
        aimed_at = TARGETS.get(share.stage, "")
        cells = [device, WORK[share.stage], share.precision, f"{share.images_per_second:,.1f}", aimed_at]
        cells += [f"{share.product_rate / 1e12:,.2f} TFLOP/s", f"{100 * share.share:.0f} %"]
        cells += [f"{100 * TARGET_SHARE:.0f} %" if aimed_at else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
