"""Reads the tensors of a weight file, and nothing else: no file can run code here."""

import io
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import ModelError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file by name: safetensors, a plain state dict (torch.save) or a TorchScript archive.

    Raises ModelError for anything else, and for a file that would run code when loaded.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if _is_torchscript(path):
            return _read_torchscript(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers raise errors of many types
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        message = f"{path} is damaged, or is not a weight file that loads without running code ({reason})"
        raise ModelError(message, kind="unreadable_weights", path=path) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        message = f"{path} contains {type(state).__name__}, not a state dict (tensors by name)"
        raise ModelError(message, kind="not_a_state_dict", path=path)
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Inert:
    """Replaces every module class of a TorchScript archive: has its attributes, and none of its code."""

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _TensorUnpickler(pickle.Unpickler):
    """Reads the data of a TorchScript archive: tensors and inert modules; every other name is an error."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(archive.read(prefix + "data.pkl")))
        self.archive, self.prefix = archive, prefix

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("__torch__"):
            return _Inert
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, reference: tuple) -> Tensor:
        _, dtype, key, _, numel = reference
        data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
        return torch.frombuffer(data, dtype=dtype)[:numel] if data else torch.empty(0, dtype=dtype)


_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        prefix = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        root = _TensorUnpickler(archive, prefix).load()
    tensors = {}

    def collect(module: _Inert, prefix: str) -> None:
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
            elif isinstance(value, _Inert):
                collect(value, f"{prefix}{name}.")

    collect(root, "")
    return tensors
