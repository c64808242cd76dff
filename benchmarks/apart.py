"""The plain program in a process of its own, where it has the allocator that the system gives it (utils/allocator.py).

Its works are the functions here: each makes ready what it needs, and gives what is then measured.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.baseline import PlainClassifier, PlainImages, PlainText, PlainTrainer, plain_loader, plain_semantic
from benchmarks.timing import CLOCK, NEIGHBOURS, waiter
from models.backbones.backbone import Geometry
from models.backbones.tokenizer import VOCABULARY, class_prompts, tokenize
from models.weights.load import load_backbone

Work = Callable[[], object]


class Apart:
    """Does one work after another, and says how many seconds it took; `result` is what it gave."""

    def __init__(self, device: torch.device):
        self.device, self.result = device, None
        self.process = ProcessPoolExecutor(1, get_context("spawn"))
        self.process.submit(_begin, torch.get_num_threads(), get_start_method()).result()

    def prepare(self, make: Callable[..., Work], *args: object) -> Callable[[], float]:
        """Makes a work ready with make(*args), there; gives the function that has it done and gives its seconds."""
        self.process.submit(_prepare, make, args).result()
        return self.seconds

    def seconds(self) -> float:
        seconds, processor, self.result = self.process.submit(_do, self.device, CLOCK["now"]).result()
        NEIGHBOURS.ours_apart += processor
        return seconds


# ---- there ----

_READY: list[Work] = []


def _begin(threads: int, start_method: str) -> None:
    torch.set_num_threads(threads)
    set_start_method(start_method, force=True)  # of a loader's workers: as the system has it, not as this process


def _prepare(make: Callable[..., Work], args: tuple) -> None:
    _READY.clear()  # first, for the memory
    _READY.append(make(*args))


def _do(device: torch.device, clock: Callable[[], float]) -> tuple[float, float, object]:
    """Seconds by the clock, or as the work itself measured them; seconds of processors; what it gave."""
    wait, processor = waiter(device), sum(os.times()[:4])
    start = clock()
    result = _READY[0]()
    wait()
    seconds = result if isinstance(result, float) else clock() - start
    return seconds, sum(os.times()[:4]) - processor, result


# ---- the works ----


def read_trainer(path: Path, geometry: Geometry, width: int, device: torch.device) -> PlainTrainer:
    """The plain trainer with the weights that work.write_plain has written."""
    state = torch.load(path)
    model = PlainClassifier(geometry, width, len(state["class_counts"]))
    model.load_state_dict(state["weights"], strict=True)
    return PlainTrainer(model, state["class_counts"], state["lr"], device)


def training(trainer: tuple, images: Tensor, labels: Tensor, steps: int) -> Work:
    """The losses of steps on one batch of normalised images. trainer: the arguments of read_trainer."""
    plain, images = read_trainer(*trainer), _pinned(images, trainer[-1])
    return lambda: [plain.train_step(images, labels) for _ in range(steps)]


def testing(trainer: tuple, crops: Tensor, labels: Tensor, batch: int) -> Work:
    """Tests on normalised crops [n, K, 3, R, R]."""
    plain, crops = read_trainer(*trainer), _pinned(crops, trainer[-1])
    batches = list(zip(crops.split(batch), labels.split(batch), strict=True))

    def work() -> None:
        plain.evaluate(batches)

    return work


def images(paths: list[str], look: tuple, crop: object, steps: object, workers: int, batch: int, device) -> Work:
    """The seconds of an image, by seconds_per_image. look: resolution, mean, std; crop: of training, or None."""
    box = crop and (lambda *at: crop.draw(*at)[0])
    plain = PlainImages(paths, np.zeros(len(paths), np.int64), *look, box)
    return lambda: seconds_per_image(plain_loader(plain, steps, workers), workers, batch, device)


def names(weights: Path, classnames: list[str], device: torch.device) -> Work:
    """A head's first rows from class names."""
    backbone = load_backbone("clip_vit", str(weights))[0].to(device)
    text = PlainText(backbone.geometry, VOCABULARY)
    text.load_state_dict(backbone.text.state_dict(), strict=True)
    text.to(device)
    projections = backbone.text_projection.detach(), backbone.image_projection.detach()
    tokenize(classnames[:1])  # loads the vocabulary
    return lambda: plain_semantic(text, *projections, tokenize(class_prompts(classnames))).cpu()


def seconds_per_image(batches, workers: int, batch: int, device: torch.device | None = None) -> float:
    """Of batches of `batch` images, sent to `device`, once every worker has given its first."""
    times = []
    for pixels, _ in batches:
        if device is not None:
            pixels.to(device)
        times.append(time.perf_counter())
    first = min(max(workers, 1), len(times) - 1)  # every worker has then given its first batch
    return (times[-1] - times[first - 1]) / ((len(times) - first) * batch)


def _pinned(x: Tensor, device: torch.device) -> Tensor:
    return x.pin_memory() if device.type == "cuda" else x
