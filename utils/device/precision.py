"""The precision to compute in, as far as the device supports it."""

import torch

from utils.device.environment import cpuinfo

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def pick_precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str | None]:
    """The precision to compute in, and a sentence for the log if it is not the wanted one.

    wanted: fp16, bf16, fp32, or amp: bf16, or fp16 without it.
    A GPU without bf16 takes fp16 for it; a CPU takes bf16 for fp16, and fp32 where it has no bf16 instructions.
    """
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    if wanted == "amp":
        wanted = "bf16" if bf16 else "fp16"
        if device.type == "cuda":
            return PRECISIONS[wanted], None
    possible = {"fp32", *({"fp16"} if device.type == "cuda" else ()), *({"bf16"} if bf16 else ())}
    if wanted in possible:
        return PRECISIONS[wanted], None
    found = next(name for name in ("bf16", "fp16", "fp32") if name in possible)
    return PRECISIONS[found], f"{wanted} would be slow on this {device.type.upper()}; {found} is used instead"


def precision_name(dtype: torch.dtype) -> str:
    """fp16, bf16 or fp32."""
    return next(name for name, value in PRECISIONS.items() if value == dtype)


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 instructions."""
    flags = cpuinfo("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
