"""An opener for image files: regular files only, of a size that a picture can have.

with open(path, "rb", opener=regular_only) as file: ...
"""

import errno
import os
import stat

from utils.files import kind_of_file

# one picture of decode.MAX_PIXELS takes 1.6 GB without compression, in 4 channels of 16 bits
MAX_FILE_BYTES = 2 * 2**30


class UnusableFile(OSError):
    """A file that is not opened; `kind`, `problem` and `advice` become those of an ImageError."""

    def __init__(self, kind: str, problem: str, advice: str, path: str):
        super().__init__(None, problem, path)
        self.kind, self.problem, self.advice = kind, problem, advice


def regular_only(path: str, flags: int) -> int:
    """Opens a regular file, without waiting and never a device. For open(opener=...).

    Raises UnusableFile for anything else and for a file that is too large, IsADirectoryError, or another OSError.
    """
    _require_usable(os.stat(path), path)  # before opening it, which starts some devices
    try:
        descriptor = os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK)
    except BlockingIOError:  # a file server must release its lease of the file first
        descriptor = os.open(path, flags)
    try:
        _require_usable(os.fstat(descriptor), path)  # another file may have replaced it
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_usable(status: os.stat_result, path: str) -> None:
    """Raises UnusableFile or IsADirectoryError for anything but a regular file of a usable size."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        advice = "remove it from the list, or replace it with the picture"
        raise UnusableFile("not_a_file", f"is {kind_of_file(status.st_mode)}, not an image file", advice, path)
    if status.st_size > MAX_FILE_BYTES:
        problem = f"has {status.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read"
        raise UnusableFile("file_too_large", problem, "save its first picture as a separate file", path)
