"""The user's cache: one folder for all cached files, and a cache of tensors in it.

The folder is $XDG_CACHE_HOME/lift_plus, or ~/.cache/lift_plus. It may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files import atomic_write
from utils.home import find_home

FOLDER_BYTES = 10 * 10**9
LARGEST_BYTES = FOLDER_BYTES // 4  # of a file


def cache_folder(name: str) -> Path:
    """The folder `name` in the user's cache; without a home directory a path that cannot be created."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification ignores a relative path
        base = str((find_home() or Path(os.devnull)) / ".cache")
    return Path(base) / "lift_plus" / name


class TensorCache:
    """Float32 tensors by key, in a folder of the user's cache.

    A key is a dict of JSON's types, with everything that the numbers depend on. A file's name is the hash of its key.
    Damaged files count as missing. Above FOLDER_BYTES the least recently used files are removed.

    enabled: False reads and writes nothing. log: called with a warning about a file that is damaged or not writable.
    """

    def __init__(self, name: str, enabled: bool, log: Callable[[str], None]):
        self.folder, self.enabled, self.log = cache_folder(name), enabled, log

    def path(self, key: dict[str, Any]) -> Path:
        """The file of a key, whether it exists or not."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def fetch(self, key: dict[str, Any], shape: tuple[int, ...]) -> Tensor | None:
        """The tensor of a key, on the CPU; None if there is none of this shape."""
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        if not (self.enabled and path.is_file()):
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensor, digest = file.get_tensor("tensor"), (file.metadata() or {}).get("sha256")
            if (tuple(tensor.shape), tensor.dtype, _sha256(tensor)) != (shape, torch.float32, digest):
                raise ValueError("its content is not the one that was written")
        except (SafetensorError, ValueError, OSError) as error:
            self.log(f"warning: {path} is damaged ({error}); its content is recomputed")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of the last use
        return tensor

    def store(self, key: dict[str, Any], tensor: Tensor) -> None:
        """Writes a float32 tensor; logs a warning if that fails.

        Tensors above LARGEST_BYTES, and tensors with a value that is not finite, are not written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save

        tensor = tensor.cpu().contiguous()
        if not self.enabled or tensor.nbytes > LARGEST_BYTES or not torch.isfinite(tensor).all():
            return
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(save({"tensor": tensor}, metadata={"sha256": _sha256(tensor)}))
            self._prune()
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            self.log(f"warning: {path} cannot be written ({reason}); the next run will recompute its content")

    def stream(
        self, key: dict[str, Any], shape: tuple[int, ...], parts: Iterator[Tensor], dim: int
    ) -> Iterator[Tensor]:
        """Yields all of `parts`, on any device, then stores them, concatenated along `dim` to this `shape`."""
        if not self.enabled:
            yield from parts
            return
        joined, done, device = None, 0, torch.device("cpu")
        for part in parts:
            if joined is None:
                device = part.device
                joined = torch.empty(shape, pin_memory=device.type == "cuda")
            joined.narrow(dim, done, part.shape[dim]).copy_(part, non_blocking=True)
            done += part.shape[dim]
            yield part
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the copies to pinned memory
        if joined is not None and done == shape[dim]:
            self.store(key, joined)

    def _prune(self) -> None:
        """Removes the least recently used files until the others have at most FOLDER_BYTES."""
        files = []
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process prunes, too
                status = file.stat()
                files.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= FOLDER_BYTES:
                break
            file.unlink(missing_ok=True)
            total -= size


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().reshape(-1).data).hexdigest()
