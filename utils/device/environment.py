"""A record of the machine and the packages that a result was computed with."""

import os
import platform
from importlib.metadata import version

import torch

# environment variables that choose instructions or kernels
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE")


def environment(device: torch.device, num_processes: int) -> dict[str, object]:
    """Versions of the packages, the device, and the number of processes."""
    return {"versions": versions(), "device": describe(device), "processes": num_processes}


def describe(device: torch.device) -> str:
    """The name of the GPU, or that of the CPU with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpuinfo('model name') or platform.machine()} (CPU), {threads} thread{'s' if threads > 1 else ''}"


def arithmetic(device: torch.device) -> dict[str, object]:
    """All that may change the last bits of a number: device, threads, instruction set, libraries and their switches."""
    switches = {name: os.environ[name] for name in SWITCHES if name in os.environ}
    instructions = {"instructions": torch.backends.cpu.get_cpu_capability()} if device.type == "cpu" else {}
    return {"device": describe(device), **instructions, **versions(), **switches}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    packages = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def cpuinfo(field: str) -> str:
    """The first value of a field of Linux's /proc/cpuinfo; empty where there is none."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")
    except OSError:
        return ""
