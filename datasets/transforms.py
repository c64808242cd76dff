"""Crops. Where a training crop lies is a pure function of (seed, epoch, index of the sample), and of nothing else.

Images are uint8 tensors [3, H, W] and stay so; torch's bicubic, antialiased resize works on them directly.
"""

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[int, int, int, int]  # top, left, height, width, in pixels

MDA_SCHEDULES = {
    "convex": lambda t: 1 - math.sqrt(1 - t * t),
    "linear": lambda t: t,
    "concave": lambda t: math.sqrt(1 - (1 - t) ** 2),
    "min": lambda t: 0.0,
    "max": lambda t: 1.0,
}
TTE_EXPAND = 24  # pixels, meant for a resolution of 224
SMALLEST_AREA = 0.08  # of a training crop, as a share of the image
RATIOS = (3 / 4, 4 / 3)  # width / height of a standard training crop


@dataclasses.dataclass(frozen=True)
class TrainCrop:
    """One random crop of an image: minimalist or torchvision's RandomResizedCrop and flip."""

    resolution: int
    seed: int
    num_epochs: int
    mda: bool = True
    mda_func: str = "convex"

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """[3, H, W] -> [3, resolution, resolution], both uint8."""
        rng = np.random.default_rng((self.seed, epoch, 1 + index))  # 0 is the order's
        height, width = image.shape[1:]
        if self.mda:
            smallest = smallest_area(self.mda_func, epoch, self.num_epochs)
            return resize(crop(image, square_box(height, width, smallest, rng)), self.resolution, self.resolution)
        image = resize(crop(image, random_resized_box(height, width, rng)), self.resolution, self.resolution)
        return image.flip(2) if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class TestCrops:
    """The centre of an image, or its corners and its centre, after a resize of the short side."""

    __test__ = False  # not a test of pytest's

    resolution: int
    expand: int
    five: bool = False

    def __call__(self, image: Tensor, epoch: int = 0, index: int = 0) -> Tensor:
        """[3, H, W] -> [K, 3, resolution, resolution], both uint8, K = 5 or 1."""
        side, size = self.resolution, self.resolution + self.expand
        height, width = image.shape[1:]
        short = min(height, width)
        image = resize(image, int(size * height / short), int(size * width / short))
        bottom, right = image.shape[1] - side, image.shape[2] - side
        places = [(round(bottom / 2), round(right / 2))]
        if self.five:
            places = [(0, 0), (0, right), (bottom, 0), (bottom, right), *places]
        return torch.stack([crop(image, (top, left, side, side)) for top, left in places])


def build_train_crop(cfg, resolution: int) -> TrainCrop:
    """The training crop that `cfg` describes."""
    return TrainCrop(resolution, cfg.seed, cfg.num_epochs, cfg.mda, cfg.mda_func)


def build_test_crops(cfg, resolution: int) -> TestCrops:
    """The test crops that `cfg` describes: one in the centre, or with test-time ensembling five."""
    automatic = TTE_EXPAND if cfg.tte else resolution // 7
    return TestCrops(resolution, automatic if cfg.expand is None else cfg.expand, five=cfg.tte)


def smallest_area(mda_func: str, epoch: int, num_epochs: int) -> float:
    """The smallest area of a minimalist crop in this epoch, as a share of the image; grows from 0.08 to 1."""
    t = epoch / (num_epochs - 1) if num_epochs > 1 else 1.0
    return SMALLEST_AREA + (1 - SMALLEST_AREA) * MDA_SCHEDULES[mda_func](t)


def square_box(height: int, width: int, smallest: float, rng: np.random.Generator) -> Box:
    """A square, its area uniform between `smallest` and 1 of the image's as far as a square fits, its place uniform."""
    largest = min(height, width) ** 2 / (height * width)
    area = rng.uniform(min(smallest, largest), min(1.0, largest)) * height * width
    side = min(max(round(math.sqrt(area)), 1), height, width)
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side


def random_resized_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """The box of torchvision's RandomResizedCrop (Szegedy et al. 2015): area 0.08..1, ratio 3/4..4/3 (log-uniform)."""
    for _ in range(10):
        area = rng.uniform(SMALLEST_AREA, 1.0) * height * width
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    # no such box fits: the centre, as large as the ratios allow
    h = min(height, round(width / RATIOS[0]))
    w = min(width, round(height * RATIOS[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def crop(image: Tensor, box: Box) -> Tensor:
    """The part [..., height, width] of an image (a view)."""
    top, left, height, width = box
    return image[..., top : top + height, left : left + width]


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic and antialiased, uint8 [3, H, W] -> [3, height, width]."""
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
