"""Suppresses output of C libraries to stderr, such as libjpeg's about files that it can read."""

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator


@functools.cache
def _streams() -> tuple[ctypes.c_void_p, int] | None:
    """The C library's variable `stderr`, and a stream to nowhere; None if it is not a variable (not glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.fmemopen.restype = ctypes.c_void_p
    library.fmemopen.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    null = library.fmemopen(None, 1, b"w")  # no file descriptor; output beyond a byte is dropped
    return (ctypes.c_void_p.in_dll(library, "stderr"), null) if null else None


@contextlib.contextmanager
def quiet_c() -> Iterator[None]:
    """Suppresses the output of C code to its stream `stderr` during the block.

    The file descriptor is untouched: Python's own stderr, faulthandler and C++ streams work as usual.
    """
    streams = _streams()
    if streams is None:
        yield
        return
    stream, null = streams
    before = stream.value
    if before == null:  # nested, or in use by another thread
        yield
        return
    stream.value = null
    try:
        yield
    finally:
        stream.value = before
