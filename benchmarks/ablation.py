"""What each means brings by itself: our program against itself with that one means undone, in turns.

A ratio is the time without it over the time with it. The last function shows where a training step and a forward pass
spend their time.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.apart import seconds_per_image
from benchmarks.inputs import camera_photographs, species
from benchmarks.report import Row, compare
from benchmarks.timing import waiter
from benchmarks.work import Bench, build_ours, config, our_step
from datasets.base import ImageList
from datasets.loading.crops import TestCrops, TrainCrop
from datasets.loading.loader import Loader
from datasets.loading.sampler import TrainBatchSampler, sequential_batches
from models.backbones import kernels, transformer
from models.heads import HEAD_INITS
from models.weights.load import load_backbone

Undone = Callable[[], contextlib.AbstractContextManager]


# ---- in a step, and in testing ----


def _model(bench: Bench, what: str, undone: Undone, training: str, testing: str) -> list[Row]:
    """Training steps and forward passes of our model, as it is and within `undone`."""
    predicted = {"training": training, "testing": testing}
    return [
        _row(bench, f"{what}: {name}", work, undone, bench.plan.train_images, predicted[name])
        for name, work in _works(bench)
    ]


def _works(bench: Bench) -> Iterator[tuple[str, Callable]]:
    """A training step and a forward pass of our model, which is in the mode of each while it is the turn of that."""
    ours, images = bench.ours, bench.batch[0].to(bench.device)

    @torch.inference_mode()
    def forward() -> None:
        ours.model(images)

    yield "training", lambda: our_step(bench, ours)
    ours.model.eval()
    forward()  # caches of the first call
    yield "testing", forward
    ours.model.train()


def _row(bench: Bench, what: str, function: Callable, undone: Undone, count: int, predicted: str) -> Row:
    def without() -> None:
        with undone():
            function()

    seconds = bench.turns({"plain": without, "ours": function})
    return compare(what, seconds, count, predicted)


def attention(bench: Bench) -> list[Row]:
    if bench.device.type == "cuda":
        return _model(bench, "fused attention, not the math kernel", lambda: sdpa_kernel(SDPBackend.MATH), "1.2", "1.3")

    def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    what = "attention as bf16 products, not the fused kernel"
    return _model(bench, what, lambda: patch.object(kernels, "attend", fused), "1.2", "1.1")


def linear(bench: Bench) -> list[Row]:
    what = "large frozen linears by oneDNN's convolution"
    return _model(bench, what, lambda: patch.object(kernels, "MIN_ROWS", {}), "1.1", "1.1")


def class_token(bench: Bench) -> list[Row]:
    last = bench.ours.model.tower.blocks[-1]

    def whole(x: Tensor, first_only: bool = False) -> Tensor:
        return type(last).forward(last, x)

    return _model(bench, "last block's class token only", lambda: patch.object(last, "forward", whole), "1.06", "1.06")


class _Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def gelu(bench: Bench) -> list[Row]:
    @contextlib.contextmanager
    def plain():
        mlps = [block.mlp for block in bench.ours.model.tower.blocks]
        acts = [mlp.act for mlp in mlps]
        try:
            for mlp in mlps:
                mlp.act = _Gelu()
            yield
        finally:
            for mlp, act in zip(mlps, acts, strict=True):
                mlp.act = act

    return _model(bench, "quick GELU in its own backward pass, not three operations", plain, "1.05", "1.05")


def layer_norm(bench: Bench) -> list[Row]:
    def casting(self: nn.LayerNorm, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)

    return _model(
        bench,
        "LayerNorm without casts",
        lambda: patch.object(transformer.LayerNorm, "forward", casting),
        "1.02",
        "1.03",
    )


def frozen_precision(bench: Bench) -> list[Row]:
    cfg = config(bench.folder, bench.weights, bench.device, bench.plan, "prec_train", "fp32")
    ours, full = bench.ours, build_ours(cfg, bench.ours.data)
    seconds = bench.turns({"plain": lambda: our_step(bench, full), "ours": lambda: our_step(bench, ours)})
    rows = [compare("frozen weights in bf16, not float32: training", seconds, bench.plan.train_images, "2")]
    images = bench.batch[0].to(bench.device)
    with torch.inference_mode():
        seconds = bench.turns({"plain": lambda: full.model(images), "ours": lambda: ours.model(images)})
    return [*rows, compare("the same: testing", seconds, bench.plan.train_images, "2")]


def crops(bench: Bench) -> list[Row]:
    ours = bench.ours
    images = bench.batch[0][: bench.plan.crops_images, None].expand(-1, 5, -1, -1, -1).to(bench.device)
    with torch.inference_mode():
        functions = {
            "plain": lambda: [ours.model(images[:, k]) for k in range(5)],
            "ours": lambda: ours.model(images.flatten(0, 1)),
        }
        seconds = bench.turns(functions)
    what = f"five crops of {len(images)} images together, not one after another"
    return [compare(what, seconds, len(images), "1.0")]


# ---- elsewhere ----


def text(bench: Bench) -> list[Row]:
    names = species(bench.plan.names)
    backbone = load_backbone("clip_vit", str(bench.weights))[0].to(bench.device)
    row = _row(
        bench,
        "texts cut at the longest prompt",
        lambda: HEAD_INITS["semantic"](backbone, names, None),
        lambda: patch("models.backbones.text.cut", lambda tokens: tokens),
        len(names),
        "4",
    )
    row.unit = "names/s"
    return [row]


@dataclasses.dataclass
class _Float:
    """A training crop that leaves the worker as normalised float32."""

    crop: TrainCrop
    mean: Tensor
    std: Tensor
    reducing_gap = None

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        return (self.crop(image, epoch, index).float().div(255) - self.mean) / self.std


def _pillow_resize(image: Tensor, height: int, width: int) -> Tensor:
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return torch.from_numpy(np.array(pixels.resize((width, height), Image.BICUBIC))).permute(2, 0, 1)


def images(bench: Bench) -> list[Row]:
    plan, side = bench.plan, bench.plan.geometry.resolution
    size = plan.pipeline_batch * plan.pipeline_batches
    listed = ImageList.of_paths([bench.paths[i % len(bench.paths)] for i in range(size)], np.zeros(size, np.int64))
    crop, steps = TrainCrop(side, seed=0, num_epochs=5), TrainBatchSampler(size, plan.pipeline_batch, 0, 5)
    cfg = config(bench.folder, bench.weights, bench.device, plan)
    constants = (torch.tensor(values).view(3, 1, 1) for values in (cfg.mean, cfg.std))
    floats = _Float(crop, *constants)
    pillow = patch("datasets.loading.decode._decode_plain_jpeg", lambda file: None)
    as_it_is = contextlib.nullcontext()

    def seconds(undone: contextlib.AbstractContextManager, crop: object) -> float:
        with undone:
            loader = Loader(listed, crop, steps, bench.device, plan.workers)
            return seconds_per_image(loader, plan.workers, plan.pipeline_batch)

    rows = []
    for what, undone, other, predicted in (
        ("uint8 between processes, not float32", as_it_is, floats, "1.3"),
        ("torchvision decodes, not Pillow", pillow, crop, "1.2"),
        ("torch resizes, not Pillow", patch("datasets.transforms.resize", _pillow_resize), crop, "1.8"),
    ):
        functions = {"plain": lambda u=undone, c=other: seconds(u, c), "ours": lambda: seconds(as_it_is, crop)}
        rows.append(compare(what, bench.turns(functions), 1, predicted))
    return rows


def large_images(bench: Bench, count: int = 4) -> list[Row]:
    """Test crops of photographs as large as a camera's."""
    side, listed = bench.plan.geometry.resolution, camera_photographs(bench.folder, count)
    listed, steps = ImageList.of_paths(listed, np.zeros(count, np.int64)), sequential_batches(np.arange(count), count)

    def read(gap: float | None) -> Callable[[], object]:
        return lambda: list(Loader(listed, TestCrops(side, side // 7, 1, gap), steps, bench.device, num_workers=0))

    rows = []
    for gap, predicted in ((2.0, "2"), (1.0, "3")):
        seconds = bench.turns({"plain": read(None), "ours": read(gap)})
        rows.append(compare(f"reducing_gap {gap:.0f} for 12 megapixels, not None", seconds, count, predicted))
    return rows


MEANS: dict[str, Callable[[Bench], list[Row]]] = {
    "attention": attention,
    "linear": linear,
    "frozen_precision": frozen_precision,
    "class_token": class_token,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "text": text,
    "images": images,
    "large_images": large_images,
    "crops": crops,
}


# ---- profile ----


def profile(bench: Bench, rows: int = 16) -> str:
    """Tables of the operations of one training step and one forward pass, by the time that each spends itself."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    key, tables = "self_cuda_time_total" if cuda else "self_cpu_time_total", []
    for name, work in _works(bench):
        work()
        with record(activities=activities, record_shapes=True) as measured:
            work()
            waiter(bench.device)()
        tables.append(name)
        for by in (False, True):
            tables.append(measured.key_averages(by).table(sort_by=key, row_limit=rows, max_name_column_width=50))
    return "\n".join(tables)
