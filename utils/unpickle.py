"""Reads a pickle of tensors and plain values without running its code, and in bounded memory.

Uses Python's own unpickler with a small table of opcodes. Calls are limited to the functions of this module; other
classes that checkpoints usually contain become empty objects (Inert).
"""

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar, NamedTuple

import torch
from torch import Tensor

from utils.formats import FormatError

PICKLE_BYTES = 16 * 2**20  # the pickle of 100,000 tensors has 10 MB
READS = 8 * 10**6  # one or two for each opcode; that of 100,000 tensors has 3 million opcodes
NAME_BYTES = 256  # of a class
DIMENSIONS = 64
MODULES = 200_000  # modules and tensors of a TorchScript archive, shared ones counted each time
DEPTH = 100  # of its modules
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # names in pickles of old protocols
SCALARS = (str, bytes, int, float, bool, type(None))  # types of a dictionary's keys
INT_LIMIT = 2**31  # larger keys could be chosen to have equal hashes

# bytes that tensors may cover in all, for each byte of the file (several names may share a storage), and in addition
SHARED, EXPANDED = 8, 64 * 2**20

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# Other content of usual checkpoints: settings, counts and scores. They are read as empty objects.
INERT = {
    ("argparse", "Namespace"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "set"),
    ("_codecs", "encode"),  # bytes
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("builtins", "object"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(("torch.jit._pickle", f"build_{kind}list") for kind in ("int", "double", "bool", "tensor")),
    *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.nn.parameter", "Buffer"),
    ("yacs.config", "CfgNode"),
}


class Inert:
    """Replaces an object of any class: it has its attributes, and none of its code."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}


class Call(NamedTuple):
    """A function that a pickle may call."""

    function: Callable[..., Any]


class BoundedFile:
    """A binary file with bounded reads. Raises FormatError beyond PICKLE_BYTES or READS."""

    def __init__(self, file: BinaryIO):
        self.file, self.bytes_left, self.reads_left = file, PICKLE_BYTES, READS

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._count(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        """The next line; the names of a class are written as lines."""
        self._count(NAME_BYTES)
        return self.file.readline(NAME_BYTES)

    def _count(self, count: int) -> None:
        self.bytes_left, self.reads_left = self.bytes_left - count, self.reads_left - 1
        if count < 0 or min(self.bytes_left, self.reads_left) < 0:
            raise FormatError(
                f"has a pickle of more than {PICKLE_BYTES:,} bytes or {READS:,} values, which no weights need; "
                "save only the tensors"
            )


class TensorUnpickler(pickle._Unpickler):
    """Reads one pickle of tensors. Errors are of many types, as with any damaged pickle.

    load_storage: (the fields after "storage" of a reference: dtype, key, location, numel, ...) -> 1-dimensional tensor.
    size: of the file, in bytes; it bounds the total size of the tensors.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}  # of the base class, limited below

    def __init__(self, file: BinaryIO, load_storage: Callable[..., Tensor], size: int):
        super().__init__(BoundedFile(file), encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        self.load_storage, self.left = load_storage, SHARED * size + EXPANDED

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a class or function with this name. Raises UnpicklingError if it is unknown."""
        module = PYTHON_2.get(module, module)
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.startswith("__torch__") or (module, name) in INERT:
            return Call(lambda *_: Inert())
        calls: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): self._dictionary,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, *_: value,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_bytes,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
            ("torch._tensor", "_rebuild_from_type_v2"): lambda call, _, args, *__: call.function(*args),
        }
        if (module, name) in calls:
            return Call(calls[module, name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:NAME_BYTES])

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage of a reference."""
        kind, *fields = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to a {kind}"[:NAME_BYTES])
        return self.load_storage(*fields)

    def _tensor(self, storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        """A view of a storage. Raises FormatError if it exceeds the storage, or all views much exceed the file."""
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
            raise FormatError("is damaged: a tensor has impossible sizes; copy or download it again")
        numel = math.prod(size)
        end = 1 + offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else 0
        self.left -= numel * storage.element_size()
        if end > len(storage) or self.left < 0:
            raise FormatError("is damaged: its tensors claim more values than it contains; copy or download it again")
        return storage.as_strided(size, stride, offset)

    def _tensor_of_bytes(
        self, storage: Tensor, offset: int, size: tuple, stride: tuple, _: Any, __: Any, dtype: torch.dtype, *___: Any
    ) -> Tensor:
        """A view of an untyped storage, for types without a storage class."""
        whole = len(storage) // dtype.itemsize * dtype.itemsize
        return self._tensor(storage[:whole].view(dtype), offset, size, stride)

    def _dictionary(self, pairs: Any = ()) -> dict:
        """A dictionary of pairs."""
        found: dict = {}
        self._set_items(found, [value for key, value in pairs for value in (key, value)])
        return found

    # ---- opcodes ----

    def load_global(self) -> None:
        """Pushes the replacement of a class or function."""
        module, name = (self.readline()[:-1].decode() for _ in range(2))  # type: ignore[attr-defined]
        self.append(self.find_class(module, name))  # type: ignore[attr-defined]

    def load_reduce(self) -> None:
        """Calls a function of this module."""
        args, call = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(call, Call):
            raise pickle.UnpicklingError("it calls an object that is not a function")
        self.stack[-1] = call.function(*args)  # type: ignore[attr-defined]

    def load_build(self) -> None:
        """Sets the attributes of an Inert; those of other objects, such as a state dict's versions, are ignored."""
        state, target = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(target, Inert) and isinstance(state, dict):
            target.fields.update(state)

    def load_setitem(self) -> None:
        """Sets an item of a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self._set_items(self.stack[-1], [key, value])  # type: ignore[attr-defined]

    def load_setitems(self) -> None:
        """Sets items of a dictionary."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set_items(self.stack[-1], items)  # type: ignore[attr-defined]

    def _set_items(self, target: Any, items: list) -> None:
        """Sets items with plain keys; other keys cannot name tensors, and may take forever to hash."""
        if not isinstance(target, dict):  # an Inert that is a mapping
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, SCALARS) and not (isinstance(key, int) and abs(key) > INT_LIMIT):
                target[key] = value


_PLAIN = (
    "PROTO", "STOP", "MARK", "POP", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT",
    "BINPERSID",
)  # fmt: skip


class _Opcodes(dict[int, Callable[[Any], None]]):
    """The supported opcodes. Raises UnpicklingError for others."""

    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"its pickle has the opcode {opcode}, which weights do not need")


TensorUnpickler.dispatch = _Opcodes()
TensorUnpickler.dispatch |= {
    getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _PLAIN
} | {
    pickle.GLOBAL[0]: TensorUnpickler.load_global,
    pickle.REDUCE[0]: TensorUnpickler.load_reduce,
    pickle.NEWOBJ[0]: TensorUnpickler.load_reduce,  # with the same table of functions
    pickle.BUILD[0]: TensorUnpickler.load_build,
    pickle.SETITEM[0]: TensorUnpickler.load_setitem,
    pickle.SETITEMS[0]: TensorUnpickler.load_setitems,
}


def module_tensors(root: Inert) -> dict[str, Tensor]:
    """The tensors of a TorchScript module by name. Raises FormatError for endless nesting or sharing of modules."""
    left = MODULES

    def walk(module: Inert, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        nonlocal left
        for name, value in module.fields.items():
            left -= 1
            if left < 0 or depth > DEPTH:
                raise FormatError("is damaged: its modules contain one another; copy or download it again")
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, Inert):
                yield from walk(value, f"{prefix}{name}.", depth + 1)

    return dict(walk(root, "", 0))
