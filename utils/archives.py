"""Reads files of torch.save and of TorchScript without running code, in memory bounded by the file's size.

torch.load allocates as much as a file asks for, and does not verify its checksums; see utils/unpickle.py, too.
"""

import io
import pickle
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.formats import LEGACY, LEGACY_MAGIC, ZIP, FormatError, recognise
from utils.text import shortened
from utils.unpickle import PICKLE_BYTES, Inert, TensorUnpickler, module_tensors

DIRECTORY_BYTES = 16 * 2**20  # of a zip archive; that of 100,000 tensors has 10 MB
CHUNK_BYTES = 2**20
COPY_AGAIN = "copy or download it again"
LEGACY_VERSION = 1001


def read_archive(path: Path) -> Any:
    """The content of a file of torch.save or TorchScript: tensors on the CPU, in dictionaries, lists and tuples.

    A TorchScript module becomes a dictionary of its tensors by name, other objects an Inert. Raises FormatError.
    """
    readers = {ZIP: _read_zip, LEGACY: _read_legacy}
    try:
        kind = recognise(path)
        if kind not in readers:
            raise FormatError(f"is a {kind} file, not one of torch.save; pass the path of another file")
        return readers[kind](path)
    except FormatError:
        raise
    except Exception as error:  # damaged files make the readers raise errors of many types
        raise FormatError(f"is damaged, or does not load without running code ({reason(error)})") from error


def reason(error: Exception) -> str:
    """The first sentence of another library's error, on one line and short."""
    text = str(error).split("\n", 1)[0].split(". ")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- zip archives: torch.save since 1.6, TorchScript ----


class _BoundedReads(io.FileIO):
    """A file for zipfile, which would read the whole directory of an archive at once, of any length."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY_BYTES:
            raise FormatError("is a zip archive of too many files for weights; pass the path of a weight file")
        return super().read(-1 if size is None else size)


def _read_zip(path: Path) -> Any:
    with _BoundedReads(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise FormatError(f"is cut short or damaged: the end of its archive is missing; {COPY_AGAIN}") from error
        with archive:
            members = {info.filename: info for info in archive.infolist()}
            prefix = _prefix(members)
            return _ZipReader(archive, members, prefix, path.stat().st_size).load()


def _prefix(members: dict[str, zipfile.ZipInfo]) -> str:
    """The folder of torch's files in an archive, with a slash. Raises FormatError for archives of other programs."""
    for name in members:
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.removesuffix("data.pkl")
    if members and all(name.endswith(".npy") for name in members):
        raise FormatError(
            "is a NumPy archive (.npz), as Google publishes its ViTs; timm has them converted: weights timm:MODEL.TAG"
        )
    if any(name.endswith(".h5") for name in members):
        raise FormatError("is a Keras file; convert it to safetensors, or to a state dict of torch.save")
    raise FormatError("is a zip archive, but not one of torch.save; unpack it, and pass the weight file in it")


class _ZipReader:
    """Reads the files of one archive, each storage once."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], prefix: str, size: int):
        self.archive, self.members, self.prefix = archive, members, prefix
        self.size = self.left = size  # bytes of the file, and bytes left for storages
        self.storages: dict[str, bytearray] = {}

    def load(self) -> Any:
        """The content of data.pkl."""
        byteorder = f"{self.prefix}byteorder"
        if byteorder in self.members and self._read(byteorder, 16) != sys.byteorder.encode():
            raise FormatError("was saved on a machine of another byte order; save it again on one like this")
        data = io.BytesIO(self._read(f"{self.prefix}data.pkl", PICKLE_BYTES))
        content = TensorUnpickler(data, self._storage, self.size).load()
        if isinstance(content, Inert):
            return module_tensors(content)
        if f"{self.prefix}constants.pkl" in self.members:
            raise FormatError(f"is damaged: it is a TorchScript archive without a module; {COPY_AGAIN}")
        return content

    def _storage(self, dtype: torch.dtype, key: str, _: str, numel: int, *__: Any) -> Tensor:
        """A storage, one-dimensional."""
        size = numel * dtype.itemsize
        if key not in self.storages:
            self.storages[key] = self._read_storage(key)
        data = self.storages[key]
        if not 0 <= size <= len(data):
            raise FormatError(f"is damaged: a tensor needs {size:,} bytes, and has {len(data):,}; {COPY_AGAIN}")
        return torch.frombuffer(data, dtype=torch.uint8)[:size].view(dtype) if size else torch.empty(0, dtype=dtype)

    def _read_storage(self, key: str) -> bytearray:
        name = f"{self.prefix}data/{key}"
        if name not in self.members:
            raise FormatError(f"is damaged: it lacks the values {shortened(str(key))} of a tensor; {COPY_AGAIN}")
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            raise FormatError(
                "has compressed tensors, which torch.save never writes; unpack it with torch.load, and torch.save it"
            )
        self.left -= info.file_size
        if self.left < 0 or info.file_size != info.compress_size:
            raise FormatError(f"is damaged: its entries claim more bytes than the file has; {COPY_AGAIN}")
        return self._read(name, info.file_size)

    def _read(self, name: str, limit: int) -> bytearray:
        """The bytes of a file in the archive. Raises FormatError above `limit`, and for a wrong checksum."""
        info = self.members[name]
        if info.file_size > limit:
            short = name.removeprefix(self.prefix)
            raise FormatError(
                f"has a {short} of {info.file_size:,} bytes, which no weights need; save only the tensors"
            )
        if not info.CRC:  # left out after torch.serialization.set_crc32_options(False)
            info.CRC = None  # type: ignore[assignment]
        data = bytearray(info.file_size)
        view, done = memoryview(data), 0
        try:
            with self.archive.open(info) as file:
                while count := file.readinto(view[done : done + CHUNK_BYTES]):  # type: ignore[attr-defined]
                    done += count
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise FormatError(f"is damaged: a checksum in it is wrong ({reason(error)}); {COPY_AGAIN}") from error
        if done < len(data):
            raise FormatError(f"is cut short: an entry has {done:,} of {len(data):,} bytes; {COPY_AGAIN}")
        return data


# ---- torch.save before 1.6 ----


def _read_legacy(path: Path) -> Any:
    """Pickles of a number, a version, the machine, the content, and the storages' names; then the storages."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        reader = _LegacyStorages(size)

        def load() -> Any:
            return TensorUnpickler(file, reader.storage, size).load()

        magic, version, machine = load(), load(), load()
        if magic != pickle.decode_long(LEGACY_MAGIC[2:]) or version != LEGACY_VERSION:
            raise FormatError(f"has version {version} of torch's format, which is unknown; save it again")
        if not machine.get("little_endian", True):
            raise FormatError("was saved on a machine of another byte order; save it again on one like this")
        content, keys = load(), load()
        for key in keys:
            reader.fill(file, key)
    if reader.storages.keys() - set(keys):
        raise FormatError(f"is damaged: it lacks tensors that it lists; {COPY_AGAIN}")
    return content


class _LegacyStorages:
    """The storages of a file: allocated when a tensor refers to them, filled later."""

    def __init__(self, size: int):
        self.left, self.storages = size, dict[str, Tensor]()

    def storage(self, dtype: torch.dtype, key: str, _: str, numel: int, view: tuple | None = None, *__: Any) -> Tensor:
        """A storage, or a view of one, one-dimensional."""
        if key not in self.storages:
            self.left -= numel * dtype.itemsize
            if numel < 0 or self.left < 0:
                raise FormatError(f"is damaged or cut short: its tensors need more bytes than it has; {COPY_AGAIN}")
            self.storages[key] = torch.zeros(numel, dtype=dtype)
        storage = self.storages[key]
        return storage if view is None else storage[view[1] : view[1] + view[2]]

    def fill(self, file: io.BufferedReader, key: str) -> None:
        """Reads the next storage of the file: the number of its values, int64, then the values."""
        storage = self.storages[key]
        count = int.from_bytes(file.read(8), "little")
        data = storage.view(torch.uint8).numpy().data if len(storage) else memoryview(bytearray())
        if count != len(storage) or file.readinto(data) != len(data):
            raise FormatError(f"is damaged or cut short: a tensor lacks values; {COPY_AGAIN}")
