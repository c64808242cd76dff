"""A record of the machine and the packages that a result was computed with."""

import functools
import importlib.metadata
import os
import platform
from typing import Any

import torch

from utils.version import VERSION

version = functools.cache(importlib.metadata.version)  # of a package; each lookup reads a file

# environment variables that choose instructions or kernels
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE")


def environment(device: torch.device, num_processes: int) -> dict[str, Any]:
    """The package versions, device, instruction set and number of processes, on which rounding may depend."""
    switches = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    capability = [torch.backends.cpu.get_cpu_capability()] if device.type == "cpu" else []
    instructions = ", ".join(capability + switches)
    found = {"versions": versions(), "device": describe(device), "processes": num_processes}
    return found | ({"instructions": instructions} if instructions else {})


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two records of an environment, in words."""
    then, now = ({**record, **record.get("versions", {}), "versions": None} for record in (then, now))
    keys = dict.fromkeys([*now, *then])
    return [f"{key} {then.get(key)}, now {now.get(key)}" for key in keys if then.get(key) != now.get(key)]


def describe(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpuinfo('model name') or platform.machine()} (CPU), {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    packages = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def recorded_versions() -> dict[str, str]:
    """The version of this program with `versions`, for results and exports; the keys of caches leave it out."""
    return {"lift_plus": VERSION} | versions()


def cpuinfo(field: str) -> str:
    """The first value of a field of Linux's /proc/cpuinfo; empty if there is none."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")
    except OSError:
        return ""
