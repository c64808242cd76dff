"""What a frozen image tower made of the images of a list, kept in the user's cache for the runs to come.

Kept are the features of centre crops that class_mean and linear_probing start from, and those of the test crops of a
run whose image tower does not train (zs, lp, coop, clip_adapter, proj_tuning). Training crops are drawn anew in every
epoch, so there is nothing to keep of them.

A file lies in $XDG_CACHE_HOME/lift_plus/features, or ~/.cache/lift_plus/features. Its name is the SHA-256 of all that
its numbers depend on, to the last bit: weights, images (by path, size and time of change), crops, normalisation,
precision, size of a batch, device, threads, processes, versions, and our own code. Of several processes each keeps its
share. What is damaged counts as missing; beyond FOLDER_BYTES the files that were not used for longest go.
"""

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from utils.device import runtime
from utils.device.distributed import World

FOLDER_BYTES = 10 * 10**9
LARGEST_BYTES = FOLDER_BYTES // 4  # of a file
# images x crops x parameters of the tower: 233 images with ViT-B/16, 8 TFLOP; the digits in ten crops have 6e9
LEAST_WORK = 2e10
ROOMS = ("models", "datasets")  # whose code makes features of images


class FeatureCache:
    """The cache of one run; `hit` says whether the last features came from it.

    on: False leaves it alone; weights: the backbone's file and how it is computed; say: tells the user a line.
    """

    def __init__(self, on: bool, weights: str, world: World, say: Callable[[str], None]):
        self.on, self.weights, self.world, self.say = on, weights, world, say
        self.hit = False

    def features(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        images: Any,
        steps: list[list[tuple[int, int]]],
        crops: object,
    ) -> Iterator[Tensor]:
        """The model's features [K, b, D] of each of `batches`: crops [b, K, 3, R, R] and labels.

        images: has digest(indices) and exif_orientation; steps: the samples (epoch, index) of each batch; crops: what
        cuts them, its repr says how. The batches are not touched where the cache holds their features.
        """
        self.hit = False
        computed = (torch.stack([model.features(part) for part in parts.unbind(1)]) for parts, _ in batches)
        indices, device = [index for step in steps for _, index in step], model.mean.device
        shape = (crops.count, len(indices), model.tower.dim)
        if not (self.on and _pays(model.tower, shape)):
            return computed
        about = {
            "weights": self.weights,
            "precisions": sorted({str(parameter.dtype) for parameter in model.tower.parameters()}),
            "mean, std": [model.mean.tolist(), model.std.tolist()],
            "crops": repr(crops),
            "images": images.digest(indices),
            "exif_orientation": images.exif_orientation,
            "batch": len(steps[0]),
            "shape": shape,
            "environment": runtime.environment(device, self.world),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "code": _digest_of_code(),
        }
        path = folder() / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
        kept = self._read(path, shape)
        if kept is None:
            return self._pass_on(computed, path, shape, device)
        self.hit = True
        self.say(f"features  of {len(indices):,} images come from {path}; feature_cache False computes them")
        return (part.to(device) for part in kept.split([len(step) for step in steps], dim=1))

    def _pass_on(self, computed: Iterator[Tensor], path: Path, shape: tuple[int, ...], device: torch.device):
        """Yields all of `computed`; then keeps them. Whoever stops earlier leaves nothing behind."""
        kept, done = torch.empty(shape, pin_memory=device.type == "cuda"), 0
        for part in computed:
            kept[:, done : done + part.shape[1]].copy_(part, non_blocking=True)
            done += part.shape[1]
            yield part
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        try:
            _write(path, kept)
            _prune(path.parent)
        except (OSError, SafetensorError) as error:  # safetensors wraps what the system says
            self.say(f"warning: {path} cannot be written ({error}); the next run will compute these features again")

    def _read(self, path: Path, shape: tuple[int, ...]) -> Tensor | None:
        """The features [K, n, D] in a file; None where there is none, or none that is whole."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                kept, digest = file.get_tensor("features"), (file.metadata() or {}).get("sha256")
            if (tuple(kept.shape), kept.dtype, _digest(kept)) != (shape, torch.float32, digest):
                raise ValueError("its content is not what was written")
        except (SafetensorError, ValueError, OSError) as error:
            self.say(f"warning: {path} is damaged ({error}); these features are computed again")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return kept


def folder() -> Path:
    """The user's folder for features."""
    above = os.environ.get("XDG_CACHE_HOME", "")
    # as the XDG rules say, a relative path counts as none
    return Path(above if os.path.isabs(above) else os.path.expanduser("~/.cache")) / "lift_plus/features"


def _pays(tower: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether features of this shape [K, n, D] may be kept, and take longer to compute than to look for."""
    parameters = list(tower.parameters())
    frozen = not any(parameter.requires_grad for parameter in parameters)
    work = shape[0] * shape[1] * sum(parameter.numel() for parameter in parameters)
    return frozen and work >= LEAST_WORK and 4 * shape[0] * shape[1] * shape[2] <= LARGEST_BYTES


def _write(path: Path, features: Tensor) -> None:
    """Whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(".partial", path.name, path.parent)
    os.close(handle)
    try:
        save_file({"features": features}, partial, metadata={"sha256": _digest(features)})
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _prune(place: Path) -> None:
    """Removes the files that were not used for longest, until those that stay have FOLDER_BYTES at most."""
    files = []
    for file in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run is doing the same
            state = file.stat()
            files.append((state.st_mtime_ns, state.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= FOLDER_BYTES:
            break
        file.unlink(missing_ok=True)
        total -= size


def _digest(features: Tensor) -> str:
    return hashlib.sha256(memoryview(features.numpy()).cast("B")).hexdigest()


@functools.cache
def _digest_of_code() -> str:
    """Of the modules between an image and its features: after a change of them nothing old is used."""
    root = Path(__file__).resolve().parent.parent
    files = sorted(file for room in ROOMS for file in (root / room).rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
