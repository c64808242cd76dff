"""Synthetic images of digits and letters, drawn strokes and printed fonts, for scripts/pretrain_clip_tiny.py.

A stroke glyph is a few splines over a 10 x 10 grid. Its control points are shaken by a smooth and by a rough random
field and sheared, and the result is fitted to its 32 x 32 box like the scans behind scikit-learn's digits. A printed
glyph is from the fonts of matplotlib, warped in the same way. No image is read from any data set.
"""

import math
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # of a bitmap
MASTER = 48  # side of the stored image of a printed glyph
SAMPLES = 64  # points along the strokes of a glyph
CONCEPTS = string.digits + string.ascii_lowercase
FONTS = ("DejaVuSans*", "DejaVuSerif*", "STIXGeneral*", "cmb10", "cmr10", "cmss10", "cmtt10", "cmti10", "cmmi10")

# Variants are separated by |, strokes by commas, control points (column and row) by spaces; corners are doubled.
STROKES = {
    "0": "40 12 05 28 59 87 94 71 40 | 70 30 12 05 27 49 79 94 92 70 | 60 31 13 16 38 69 86 83 71 40 62"
    " | 50 21 14 27 59 78 85 72 50 | 31 13 06 38 69 86 83 51 20",
    "1": "50 59 | 60 49 | 23 50 50 59 | 33 50 50 59 59, 19 89 | 04 60 60 59 | 50 59, 29 79 | 50 59, 39 99"
    " | 04 50 50 59 | 42 50 50 59, 19 89 | 32 60 60 49 | 06 60 60 59 | 25 60 60 49 | 50 43 56 59 | 60 53 46 49",
    "2": "12 20 60 82 74 36 09 09 99 | 12 30 70 82 64 37 19 08 27 59 98 | 13 30 70 82 55 09 09 89"
    " | 02 20 60 81 64 09 09 99 | 13 40 81 64 28 09 17 48 99 | 11 40 72 65 19 19 89 | 01 50 82 64 28 19 38 89",
    "3": "11 40 71 73 44 44 75 87 69 29 08 | 00 80 80 44 44 76 87 59 19 08 | 11 50 82 64 34 44 75 87 59 18"
    " | 01 30 71 63 34 34 75 77 59 09 | 00 80 80 34 34 65 77 59 09 | 01 40 82 54 54 86 59 08"
    " | 10 70 70 54 54 86 68 39 08",
    "4": "20 05 05 95, 62 69 | 60 06 06 96, 60 69 | 10 04 25 75 80, 80 59 | 10 05 36 84, 90 59 | 50 05 05 85, 53 49"
    " | 30 05 16 86, 72 59 | 60 16 16 86, 64 59 | 20 14 25 84, 80 69 | 40 05 05 75, 62 49",
    "5": "80 20 20 14 14 54 86 78 49 09 | 80 20 20 14 44 75 77 59 19 | 80 30 12 34 65 77 59 18"
    " | 20 14 45 76 68 39 08, 20 80 | 90 20 20 14 14 43 75 77 49 08 | 90 30 30 24 24 64 76 59 09"
    " | 81 30 24 64 77 59 19",
    "6": "60 23 07 39 79 86 65 25 07 | 81 60 32 07 29 69 87 75 35 07 | 50 13 06 28 59 88 86 65 25 06"
    " | 50 22 16 28 59 77 75 54 26 | 40 06 18 49 79 87 75 45 16 | 30 14 07 29 69 87 65 35 08",
    "7": "00 90 90 39 | 00 90 90 39, 25 85 | 02 00 90 90 39 | 00 90 90 55 49 | 02 10 90 90 49, 24 85"
    " | 01 20 81 90 64 39, 24 85 | 11 50 90 74 49 | 11 40 81 80 54 49, 25 95 | 02 30 80 80 49, 34 84"
    " | 02 30 60 60 49, 16 86",
    "8": "50 12 44 77 59 27 54 82 50 | 50 22 44 72 50, 44 17 59 87 44 | 81 50 12 35 66 78 59 28 36 64 82"
    " | 60 31 33 55 66 58 39 18 26 54 72 60 | 71 40 22 34 65 77 59 28 36 54 82 71 | 50 22 34 55 67 59 28 37 55 63 50",
    "9": "72 50 21 13 35 64 72 72 69 | 72 50 21 13 34 64 72 72 76 59 18 | 82 50 12 24 54 82 82 49"
    " | 70 30 03 25 64 70 70 79 | 81 50 12 24 64 81 76 49 09 | 72 40 12 14 45 73 72 77 59 29 | 80 40 13 34 74 80 69"
    " | 60 30 22 33 53 61 74 87 69 28 | 51 30 12 34 53 51 74 87 69 09 | 61 40 22 34 53 61 75 77 59 08",
    "a": "80 30 05 39 69 80 80 89 | 11 50 82 89, 84 35 07 29 69 86",
    "b": "10 19, 15 54 86 78 49 18 | 20 06 29 69 76 64 16",
    "c": "82 50 12 05 27 59 88",
    "d": "80 89, 84 44 16 28 59 87 | 80 87 99, 85 44 07 39 77",
    "e": "05 85 82 50 12 06 39 89 | 15 73 61 30 05 28 59 98",
    "f": "80 50 32 39, 04 74",
    "g": "80 30 03 35 64 80 80 77 49 18",
    "h": "10 19, 15 44 75 79",
    "i": "54 59, 50 51",
    "j": "63 67 49 18, 60 61",
    "k": "10 19, 73 16 16 79",
    "l": "30 37 59 79 | 35 62 50 35 38 59 78",
    "m": "00 09, 03 20 42 49, 43 70 92 99",
    "n": "00 09, 03 40 82 89",
    "o": "40 12 05 28 59 87 94 71 40",
    "p": "10 19, 11 50 82 64 15",
    "q": "80 89, 81 40 12 24 85",
    "r": "10 19, 14 40 80",
    "s": "80 30 12 44 76 59 09",
    "t": "40 47 59 88, 03 83 | 50 59, 13 93",
    "u": "00 06 39 69 86, 80 89",
    "v": "00 49 49 90",
    "w": "00 29 29 42 42 69 69 90 | 00 17 39 53 69 97 90",
    "x": "00 99, 90 09",
    "y": "00 44, 90 19 | 00 04 35 64 80, 80 77 49 18",
    "z": "00 90 90 09 09 99",
    "A": "09 50 50 99, 26 76",
    "B": "00 09, 00 60 82 54 04, 54 87 69 09",
    "C": "91 50 12 06 38 69 98",
    "D": "00 09, 00 50 93 96 59 09",
    "E": "90 00 00 09 09 99, 04 74",
    "F": "90 00 00 09, 04 74",
    "G": "91 50 12 06 38 69 96 96 56",
    "H": "00 09, 90 99, 04 94",
    "I": "50 59, 20 80, 29 79",
    "J": "80 86 59 29 06 | 80 86 59 29 06, 40 90",
    "K": "00 09, 90 05 05 99",
    "L": "00 09 09 89",
    "M": "09 10 10 56 56 90 90 99",
    "N": "09 00 00 99 99 90",
    "O": "50 12 06 49 87 83 50",
    "P": "00 09, 00 60 92 64 05",
    "Q": "50 12 06 49 87 83 50, 66 99",
    "R": "00 09, 00 60 92 64 05, 45 99",
    "S": "91 50 12 34 65 87 59 08",
    "T": "00 90, 50 59",
    "U": "00 06 39 69 96 90",
    "V": "00 49 49 90",
    "W": "00 29 29 53 53 79 79 90",
    "X": "00 99, 90 09",
    "Y": "00 44 44 90, 44 49",
    "Z": "00 90 90 09 09 99, 24 74",
}


def uniform(count: int, low: float, high: float) -> Tensor:
    """Uniform random numbers [count, 1, 1], to be broadcast over points or pixels."""
    return low + (high - low) * torch.rand(count, 1, 1)


def paint(ink: Tensor, dark: Tensor, coloured: Tensor) -> Tensor:
    """Colours ink: [B, 1, H, W] -> [B, 3, H, W], white on black, dark on light, or in two colours, some with noise."""
    n = len(ink)
    front, back = torch.ones(n, 3), torch.zeros(n, 3)
    front = torch.where(coloured[:, None], 0.5 + 0.5 * torch.rand(n, 3), front)
    back = torch.where(coloured[:, None], 0.4 * torch.rand(n, 3), back)
    front, back = torch.where(dark[:, None], back, front), torch.where(dark[:, None], front, back)
    pixels = back[..., None, None] + (front - back)[..., None, None] * ink
    noise = 0.1 * torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.3)
    return (pixels + noise * torch.randn(n, 1, SIDE, SIDE)).clamp(0, 1)


class Catalogue:
    """Glyphs of one kind. rows[concept]: the numbers of its glyphs; upper [glyphs]: whether it is a capital letter."""

    def __init__(self, characters: list[str]):
        concepts = [CONCEPTS.index(character.lower()) for character in characters]
        self.upper = torch.tensor([character.isupper() for character in characters])
        self.rows = [[row for row, c in enumerate(concepts) if c == concept] for concept in range(len(CONCEPTS))]

    def choose(self, concepts: Tensor) -> Tensor:
        """A random glyph of each concept, [B]."""
        draws = torch.rand(len(concepts))
        return torch.tensor([self.rows[c][int(u * len(self.rows[c]))] for c, u in zip(concepts, draws, strict=True)])


class Strokes(Catalogue):
    """The drawn glyphs: control points `cells` [glyphs, C], and `splines` [glyphs, SAMPLES, C] from them to points."""

    def __init__(self):
        drawings = [(character, text) for character, texts in STROKES.items() for text in texts.split("|")]
        super().__init__([character for character, _ in drawings])
        compiled = [_compile(text) for _, text in drawings]
        most = max(len(cells) for cells, _ in compiled)
        self.cells = torch.stack([F.pad(cells, (0, most - len(cells))) for cells, _ in compiled])
        self.splines = torch.stack([F.pad(spline, (0, most - spline.shape[1])) for _, spline in compiled])

    def draw(self, glyphs: Tensor) -> tuple[Tensor, Tensor]:
        """Glyphs [B] -> ink 0 to 1 [B, SIDE, SIDE] and pen widths in pixels [B]."""
        n, cells = len(glyphs), self.cells[glyphs]
        smooth = F.interpolate(torch.randn(n, 2, 3, 3), size=10, mode="bicubic", align_corners=True)
        field = uniform(n, 0, 0.9)[..., None] * smooth + uniform(n, 0, 0.45)[..., None] * torch.randn(n, 2, 10, 10)
        places = torch.stack([cells // 10, cells % 10], dim=2) + torch.gather(
            field.flatten(2).transpose(1, 2), 1, (cells % 10 * 10 + cells // 10)[..., None].expand(-1, -1, 2)
        )
        points = self.splines[glyphs] @ places
        points = (points - points.mean(1, keepdim=True)) @ random_warp(n) / 9
        pen = uniform(n, 1.4, 3.2)  # radius
        points, pen = _fit(points, pen)
        offsets = (torch.arange(SIDE)[:, None] + 0.5 - points[:, :, None]) / pen[:, :, None]  # n, SAMPLES, SIDE, 2
        x, y = offsets.square().unbind(dim=3)
        distance = (y[..., None] + x[..., None, :]).amin(dim=1).sqrt()  # of each pixel to the strokes, in pen radii
        ink = ((1 - distance) * pen.amin(2, keepdim=True) + 0.5).clamp(0, 1)
        return ink, 2 * pen.mean((1, 2))


def random_warp(count: int) -> Tensor:
    """Random slants, small rotations and aspect ratios, [count, 2, 2], for row vectors (x, y)."""
    turn, slant, aspect = 0.1 * torch.randn(count), 0.22 * torch.randn(count) - 0.1, (0.2 * torch.randn(count)).exp()
    cos, sin, zero = turn.cos(), turn.sin(), torch.zeros(count)
    first = torch.stack([aspect, zero, slant, zero + 1], dim=1).view(-1, 2, 2)
    return first @ torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2)


def _fit(points: Tensor, pen: Tensor) -> tuple[Tensor, Tensor]:
    """Scales points [B, N, 2] with a round pen to the full height; widens narrow glyphs together with the pen."""
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    width, height = (high - low).clamp(min=1e-3).unbind(dim=2)
    scale = ((SIDE - 2 * pen[:, 0]) / height)[..., None]
    natural = 0.62 * scale * width[..., None] + 2 * pen
    wanted = natural.clamp(max=SIDE) * 0.5 + 0.5 * uniform(len(points), 20, 28)
    wanted = torch.minimum(wanted, 2.8 * natural).clamp(max=SIDE)
    stretch = torch.cat([wanted / natural, torch.ones_like(natural)], dim=2)
    sizes = torch.cat([0.62 * scale, scale], dim=2) * stretch
    return (points - (low + high) / 2) * sizes + SIDE / 2, pen * stretch


def _compile(text: str) -> tuple[Tensor, Tensor]:
    """A drawing -> its control points [C] as numbers xy and the Catmull-Rom matrix [SAMPLES, C] through them."""
    strokes = [[int(point) for point in stroke.split()] for stroke in text.split(",")]
    spans = []  # of each spline segment: its four control points and its length
    first = 0
    for stroke in strokes:
        last = first + len(stroke) - 1
        for i in range(first, last):
            a, b = stroke[i - first], stroke[i - first + 1]
            length = math.dist(divmod(a, 10), divmod(b, 10))
            spans.append(((max(i - 1, first), i, i + 1, min(i + 2, last)), length))
        first = last + 1
    ends = np.cumsum([length for _, length in spans])
    matrix = torch.zeros(SAMPLES, first)
    for row, position in enumerate(np.linspace(0, ends[-1] - 1e-6, SAMPLES)):
        span = int(np.searchsorted(ends, position, side="right"))
        controls, length = spans[span]
        t = (position - ends[span] + length) / length
        basis = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
        for control, weight in zip(controls, basis, strict=True):
            matrix[row, control] += weight / 2
    return torch.tensor([point for stroke in strokes for point in stroke]), matrix


class Fonts(Catalogue):
    """The printed glyphs, each stretched to MASTER x MASTER and blurred, so that a threshold makes it bold or light."""

    def __init__(self):
        import matplotlib
        from PIL import ImageFont

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        paths = sorted(path for name in FONTS for path in folder.glob(f"{name}.ttf") if "Display" not in path.name)
        fonts = [ImageFont.truetype(str(path), 96) for path in paths]
        characters = string.digits + string.ascii_letters
        super().__init__([character for _ in fonts for character in characters])
        self.names = [path.stem for path in paths]
        masters = [_master(font, character) for font in fonts for character in characters]
        self.masters = torch.stack([ink for ink, _ in masters])
        self.aspects = torch.tensor([aspect for _, aspect in masters])

    def draw(self, glyphs: Tensor) -> tuple[Tensor, Tensor]:
        """Glyphs [B] -> ink 0 to 1 [B, SIDE, SIDE] and pen widths in pixels [B], roughly."""
        n = len(glyphs)
        width = (self.aspects[glyphs] * (0.2 * torch.randn(n)).exp()).clamp(0.3, 0.9)[:, None, None]
        warp = random_warp(n)
        warp = warp / warp.abs().sum(1, keepdim=True).clamp(min=1) / torch.cat([width, torch.ones_like(width)], dim=2)
        theta = torch.cat([warp.transpose(1, 2), torch.zeros(n, 2, 1)], dim=2)
        grid = F.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
        shake = F.interpolate(torch.randn(n, 2, 4, 4), size=SIDE, mode="bicubic", align_corners=True)
        grid = grid + 0.08 * torch.rand(n, 1, 1, 1) * shake.permute(0, 2, 3, 1)
        ink = F.grid_sample(self.masters[glyphs][:, None], grid, align_corners=False)[:, 0]
        ink = ((ink - uniform(n, 0.15, 0.5)) * 6 + 0.5).clamp(0, 1)
        return ink, ink.mean((1, 2)) * SIDE / 2


def _master(font, character: str) -> tuple[Tensor, float]:
    """The glyph in its box, stretched to MASTER x MASTER, and width / height of the box."""
    from PIL import Image, ImageDraw, ImageFilter

    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font)
    aspect = image.width / image.height
    image = image.resize((MASTER, MASTER), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1.5))
    return torch.from_numpy(np.array(image)).float() / 255, aspect
