"""The machine: its device, the precisions that it can compute in, its versions."""

import os
import platform
from importlib.metadata import version

import torch

from utils.device.allocator import keep_memory
from utils.device.distributed import World
from utils.errors import ConfigError

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
THREADS = torch.get_num_threads()
SMALL_MODEL = 10_000_000  # parameters


def pick_device(gpu: int | None, world: World) -> torch.device:
    """The GPU numbered `gpu`, or the CPU where there is none or gpu is -1. Raises ConfigError if there are fewer.

    Each of several processes takes a GPU of its own; None asks for that.
    """
    count = torch.cuda.device_count()
    if gpu == -1 or count == 0:
        return torch.device("cpu")
    if world.size > 1:
        gpu = world.local
    elif gpu is None and count > 1:
        raise ConfigError(
            f"gpu None means all {count} GPUs, which takes a process for each: start torchrun "
            f"--nproc_per_node={count} main.py ... in place of python main.py ..."
        )
    gpu = gpu or 0
    if gpu >= count:
        raise ConfigError(f"gpu {gpu} is not there: this machine has {count}, numbered from 0")
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


def pick_precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str | None]:
    """The precision to compute in, and a sentence if that is not what was wanted.

    A GPU without bf16 takes fp16 for it; a CPU takes bf16 for fp16, and fp32 where it has no bf16 instructions.
    """
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
    if wanted == "amp":
        wanted = "bf16" if bf16 else "fp16"
        if device.type == "cuda":
            return PRECISIONS[wanted], None
    possible = {"fp32", *({"fp16"} if device.type == "cuda" else ()), *({"bf16"} if bf16 else ())}
    if wanted in possible:
        return PRECISIONS[wanted], None
    found = next(name for name in ("bf16", "fp16", "fp32") if name in possible)
    return PRECISIONS[found], f"{wanted} would be slow on this {device.type.upper()}; {found} is used instead"


def name_of(dtype: torch.dtype) -> str:
    """fp16, bf16 or fp32."""
    return next(name for name, value in PRECISIONS.items() if value == dtype)


def _cpu_has_bf16() -> bool:
    flags = _cpuinfo("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _cpuinfo(field: str) -> str:
    """The first value of a field of Linux's /proc/cpuinfo; empty where there is none."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")
    except OSError:
        return ""


def prepare_cpu(num_parameters: int) -> None:
    """Once the weights of the model are loaded: its threads, and memory that is kept."""
    torch.set_num_threads(pick_threads(num_parameters))
    keep_memory()


def pick_threads(num_parameters: int) -> int:
    """The CPU's threads to compute with: all, or one for a small model, whose threads would only wait for one another.

    clip_tiny in steps of 16 images trains 860 images/s with one thread, 1,400 with four. But on a machine that others
    use, too, each of the many short waits may last a time slice: a ViT of two blocks fell from 3,800 images/s to 18.
    """
    return 1 if num_parameters < SMALL_MODEL else THREADS


def make_deterministic() -> None:
    """Deterministic kernels wherever torch has them: slower on a GPU, no change on a CPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def describe(device: torch.device) -> str:
    """The device in words: the GPU's name, or the CPU's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpuinfo('model name') or platform.machine()} (CPU), {threads} thread{'s' if threads > 1 else ''}"


def environment(device: torch.device, world: World) -> dict[str, object]:
    """Where a result comes from: versions of the packages, device, number of processes."""
    return {"versions": versions(), "device": describe(device), "processes": world.size}


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    packages = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
