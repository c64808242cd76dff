"""Silence for the C libraries that print to stderr, as libjpeg does about files that it reads nevertheless."""

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator


@functools.cache
def _streams() -> tuple[ctypes.c_void_p, int] | None:
    """The C library's variable `stderr`, and a stream to nowhere; None where it is not a variable (not glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.fmemopen.restype = ctypes.c_void_p
    library.fmemopen.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    null = library.fmemopen(None, 1, b"w")  # no file descriptor; what is written beyond a byte is dropped
    return (ctypes.c_void_p.in_dll(library, "stderr"), null) if null else None


@contextlib.contextmanager
def quiet_c() -> Iterator[None]:
    """Within it, C code that prints to its stream `stderr` prints nothing.

    The file descriptor is untouched: Python's own stderr, faulthandler and C++ streams work as ever.
    """
    streams = _streams()
    if streams is None:
        yield
        return
    stream, null = streams
    before = stream.value
    if before == null:  # nested, or another thread is within
        yield
        return
    stream.value = null
    try:
        yield
    finally:
        stream.value = before
