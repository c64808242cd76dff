"""Output to people, which never fails: a pipe may break, a disk fill up, a terminal close or lack letters.

`say` prints lines. `protect` makes all other output of this process harmless, too: that of argparse, of warnings, of
tracebacks and of other packages. Programs call it before anything else.
"""

import argparse
import contextlib
import io
import os
import re
import select
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from utils.files import WriteError
from utils.text import significant, visible, wrapped

COLUMNS = 80  # of help and of wrapped lines, on terminals of this width or wider
PATIENCE_SECONDS = 1.0  # for a full pipe that another program has made non-blocking
_CURSOR = re.compile(r"\A(\r|\n|\x1b\[A)*")  # tqdm's output begins with it: to the start of the line, or up


def say(text: str = "", error: bool = False, wrap: bool = False) -> None:
    """Prints one or more lines to stdout, or with `error` to stderr, above any progress bar. Never raises.

    Control characters other than line ends are escaped, and so are characters that the terminal lacks.
    wrap: fit the lines to a terminal's columns; files and pipes get them whole.
    """
    with contextlib.suppress(Exception), _bars_aside():
        stream = sys.stderr if error else sys.stdout
        if stream is not None:
            if wrap and stream.isatty():
                text = "\n".join(wrapped(line, columns(stream)) for line in text.split("\n"))
            stream.write(_encodable(visible(text, keep="\n") + "\n", stream))
            stream.flush()


def columns(stream: TextIO | None) -> int:
    """The columns for text on a stream: COLUMNS, or fewer on a narrower terminal."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns if stream else 0
    except (OSError, ValueError, AttributeError):  # not a terminal, or closed
        width = 0
    return min(width or COLUMNS, COLUMNS)


def describe(error: BaseException) -> str:
    """An unexpected error as a line of text."""
    kind = "" if isinstance(error, WriteError) else f"{type(error).__name__}: "
    return visible(f"{kind}{error}".strip())


class _HelpFormatter(argparse.HelpFormatter):
    """argparse's, in the terminal's columns. Wraps the paragraphs of a description; indented lines stay as they are."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, **options | {"width": columns(sys.stdout), "max_help_position": 26})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (part if part.startswith(" ") else textwrap.fill(part, width) for part in text.split("\n\n"))
        return "\n\n".join(paragraphs)


class Parser(argparse.ArgumentParser):
    """argparse's parser with a hint for `--lr 0.1`. Its errors are one line, and its output never fails."""

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": _HelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        hint = "; options come as KEY VALUE pairs without dashes: root FOLDER" if "unrecognized" in message else ""
        super().error(visible(message + hint))

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say(message.removesuffix("\n"), error=file is not sys.stdout)


# ---- progress bars ----


class _BarStream:
    """The current stderr, for tqdm. Writes never fail."""

    def write(self, text: str) -> None:
        with contextlib.suppress(Exception):
            sys.stderr.write(_encodable(text, sys.stderr))

    def flush(self) -> None:
        with contextlib.suppress(Exception):
            sys.stderr.flush()

    def isatty(self) -> bool:
        try:
            return sys.stderr.isatty()
        except (AttributeError, ValueError):  # there is none, or it is closed
            return False

    def fileno(self) -> int:
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:
        return _encoding_of(sys.stderr)


BARS = _BarStream()  # the `file` of every progress bar


class _Bar(tqdm):
    """A bar that fits 80 columns with its speed, its time left and two measures beside it."""

    FORMAT = "{desc} {percentage:3.0f}%|{bar}| {remaining} left, {speed} images/s{postfix}"

    @property
    def format_dict(self) -> dict[str, Any]:
        """tqdm's values for FORMAT, and `speed`."""
        values = super().format_dict
        mean = (values["n"] - values["initial"]) / max(values["elapsed"], 1e-9)
        return values | {"speed": significant(values["rate"] or mean)}


def progress(total: int, title: str, done: int = 0, enabled: bool = True) -> tqdm:
    """A bar over `total` images, `done` of them done, with images per second and time left; only on a terminal."""
    disable = None if enabled else True  # None: unless it is a terminal
    options: dict[str, Any] = {"bar_format": _Bar.FORMAT, "dynamic_ncols": True, "leave": False, "file": BARS}
    return _Bar(total=total, desc=title, initial=done, disable=disable, **options)


@contextlib.contextmanager
def _bars_aside() -> Iterator[None]:
    """Clears the bars for the block, and draws them again after it."""
    with tqdm.external_write_mode(file=BARS):
        yield


# ---- the streams of this process ----


def protect() -> None:
    """Replaces stdin, stdout and stderr by streams whose writes and flushes never fail, not even at exit.

    A closed descriptor is opened on /dev/null: otherwise the next file that this process opens would get its number,
    and the output of other libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (until the process ends)
    sys.stdout = _Stream(1, "<stdout>", _encoding_of(sys.stdout))
    sys.stderr = _Stream(2, "<stderr>", _encoding_of(sys.stderr))
    threading.excepthook = _report_thread
    os.environ["NO_COLOR"] = "1"  # newer versions of argparse and traceback would print escape sequences


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Prints the traceback of a thread, except for TensorBoard's, whose error is raised by the caller's next call."""
    if not type(args.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(args)


class _Stream(io.TextIOWrapper):
    """Text to a file descriptor. Control characters are escaped, except for line ends and tqdm's."""

    def __init__(self, number: int, name: str, encoding: str):
        super().__init__(_Descriptor(number, name), encoding, "backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        moves = text[: len(text) - len(_CURSOR.sub("", text))]
        super().write(moves + visible(text[len(moves) :], keep="\n"))
        return len(text)


class _Descriptor(io.RawIOBase):
    """A file descriptor to write to. Bytes that cannot be written are dropped. Closing leaves the descriptor open."""

    def __init__(self, number: int, name: str):
        super().__init__()
        self.number, self.name, self.mode = number, name, "wb"
        self.patience = PATIENCE_SECONDS

    def write(self, data) -> int:  # bytes-like
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest):
            try:
                rest = rest[os.write(self.number, rest) :]
                self.patience = PATIENCE_SECONDS
            except BlockingIOError:
                if not self._has_room():
                    break
            except OSError:
                break
        return size

    def _has_room(self) -> bool:
        """Waits until a full pipe has room, at most PATIENCE_SECONDS; after one wait in vain, not at all."""
        poll, end = select.poll(), time.monotonic() + self.patience
        poll.register(self.number, select.POLLOUT)
        if poll.poll(1000 * max(end - time.monotonic(), 0)):
            return True
        self.patience = 0.0
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)


def _encoding_of(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _encodable(text: str, stream: TextIO) -> str:
    """The text, with escapes for the characters that the stream's encoding lacks."""
    encoding = _encoding_of(stream)
    return text.encode(encoding, "backslashreplace").decode(encoding)
