"""The allocator of a CPU's memory, told to keep what it has; import it before torch.

Left alone, glibc gives the large tensors of a step back to the system as each is freed, and the system hands them out
again zeroed, page by page: measured for steps of 16 images on ViT-B/16, 70,000 page faults and a fifth of the time.
Kept pages that are huge, where the system grants such on request, save the processor's look-ups of addresses, too.
A GPU's memory has an allocator of its own, which keeps what it has.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt(3)


def keep_memory() -> None:
    """For this process and its workers. Where there is no glibc, nothing happens."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first tensor
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
