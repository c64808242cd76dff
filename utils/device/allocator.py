"""The allocator of the host's memory.

By default glibc returns each freed large tensor to the system, which provides the memory again zeroed, page by page:
70,000 page faults in steps of 16 images with ViT-B/16 on a CPU, a tenth of the time.
"""

import ctypes
import functools
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's mallopt(3)
MB = 2**20


@functools.cache
def retain_freed_memory() -> None:
    """Stops glibc from returning freed memory to the system; does nothing without glibc.

    Forked processes return large pieces, as a worker may decode one huge image, but retain those of images of usual
    size: their thresholds are the largest that glibc adapts to. With its initial ones, 128 KB, an image of 500 x 375
    pixels could cost a worker 110 page faults, up to a fifth of its time. Call it once the weights are loaded: memory
    that is freed afterwards is retained, too.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return

    def return_large_pieces() -> None:
        mallopt(M_MMAP_MAX, 65536)  # glibc's default
        mallopt(M_MMAP_THRESHOLD, 32 * MB)
        mallopt(M_TRIM_THRESHOLD, 64 * MB)

    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
    os.register_at_fork(after_in_child=return_large_pieces)
