"""The precision to compute in, depending on the device."""

import torch

from utils.device.environment import cpuinfo

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TEST_PRECISIONS = {**PRECISIONS, "int8": torch.int8}

# Processors that multiply matrices faster in bf16 than in float32: vendor ("" = any) and instructions in /proc/cpuinfo.
# GFLOP/s of matrix products in bf16 and float32: 400 and 185 (EPYC, Zen 4, 2 cores), 840 to 1,460 and 700 (EPYC, Zen 5,
# 4 cores), 190 and 350 (Xeon with avx512_bf16 but without AMX, 2 cores), by `benchmarks/run.py --precision`.
# The choice depends only on the processor, so that all runs of a configuration compute the same.
FAST_BF16 = (("", "amx_bf16"), ("AuthenticAMD", "avx512_bf16"))
INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")  # instructions for products of 8 bits; without them they may overflow


def pick_precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str | None]:
    """The precision to compute in, and a sentence for the log if the wanted one is not used or is slow.

    wanted: fp16, bf16, fp32, int8 or amp. amp is bf16 on a GPU, or fp16 if it lacks bf16; on a CPU bf16 if that is
    faster, else fp32. fp16 on a CPU is the same as amp. Without bf16, a GPU uses fp16 and a CPU fp32. int8 needs a CPU
    with one of INT8; a GPU uses fp16, and another CPU does as for amp.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found = {"amp": "bf16" if bf16 else "fp16", "bf16": "bf16" if bf16 else "fp16", "int8": "fp16"}.get(
            wanted, wanted
        )
    elif wanted in ("amp", "fp16") or (wanted == "int8" and not cpu_has_int8()):
        found = "bf16" if cpu_computes_bf16_fast() else "fp32"
    else:
        found = "fp32" if wanted == "bf16" and not cpu_has_bf16() else wanted
    note = None
    if wanted == "int8" != found:
        note = f"int8 needs a CPU with VNNI or AMX; {found} is used instead"
    elif wanted == "fp16" != found:
        note = f"fp16 is for GPUs; this CPU computes in {found}"
    elif wanted not in ("amp", found):
        note = f"{wanted} would be slow on this {device.type.upper()}; {found} is used instead"
    elif device.type == "cpu" and found == "bf16" and not cpu_computes_bf16_fast():
        note = "this CPU computes fp32 faster than bf16"
    return TEST_PRECISIONS[found], note


def precision_name(dtype: torch.dtype) -> str:
    """fp16, bf16, fp32 or int8."""
    return next(name for name, value in TEST_PRECISIONS.items() if value == dtype)


def cpu_computes_bf16_fast() -> bool:
    """Whether the CPU is in FAST_BF16."""
    flags, vendor = cpuinfo("flags").split(), cpuinfo("vendor_id")
    return any(instructions in flags and made_by in ("", vendor) for made_by, instructions in FAST_BF16)


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 instructions, fast or not."""
    flags = cpuinfo("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_has_int8() -> bool:
    """Whether the CPU has one of INT8, and torch the library that uses it."""
    return torch.backends.mkldnn.is_available() and not set(INT8).isdisjoint(cpuinfo("flags").split())
