"""The precision of a run, by the instructions of the processor or the features of the GPU."""

import pytest
import torch

from utils.device import precision
from utils.device.precision import pick_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# vendor and flags as Linux reports them
XEON_WITHOUT_AMX = "GenuineIntel", "fma avx2 avx512f avx512_bf16 avx512_vnni"
XEON_WITH_AMX = "GenuineIntel", "fma avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8"
ZEN_4 = "AuthenticAMD", "fma avx2 avx512f avx512_bf16 avx512_vnni"
LAPTOP = "GenuineIntel", "fma avx2 avx_vnni"
ZEN_3 = "AuthenticAMD", "fma avx2"
ARM = "", ""  # another file format


@pytest.fixture
def processor(monkeypatch):
    """processor(vendor, flags): /proc/cpuinfo as on such a machine."""

    def pretend(vendor, flags):
        monkeypatch.setattr(precision, "cpuinfo", {"vendor_id": vendor, "flags": flags}.get)

    return pretend


def picked(wanted, device=CPU):
    dtype, note = pick_precision(wanted, device)
    return precision.precision_name(dtype), note


@pytest.mark.parametrize("wanted", ["amp", "fp16"])
@pytest.mark.parametrize(
    ("cpu", "expected"),
    [(XEON_WITHOUT_AMX, "fp32"), (XEON_WITH_AMX, "bf16"), (ZEN_4, "bf16"), (ZEN_3, "fp32"), (ARM, "fp32")],
    ids=["xeon", "xeon_amx", "zen4", "zen3", "arm"],
)
def test_a_cpu_computes_in_bf16_only_where_that_is_faster(processor, cpu, expected, wanted):
    processor(*cpu)
    name, note = picked(wanted)
    assert name == expected
    assert note == (None if wanted == "amp" else f"fp16 is for GPUs; this CPU computes in {expected}")


@pytest.mark.parametrize("cpu", [XEON_WITHOUT_AMX, ZEN_4, ZEN_3, ARM])
def test_float32_is_always_to_be_had(processor, cpu):
    processor(*cpu)
    assert picked("fp32") == ("fp32", None)


def test_a_named_bf16_is_used_where_there_is_one_and_the_log_says_what_is_faster(processor):
    processor(*ZEN_4)
    assert picked("bf16") == ("bf16", None)
    processor(*XEON_WITHOUT_AMX)
    assert picked("bf16") == ("bf16", "this CPU computes fp32 faster than bf16")
    processor(*ZEN_3)
    assert picked("bf16") == ("fp32", "bf16 would be slow on this CPU; fp32 is used instead")


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [(XEON_WITHOUT_AMX, "int8"), (XEON_WITH_AMX, "int8"), (ZEN_4, "int8"), (LAPTOP, "int8"), (ZEN_3, "fp32")],
)
def test_int8_is_for_cpus_that_have_it(processor, cpu, expected):
    processor(*cpu)
    note = "int8 needs a CPU with VNNI or AMX; fp32 is used instead"
    assert picked("int8") == (expected, None if expected == "int8" else note)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_gpu_takes_bf16_for_amp_or_fp16_without_it(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert picked("amp", GPU) == ("bf16" if has_bf16 else "fp16", None)
    assert picked("fp16", GPU) == ("fp16", None)
    assert picked("fp32", GPU) == ("fp32", None)
    assert picked("int8", GPU) == ("fp16", "int8 needs a CPU with VNNI or AMX; fp16 is used instead")
    slow = "bf16 would be slow on this CUDA; fp16 is used instead"
    assert picked("bf16", GPU) == (("bf16", None) if has_bf16 else ("fp16", slow))
