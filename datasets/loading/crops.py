"""Crops. The box of a training crop is a pure function of (seed, epoch, index of the sample).

Images are uint8 tensors [3, H, W] throughout; torch's antialiased resize works on them directly.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Box = tuple[int, int, int, int]  # top, left, height, width, in pixels
Sample = tuple[int, int]  # epoch, index

MDA_SCHEDULES = {
    "convex": lambda t: 1 - math.sqrt(1 - t * t),
    "linear": lambda t: t,
    "concave": lambda t: math.sqrt(1 - (1 - t) ** 2),
    "min": lambda t: 0.0,
    "max": lambda t: 1.0,
}
# (height, width of a test image, size) -> the height and width that it is resized to
RESIZE_RULES: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "shortest": lambda height, width, size: (
        int(size * height / min(height, width)),
        int(size * width / min(height, width)),
    ),
    "squash": lambda height, width, size: (size, size),
}
TTE_EXPAND = 24  # pixels, chosen for a resolution of 224
SMALLEST_AREA = 0.08  # of a training crop, as a share of the image
REDUCTIONS = (8, 4, 2)  # factors by which a JPEG can be decoded smaller
LONG = 4  # aspect ratio from which only the crops of a test image are resized, not the whole image
FIRST_DRAW = 10**6  # the epoch that seeds a test's first draw; no training has that many
RATIOS = (3 / 4, 4 / 3)  # width / height of a standard training crop


@dataclasses.dataclass(frozen=True)
class TrainCrop:
    """One random crop of an image: minimalist or torchvision's RandomResizedCrop and flip."""

    resolution: int
    seed: int
    num_epochs: int
    mda: bool = True
    mda_func: str = "convex"
    reducing_gap: float | None = None
    interpolation: str = "bicubic"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the crops of a sample."""
        return 3, self.resolution, self.resolution

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """[3, H, W] -> [3, resolution, resolution], both uint8."""
        height, width = image.shape[1:]
        box, mirrored = self.draw(height, width, epoch, index)
        image = resize(crop(image, box), self.resolution, self.resolution, self.interpolation)
        return image.flip(2) if mirrored else image

    def of_batch(self, images: Tensor, samples: Sequence[Sample]) -> Tensor:
        """[n, 3, H, W] -> [n, 3, resolution, resolution], both uint8.

        Equal to the crops of single images; boxes of one size are resized together.
        """
        height, width = images.shape[2:]
        drawn = [self.draw(height, width, *sample) for sample in samples]
        rows_of_size = collections.defaultdict(list)
        for row, (box, _) in enumerate(drawn):
            rows_of_size[box[2:]].append(row)
        crops = [images[0]] * len(images)
        for rows in rows_of_size.values():
            cut = [crop(images[row], drawn[row][0]) for row in rows]
            parts = torch.stack(cut) if len(cut) > 1 else cut[0][None]
            resized = resize(parts, self.resolution, self.resolution, self.interpolation).unbind()
            for row, image in zip(rows, resized, strict=True):
                crops[row] = image.flip(2) if drawn[row][1] else image
        return torch.stack(crops)

    def reduction(self, height: int, width: int, epoch: int, index: int) -> int:
        """The factor by which this sample's image may be decoded smaller."""
        (_, _, *sides), _ = self.draw(height, width, epoch, index)
        return largest_reduction(min(sides), self.resolution, self.reducing_gap)

    def draw(self, height: int, width: int, epoch: int, index: int) -> tuple[Box, bool]:
        """The box of the crop of this sample, and whether it is mirrored."""
        rng = np.random.default_rng((self.seed, epoch, 1 + index))  # 0 seeds the order of the epoch
        if self.mda:
            return square_box(height, width, smallest_area(self.mda_func, epoch, self.num_epochs), rng), False
        return random_resized_box(height, width, rng), bool(rng.random() < 0.5)


@dataclasses.dataclass(frozen=True)
class TestCrops:
    """Crops after a resize to resolution + expand: 1 in the centre; 5: the corners too; 10: of the mirror image too.

    resize: a name of RESIZE_RULES.
    """

    __test__ = False  # not a test of pytest's

    resolution: int
    expand: int
    count: int = 1
    reducing_gap: float | None = None
    interpolation: str = "bicubic"
    resize: str = "shortest"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the crops of a sample."""
        return self.count, 3, self.resolution, self.resolution

    def __call__(self, image: Tensor, epoch: int = 0, index: int = 0) -> Tensor:
        """[3, H, W] -> [count, 3, resolution, resolution], both uint8."""
        return self.of_batch(image[None])[0]

    def of_batch(self, images: Tensor, samples: Sequence[Sample] | None = None) -> Tensor:
        """[n, 3, H, W] -> [n, count, 3, resolution, resolution], both uint8; equal for all samples."""
        size = self.resolution + self.expand
        height, width = RESIZE_RULES[self.resize](images.shape[2], images.shape[3], size)
        boxes = self.boxes(height, width)
        if max(height, width) > LONG * size:
            parts = (
                [part_of_resized(image, height, width, box, self.interpolation) for image in images] for box in boxes
            )
            crops = [torch.stack(images_of_box) for images_of_box in parts]
        else:
            resized = resize(images, height, width, self.interpolation)
            crops = [crop(resized, box) for box in boxes]
        return torch.stack([*crops[:5], *(part.flip(-1) for part in crops[5:])], dim=1)

    def reduction(self, height: int, width: int, epoch: int = 0, index: int = 0) -> int:
        """The factor by which an image may be decoded smaller."""
        return largest_reduction(min(height, width), self.resolution + self.expand, self.reducing_gap)

    def boxes(self, height: int, width: int) -> list[Box]:
        """The boxes of the crops in the resized image; those after the fifth are then mirrored."""
        side = self.resolution
        bottom, right = height - side, width - side
        corners = [(round(bottom / 2), round(right / 2))]  # top left corners, that of the centre crop last
        if self.count > 1:
            corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), *corners]
        if self.count > 5:
            corners += [(top, right - left) for top, left in corners]
        return [(top, left, side, side) for top, left in corners]


@dataclasses.dataclass(frozen=True)
class TestDraws:
    """Random training crops and flips for testing: the same in every test with the crop's seed."""

    __test__ = False  # not a test of pytest's

    crop: TrainCrop
    count: int

    shape = property(lambda self: (self.count, *self.crop.shape))
    reducing_gap = property(lambda self: self.crop.reducing_gap)
    expand = None  # an image is not resized before it is cropped

    def __call__(self, image: Tensor, epoch: int = 0, index: int = 0) -> Tensor:
        """[3, H, W] -> [count, 3, resolution, resolution], both uint8."""
        return torch.stack([self.crop(image, FIRST_DRAW + draw, index) for draw in range(self.count)])

    def of_batch(self, images: Tensor, samples: Sequence[Sample]) -> Tensor:
        """[n, 3, H, W] -> [n, count, 3, resolution, resolution], both uint8."""
        draws = ([(FIRST_DRAW + draw, index) for _, index in samples] for draw in range(self.count))
        return torch.stack([self.crop.of_batch(images, of_draw) for of_draw in draws], dim=1)

    def reduction(self, height: int, width: int, epoch: int = 0, index: int = 0) -> int:
        """The factor by which an image may be decoded smaller, so that all draws are large enough."""
        return min(self.crop.reduction(height, width, FIRST_DRAW + draw, index) for draw in range(self.count))


AnyTestCrops = TestCrops | TestDraws
Crop = TrainCrop | AnyTestCrops


def build_train_crop(cfg, resolution: int) -> TrainCrop:
    """The training crop that `cfg` describes."""
    return TrainCrop(resolution, cfg.seed, cfg.num_epochs, cfg.mda, cfg.mda_func, cfg.reducing_gap, cfg.interpolation)


def build_test_crops(cfg, resolution: int) -> AnyTestCrops:
    """The test crops that `cfg` describes: one in the centre, or with test-time ensembling five, ten, or draws."""
    if cfg.tte and cfg.tte_draws:
        standard = dataclasses.replace(build_train_crop(cfg, resolution), mda=False)
        return TestDraws(standard, cfg.tte_draws)
    one_crop_expand = 0 if cfg.resize == "squash" else resolution // 7
    default_expand = TTE_EXPAND if cfg.tte else one_crop_expand
    expand = default_expand if cfg.expand is None else cfg.expand
    count = cfg.tte_crops if cfg.tte else 1
    return TestCrops(resolution, expand, count, cfg.reducing_gap, cfg.interpolation, cfg.resize)


def build_centre_crop(cfg, resolution: int) -> TestCrops:
    """The largest centre crop of an image, or with resize squash the whole image."""
    return TestCrops(resolution, 0, 1, cfg.reducing_gap, cfg.interpolation, cfg.resize)


def largest_reduction(side: int, needed: int, gap: float | None) -> int:
    """The largest of 8, 4, 2 and 1 that leaves `gap` times `needed` of `side` pixels."""
    return next((by for by in REDUCTIONS if gap and side // by >= gap * needed), 1)


def smallest_area(mda_func: str, epoch: int, num_epochs: int) -> float:
    """The smallest area of a minimalist crop in this epoch, as a share of the image; grows from 0.08 to 1."""
    t = epoch / (num_epochs - 1) if num_epochs > 1 else 1.0
    return SMALLEST_AREA + (1 - SMALLEST_AREA) * MDA_SCHEDULES[mda_func](t)


def square_box(height: int, width: int, smallest: float, rng: np.random.Generator) -> Box:
    """A square at a uniform position. Its area is uniform between `smallest` and 1 of the image's, if a square fits."""
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
    """The box [..., height, width] of an image (a view)."""
    top, left, height, width = box
    return image[..., top : top + height, left : left + width]


def resize(image: Tensor, height: int, width: int, interpolation: str = "bicubic") -> Tensor:
    """Antialiased, bicubic or bilinear: uint8 [..., 3, H, W] -> [..., 3, height, width], within a grey level of Pillow.

    When enlarging, about five values in a million differ by two levels: torch's weights have 16 bits. Pillow's own
    resize, or one in float32, would take four times as long.
    """
    if image.shape[-2:] == (height, width):
        return image
    batch = image if image.ndim == 4 else image[None]
    batch = F.interpolate(batch, (height, width), mode=interpolation, antialias=True)
    return batch if image.ndim == 4 else batch[0]


def part_of_resized(image: Tensor, height: int, width: int, box: Box, interpolation: str = "bicubic") -> Tensor:
    """crop(resize(...), box), within one grey level, without resizing the rest of the image.

    Pillow accepts fractional boxes, as needed here. Pixels outside the filter's support are cut off first.
    """
    spans, cut = [], []  # of rows, then of columns
    for start, length, size, resized in zip(box[:2], box[2:], image.shape[1:], (height, width), strict=True):
        scale = size / resized
        first, last = start * scale, min((start + length) * scale, size)
        reach = math.ceil(2 * max(scale, 1)) + 1
        begin = max(math.floor(first) - reach, 0)
        spans.append((first - begin, last - begin))
        cut.append(slice(begin, math.ceil(last) + reach))
    (top, bottom), (left, right) = spans
    part = Image.fromarray(image[:, cut[0], cut[1]].permute(1, 2, 0).contiguous().numpy())
    # rows first, as torch does; Pillow's own order depends on the shape
    resample = Image.Resampling[interpolation.upper()]
    part = part.resize((box[3], part.height), resample, (left, 0, right, part.height))
    part = part.resize((box[3], box[2]), resample, (0, top, box[3], bottom))
    return torch.from_numpy(np.array(part)).permute(2, 0, 1)
