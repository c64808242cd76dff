"""Files of torch.save and TorchScript: read as by torch, and hostile ones lead to errors in bounded memory."""

import argparse
import copy
import io
import pickle
import struct
import textwrap
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import fork_server
import numpy as np
import pytest
import torch
from packed import write_packed_zeros
from torch import nn

from utils.archives import read_archive
from utils.formats import FormatError

ROOT = Path(__file__).parents[2]
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# ---- files that torch reads ----


def various_tensors():
    """Tensors of many types and layouts; two of them share memory."""
    whole = torch.randn(6, 5)
    types = (torch.half, torch.bfloat16, torch.double, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    tensors = {str(kind): (whole * 9).to(kind) for kind in (*types, torch.bool, torch.complex64, torch.complex128)}
    tensors |= {"slice": whole[2:4, 1:], "turned": whole.T, "same": whole, "number": torch.tensor(7)}
    tensors |= {"empty": whole[:0], "expanded": torch.ones(1).expand(5, 5), "parameter": nn.Parameter(whole.clone())}
    return OrderedDict(tensors)


def assert_equal(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        same = (found[name].dtype, found[name].shape, found[name].stride())
        assert same == (value.dtype, value.shape, value.stride()), name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_read_as_torch_reads_them(legacy, tmp_path):
    state = various_tensors()
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    found = read_archive(tmp_path / "w.pt")
    assert_equal(found, torch.load(tmp_path / "w.pt", weights_only=True))
    assert found["turned"].untyped_storage().data_ptr() == found["same"].untyped_storage().data_ptr()


def test_types_without_a_storage_class_are_read(tmp_path):
    state = {"float8": torch.randn(16).to(torch.float8_e4m3fn), "uint16": torch.arange(5).to(torch.uint16)}
    torch.save(state, tmp_path / "w.pt")
    found = read_archive(tmp_path / "w.pt")
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8))


def test_settings_and_counts_beside_the_tensors_are_passed_over(tmp_path):
    beside = {
        "args": argparse.Namespace(lr=1, path=Path("x")),
        "best": np.float64(3),
        "history": np.arange(3),
        "classes": {1, 2},
        "counter": Counter("aab"),
        "bytes": b"abc\xff",
        "device": torch.device("cpu"),
        "size": torch.Size([1]),
        "dtype": torch.float32,
        "complex": 3j,
        "large": 2**70,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        (1, 2): "not a plain key",
    }
    torch.save(beside | {"model": {"w": torch.ones(2)}}, tmp_path / "w.pt")
    found = read_archive(tmp_path / "w.pt")
    assert torch.equal(found["model"]["w"], torch.ones(2))
    assert torch.equal(found["optimizer"]["state"][0]["step"], torch.tensor(1.0))
    assert found.keys() == beside.keys() - {(1, 2)} | {"model"}
    assert found["large"] == 2**70
    assert not isinstance(found["args"], argparse.Namespace)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_torchscript_with_lists_and_numbers_is_read(tmp_path):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.sizes, self.factors = nn.Linear(3, 3), [1, 2], [0.5]
            self.norms = nn.ModuleList([nn.LayerNorm(2), nn.BatchNorm2d(2)])

        def forward(self, x):
            return self.first(x) * self.factors[0] + self.sizes[0]

    module = Module()
    torch.jit.save(torch.jit.script(module), tmp_path / "w.pt")
    found = read_archive(tmp_path / "w.pt")
    assert found.keys() == module.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())


def test_files_without_checksums_are_read(tmp_path):
    from torch.serialization import set_crc32_options

    set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(9.0)}, tmp_path / "w.pt")
    finally:
        set_crc32_options(True)
    assert torch.equal(read_archive(tmp_path / "w.pt")["w"], torch.arange(9.0))


@pytest.mark.slow
def test_many_tensors_are_read(tmp_path):
    """The limits, of some 150,000, are above any weights."""
    torch.save({f"layer.{i}.weight": torch.zeros(1) for i in range(10_000)}, tmp_path / "w.pt")
    assert len(read_archive(tmp_path / "w.pt")) == 10_000


# ---- damage ----


def test_every_flipped_bit_of_the_values_is_found(tmp_path):
    """torch.load reads all of these without an error."""
    values = torch.randn(50)
    torch.save({"w": values}, tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    start = content.index(values.numpy().tobytes())
    for position in range(start, start + values.nbytes):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (tmp_path / "f.pt").write_bytes(flipped)
        assert not torch.equal(torch.load(tmp_path / "f.pt", weights_only=True)["w"], values)
        with pytest.raises(FormatError, match="checksum"):
            read_archive(tmp_path / "f.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused(legacy, tmp_path):
    torch.save({"w": torch.randn(50)}, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "w.pt").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut.pt").write_bytes(content[:length])
        with pytest.raises(FormatError):
            read_archive(tmp_path / "cut.pt")


# ---- hostile files, from opcodes ----

PROTO, EMPTY_DICT, STOP = b"\x80\x02", b"}", b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(number):
    encoded = pickle.encode_long(number)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def numbers(*values):
    return b"(" + b"".join(map(whole, values)) + b"t"


def call(module, function, *arguments):
    return PROTO + name(module, function) + b"(" + b"".join(arguments) + b"tR."


def storage(key, numel, kind, legacy=False):
    fields = text("storage") + name("torch", kind) + text(key) + text("cpu") + whole(numel)
    return b"(" + fields + (b"N" if legacy else b"") + b"tQ"


def tensor(key="0", numel=10, offset=0, size=(10,), stride=(1,), kind="FloatStorage", legacy=False):
    fields = storage(key, numel, kind, legacy) + whole(offset) + numbers(*size) + numbers(*stride) + b"\x89N"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + fields + b"tR"


def state(**tensors):
    return PROTO + b"}(" + b"".join(text(key) + value for key, value in tensors.items()) + b"u."


def archive(pickled, compression=zipfile.ZIP_STORED, **members):
    """The bytes of a zip archive of torch.save; members: "data_0" is data/0."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression, compresslevel=1) as file:
        for member, content in {"data.pkl": pickled, "data_0": bytes(40), **members}.items():
            file.writestr("x/" + member.replace("data_", "data/"), content)
    return data.getvalue()


def script(pickled):
    return archive(pickled, **{"constants.pkl": PROTO + b")."})


def module(fields):
    return name("__torch__", "M") + b")\x81}(" + fields + b"ub"


def nested_modules(depth, count):
    """A module with the module before it `count` times, and so on: count ** depth names."""
    inner = b"".join(text(f"m{i}") + b"h\x00" for i in range(count))
    return script(PROTO + module(text("w") + tensor()) + b"q\x00" + (module(inner) + b"q\x00") * depth + STOP)


def repeated_member():
    """Two thousand storages of 1 MB, all at one position of the file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        wanted = {f"w{i}": tensor(str(i), 250_000, size=(250_000,)) for i in range(2000)}
        file.writestr("x/data.pkl", state(**wanted))
        file.writestr("x/data/0", bytes(10**6))
        for i in range(1, 2000):
            info = copy.copy(file.getinfo("x/data/0"))
            info.filename = f"x/data/{i}"
            file.filelist.append(info)
    return data.getvalue()


def lying_member(size, member):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("x/data.pkl", state(w=tensor()))
        file.writestr("x/data/0", bytes(40))
        info = file.getinfo(member)
        info.file_size = info.compress_size = size
    return data.getvalue()


def packed_gigabyte():
    """A storage of 1,000 MB in a file of 1 MB."""
    data, count = io.BytesIO(), 250 << 20
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("x/data.pkl", state(w=tensor(numel=count, size=(count,))))
        write_packed_zeros(file, "x/data/0", 1000)
    return data.getvalue()


def many_members():
    """A zip archive's directory of 60 MB: 1.3 million entries."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    directory = entry * 1_300_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), 30, 0)
    return b"PK\3\4" + bytes(26) + directory + end


FIRST_KEY = PROTO + b"]" + text("0") + b"a."


def legacy(pickled, keys=FIRST_KEY, values=b""):
    machine = PROTO + b"}" + text("little_endian") + b"\x88s."
    return MAGIC + pickle.dumps(1001, protocol=2) + machine + pickled + keys + values


HUGE = 10**12
CALLS = {  # that torch's own safe reader allows, or that run code
    "memory of any size": call("builtins", "bytearray", whole(10**10)),
    "a tensor of any size": call("torch", "Tensor", whole(10**5), whole(10**5)),
    "a typed tensor": call("torch", "FloatTensor", whole(10**5), whole(10**5)),
    "zeros": call("torch", "zeros", whole(10**5), whole(10**5)),
    "a command": call("posix", "system", text("touch ran")),
    "eval": call("builtins", "eval", text("open('ran', 'w')")),
    "getattr": call("builtins", "getattr", text("a"), text("b")),
    "a dotted name": call("torch", "_utils._rebuild_tensor_v2.__globals__"),
    "a module in torch": call("torch", "_utils"),
    "torch.load": call("torch", "load", text("other.pt")),
    "numpy.fromfile": call("numpy", "fromfile", text("/etc/passwd")),
    "a sparse tensor": call("torch._utils", "_rebuild_sparse_tensor"),
    "a quantised tensor": call("torch._utils", "_rebuild_qtensor"),
    "a tensor without values": call("torch._utils", "_rebuild_meta_tensor_no_storage"),
    "a function by its own name": call("torch._tensor", "_rebuild_from_type_v2", text("f"), b"N", b")", b"N"),
    "old instances": b"(iposix\nsystem\n.",
    "objects": PROTO + b"(" + name("posix", "system") + text("touch ran") + b"o.",
    "names from the stack": b"\x80\x04" + text("posix") + text("system") + b"\x93" + text("touch ran") + b"\x85R.",
    "extensions": PROTO + b"\x82\x01.",
}
OPCODES = {
    "bytes of any size": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "an array of any size": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"abc.",
    "a frame of any size": b"\x80\x04\x95" + struct.pack("<Q", 2**36) + b"N.",
    "a number of any size": PROTO + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc",
    "a number in digits": PROTO + b"I" + b"9" * 10**6 + b"\n.",
    "a text of any size": PROTO + b"X" + struct.pack("<I", 2**32 - 1) + b"abc",
    "a name of any size": PROTO + b"c" + b"a" * 10**6 + b"\nb\n.",
    "an empty stack": PROTO + STOP,
    "no mark": PROTO + b"(.",
}
TENSORS = {
    "more values than a storage": state(w=tensor(numel=HUGE)),
    "one value more": state(w=tensor(numel=11, size=(11,))),
    "fewer than no values": state(w=tensor(numel=-1)),
    "more sizes than values": state(w=tensor(size=(HUGE,))),
    "an expanded size": state(w=tensor(size=(10**6, 10**6), stride=(0, 0), kind="HalfStorage")),
    "a product that overflows": state(w=tensor(size=(2**33, 2**33), stride=(0, 0))),
    "a size that overflows": state(w=tensor(size=(2**64,), stride=(0,))),
    "a negative size": state(w=tensor(size=(-5,))),
    "a negative stride": state(w=tensor(size=(5,), stride=(-1,))),
    "a negative offset": state(w=tensor(offset=-5, size=(5,))),
    "an offset beyond the end": state(w=tensor(offset=8, size=(5,))),
    "a size that is not a number": state(w=tensor(size=()).replace(numbers(), text("ab"), 1)),
    "fewer strides than sizes": state(w=tensor(size=(5, 2), stride=(1,))),
    "a thousand dimensions": state(w=tensor(size=(1,) * 1000, stride=(1,) * 1000)),
    "a storage that is not there": state(w=tensor("7")),
    "a storage outside the archive": state(w=tensor("../../../etc/passwd")),
    "twenty thousand views": state(**{f"w{i}": tensor(size=(10, 10**5), stride=(1, 0)) for i in range(200)}),
}
ARCHIVES = {
    "a compressed storage": lambda: archive(state(w=tensor(numel=10**7, size=(10**7,))), 8, data_0=bytes(10**8)),
    "a compressed pickle": lambda: archive(PROTO + bytes(10**8), zipfile.ZIP_DEFLATED),
    "a compressed pickle (bzip2)": lambda: archive(PROTO + bytes(3 * 10**7), zipfile.ZIP_BZIP2),
    "a compressed pickle (xz)": lambda: archive(PROTO + bytes(3 * 10**7), zipfile.ZIP_LZMA),
    "a compressed byte order": lambda: archive(state(w=tensor()), zipfile.ZIP_DEFLATED, byteorder=bytes(10**8)),
    "a compressed script": lambda: script(PROTO + bytes(10**8)),
    "another byte order": lambda: archive(state(w=tensor()), byteorder="big"),
    "one member for two thousand": repeated_member,
    "a member of any size": lambda: lying_member(10**11, "x/data/0"),
    "a pickle of any size": lambda: lying_member(10**11, "x/data.pkl"),
    "a directory of 60 MB": many_members,
    "modules that share modules": lambda: nested_modules(40, 2),
    "modules five thousand deep": lambda: nested_modules(5000, 1),
    "a module in itself": lambda: script(
        PROTO + name("__torch__", "M") + b")\x81q\x00}(" + text("m") + b"h\x00ub."
    ),
    "a script without a module": lambda: script(PROTO + b"K\x03."),
    "an old file of more values": lambda: legacy(state(w=tensor(numel=HUGE, legacy=True))),
    "an old file of fewer than no values": lambda: legacy(state(w=tensor(numel=-3, legacy=True))),
    "an old file without values": lambda: legacy(state(w=tensor(legacy=True)), PROTO + b"].", bytes(48)),
    "an old file, cut": lambda: legacy(state(w=tensor(legacy=True)), values=struct.pack("<q", 10) + bytes(13)),
    "an old file of another count": lambda: legacy(state(w=tensor(legacy=True)), values=struct.pack("<q", 7) * 9),
    "an old file with a command": lambda: legacy(CALLS["a command"]),
    "an old file of another version": lambda: MAGIC + pickle.dumps(1000, protocol=2) + PROTO + b"}.",
    "an old file of another byte order": lambda: MAGIC
    + pickle.dumps(1001, protocol=2)
    + PROTO + b"}" + text("little_endian") + b"\x89s.",
}  # fmt: skip
LARGE = {  # a gigabyte in megabytes; as many values as a pickle may have
    "a gigabyte": packed_gigabyte,
    "millions of dictionaries": lambda: archive(PROTO + b"(" + EMPTY_DICT * 15 * 2**20 + b"t."),
    "a memo of a million numbers": lambda: archive(
        PROTO + b"N" + b"".join(b"r" + struct.pack("<I", 1000 * i) for i in range(10**6)) + b"."
    ),
}
HOSTILE = {
    **{key: archive(pickled) for key, pickled in (CALLS | OPCODES | TENSORS).items()},
    **ARCHIVES,
}
HARMLESS_CALLS = {"memory of any size"}  # an empty object replaces the result


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory):
    """hostile_file(KEY) -> the path of a file of HOSTILE or LARGE, written once."""
    folder, names = tmp_path_factory.mktemp("hostile"), [*HOSTILE, *LARGE]

    def write(key):
        path = folder / f"{names.index(key)}.pt"
        if not path.exists():
            content = (HOSTILE | LARGE)[key]
            path.write_bytes(content if isinstance(content, bytes) else content())
        return path

    return write


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_file_is_refused(key, hostile_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if key in HARMLESS_CALLS:
        assert read_archive(hostile_file(key)) == {}
    else:
        with pytest.raises(FormatError) as caught:
            read_archive(hostile_file(key))
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


CHILD = """
    import resource, sys
    from pathlib import Path
    import torch
    from utils.archives import read_archive
    from utils.formats import FormatError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1000 * 2**20,) * 2)
    for path in sys.argv[1:]:
        try:
            assert read_archive(Path(path)) is None  # a pickle may have only values that are not kept
        except FormatError as error:
            assert "MemoryError" not in str(error), error
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory in Linux's /proc")
def test_hostile_files_are_refused_within_a_gigabyte(hostile_file):
    """All of them in one process with limited memory; a single compressed storage would exceed it."""
    paths = [hostile_file(key) for key in (*HOSTILE, *LARGE)]
    code = textwrap.dedent(CHILD).replace("is None", "in (None, {})")
    done = fork_server.run(["-c", code, *paths], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1000:]


def test_keys_that_take_for_ever_to_compare_are_left_out(tmp_path):
    """Numbers of one hash, and a tuple of 2**60 items."""
    same = b"".join(whole((2**61 - 1) * (i + 1)) + b"N" for i in range(50_000))
    large = b")q\x00" + b"0h\x00h\x00\x86q\x00" * 60
    (tmp_path / "w.pt").write_bytes(archive(PROTO + b"}(" + same + b"u."))
    assert read_archive(tmp_path / "w.pt") == {}
    (tmp_path / "w.pt").write_bytes(archive(PROTO + b"}(" + large + b"Nu."))
    assert read_archive(tmp_path / "w.pt") == {}
