"""The inputs of the benchmark: images, names, weights.

The images are scikit-learn's two photographs, cut and resized to sizes as ImageNet's, JPEG of quality 90; the weights
are random, in a file as OpenAI's (float16), so that loading them is loading.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.base import DataSet
from datasets.images import ImageList
from datasets.long_tail import long_tail_counts
from models.backbones.backbone import Backbone, Geometry
from models.weights.descriptions import write_beside
from models.weights.naming import to_openai_names
from utils.config import Config

PHOTO_SIZES = ((500, 375), (500, 333), (375, 500), (500, 400), (333, 500), (480, 360), (640, 427), (500, 375))
SYLLABLES = (
    *("ba", "ca", "del", "ella", "fri", "go", "hy", "ina", "jun", "lo", "mar", "ne"),
    *("ora", "pus", "qui", "ru", "sta", "tri", "us", "vi", "xan", "zo", "la", "ris"),
)


def photographs(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Writes `count` JPEGs of real content and gives their paths."""
    from sklearn.datasets import load_sample_images

    rng, paths = np.random.default_rng(seed), []
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        source, (width, height) = sources[number % len(sources)], PHOTO_SIZES[number % len(PHOTO_SIZES)]
        most = min(source.width / width, source.height / height)
        w, h = (round(side * most * rng.uniform(0.8, 1)) for side in (width, height))
        left, top = int(rng.integers(source.width - w + 1)), int(rng.integers(source.height - h + 1))
        path = folder / f"{number}.jpg"
        source.resize((width, height), Image.BICUBIC, (left, top, left + w, top + h)).save(path, quality=90)
        paths.append(str(path))
    return paths


def camera_photographs(folder: Path, count: int) -> list[str]:
    """Writes `count` JPEGs of 4000 x 3000 pixels, 3 MB each: the photographs side by side, as fine as they are."""
    from sklearn.datasets import load_sample_images

    tile, paths = np.concatenate(load_sample_images().images, axis=1), []
    pixels = np.tile(tile, (8, 4, 1))[:3000, :4000]
    for number in range(count):
        paths.append(str(folder / f"camera{number}.jpg"))
        Image.fromarray(np.roll(pixels, 100 * number, (0, 1))).save(paths[-1], quality=90)
    return paths


def species(count: int, seed: int = 0) -> list[str]:
    """So many names of two words, of the look and length of iNaturalist's."""
    rng, names = np.random.default_rng(seed), {}
    while len(names) < count:
        genus, kind = ("".join(rng.choice(SYLLABLES, size)) for size in rng.integers(2, 5, 2))
        names[f"{genus} {kind}".capitalize()] = None
    return list(names)


def square_pixels(path: str, side: int) -> np.ndarray:
    """The centre of an image, uint8 [side, side, 3]."""
    with Image.open(path) as image:
        return np.array(image.resize((side, side), Image.BICUBIC))


def write_weights(path: Path, geometry: Geometry) -> Path:
    """A weight file in OpenAI's naming and precision, with random weights."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = to_openai_names(Backbone(geometry).state_dict())
    save_file({name: value.half().contiguous() for name, value in state.items()}, path)
    write_beside(path, geometry)
    return path


def make_data(paths: list[str], num_classes: int) -> DataSet:
    """Training images in files, in `num_classes` long-tailed classes; as yet one test image."""
    labels = np.repeat(np.arange(num_classes), long_tail_counts(20, num_classes, 1 / 20))
    training = ImageList.of_paths([paths[i % len(paths)] for i in range(len(labels))], labels)
    return DataSet("photographs", species(num_classes), training, make_test(paths, num_classes, 1, 1))


def make_test(paths: list[str], num_classes: int, side: int, count: int) -> ImageList:
    """Test images in memory, squares of `side` pixels: nothing is left to decode or to resize."""
    rows = np.arange(count)
    pixels = np.stack([square_pixels(path, side) for path in paths[:count]])
    return ImageList.of_pixels(pixels[rows % len(pixels)], rows % num_classes)


def normalised(images: Tensor, cfg: Config) -> Tensor:
    """uint8 [..., 3, H, W] -> what the plain program's workers send: float32, on the CPU."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cfg.mean, cfg.std))
    return (images.cpu().float().div(255) - mean) / std


def plain_crops(pixels: np.ndarray, resolution: int, count: int, cfg: Config) -> Tensor:
    """The crops that our loader cuts from square pixels, normalised float32 [n, count, 3, R, R]."""
    edge = pixels.shape[1] - resolution
    places = [(0, 0), (0, edge), (edge, 0), (edge, edge), (edge // 2, edge // 2)][-1 if count == 1 else 0 :]
    crops = [pixels[:, top : top + resolution, left : left + resolution] for top, left in places]
    return normalised(torch.from_numpy(np.stack(crops, 1)).permute(0, 1, 4, 2, 3), cfg)
