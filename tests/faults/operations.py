"""File operations of a process, recorded, and a fault at one of them.

    trace = Trace(folder, fault)
    trace.install()

Every operation below `folder` has a kind, a path and a number among those of this kind and path, so that it can be
found again in another run: Operation("write", "output/run/metrics.jsonl", 2) is the third write to that file. Random
parts of names are replaced by *. Audit events of Python report opening, renaming, removing, ...; file objects of a
replaced `open` record reads, writes and closes as system calls: below Python's buffers.
"""

import builtins
import dataclasses
import fcntl
import io
import os
import re
import shutil
import signal
import sys
import threading
from collections import Counter
from typing import Any, NamedTuple

AUDITED = {
    "os.rename": "rename",  # os.replace, too
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.truncate": "truncate",
    "os.link": "link",
    "os.symlink": "symlink",
    "os.utime": "utime",
    "os.listdir": "list",
    "os.scandir": "list",
    "fcntl.flock": "lock",
    "fcntl.lockf": "lock",
}
CHANGES = {"create", "write", "rename", "remove", "mkdir", "rmdir", "truncate", "link", "symlink"}  # of the disk
NAMELESS = {"write", "read", "close", "fsync", "truncate", "lock"}  # take a descriptor, so their errors have no name
RANDOM_PARTS = re.compile(r"(?<=events\.out\.tfevents\.)[^/]*|(?<=\.)[0-9a-f]{8,}(?=\.|$)|\b[0-9a-f]{32,}\b")


class Operation(NamedTuple):
    """One file operation of a run."""

    kind: str
    path: str  # below the traced folder
    number: int  # of this kind and path, from 0


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that replaces an operation.

    action: "kill" (SIGKILL), "errno" (it fails with error `number`) or "signal" (`number` to the process itself, before
    it). half: of a write, the first half of the bytes is written before. lasting: every later change fails, too.
    """

    operation: Operation
    action: str
    number: int = 0
    half: bool = False
    lasting: bool = False

    def __str__(self) -> str:
        kind, path, number = self.operation
        words = [
            self.action,
            str(self.number or ""),
            "half-way in" if self.half else "before",
            kind,
            f"#{number}",
            path,
        ]
        return " ".join(filter(None, [*words, "and from then on" if self.lasting else ""]))


def decode_fault(content: dict[str, Any] | None) -> Fault | None:
    """The fault from its dict by dataclasses.asdict."""
    return content and Fault(**content | {"operation": Operation(*content["operation"])})


def copy_name(index: int, half: bool) -> str:
    """The name of the copy that is made before operation `index`, or half-way in it."""
    return f"{index} half" if half else str(index)


class Trace:
    """Records the operations of this process, not of its children; `fault` is done once, when its operation is due.

    copies: a folder for copies of the traced one, made before each change of the disk and half-way in each write of the
    main thread. Another one, which writes TensorBoard's curves, would copy in the middle of an operation of this one.
    """

    def __init__(self, folder: str, fault: Fault | None = None, copies: str | None = None):
        self.folder, self.fault, self.copies = os.path.join(os.path.realpath(folder), ""), fault, copies
        self.process, self.operations, self.counts = os.getpid(), [], Counter()
        self.done = self.failing = False
        self.copying = False  # in the main thread, whose operations are not the run's meanwhile

    # ---- handling an operation ----

    def relative(self, path: Any) -> str | None:
        """The name of a path or descriptor below the folder; None elsewhere."""
        try:
            path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)
        except (TypeError, OSError):
            return None
        path = os.path.abspath(path)
        return RANDOM_PARTS.sub("*", path.removeprefix(self.folder)) if path.startswith(self.folder) else None

    def meet(self, kind: str, path: Any, half=None) -> int:
        """Records an operation, and does the fault if it is due here.

        half(): writes the first half of the bytes, and returns how many these are. Returns the number of bytes written.
        """
        main = threading.current_thread() is threading.main_thread()
        own = os.getpid() == self.process and not (main and self.copying)
        name = self.relative(path) if own else None
        if name is None:
            return 0
        operation = Operation(kind, name, self.counts[kind, name])
        self.counts[kind, name] += 1
        self.operations.append(operation)
        if self.copies and main and kind in CHANGES:
            return self.copy(self.operations.index(operation), half)
        fault = self.fault
        if fault is None or not (
            (operation == fault.operation and not self.done) or (self.failing and kind in CHANGES)
        ):
            return 0
        self.done, self.failing = True, fault.lasting
        if fault.half and half:
            half()
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.action == "signal":
            os.kill(os.getpid(), fault.number)
        else:
            names = () if kind in NAMELESS or isinstance(path, int) else (os.fspath(path),)
            raise OSError(fault.number, os.strerror(fault.number), *names)
        return 0

    def copy(self, index: int, half) -> int:
        """Copies the folder as it is before operation `index`, and half-way in it; returns as `meet`."""
        self.copying = True
        self._copy_to(copy_name(index, False))
        written = half() if half else 0
        if half:
            self._copy_to(copy_name(index, True))
        self.copying = False
        return written

    def _copy_to(self, name: str) -> None:
        shutil.copytree(self.folder, os.path.join(self.copies, name), symlinks=True)

    # ---- recording ----

    def install(self) -> None:
        """Starts recording; it cannot be stopped."""
        sys.addaudithook(self._audit)
        builtins.open = io.open = self._opener(io.open)
        for name, kind in (("fsync", "fsync"), ("fdatasync", "fsync"), ("stat", "stat"), ("lstat", "stat")):
            setattr(os, name, self._before(kind, getattr(os, name)))
        os.write = self._os_write(os.write)
        import safetensors

        safetensors.safe_open = self._before("map", safetensors.safe_open)

    def _audit(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            self.meet("create" if writes and not os.path.lexists(path) or flags & os.O_TRUNC else "open", path)
        elif event in AUDITED:
            self.meet(AUDITED[event], arguments[1 if event == "os.rename" else 0])

    def _before(self, kind: str, function):
        def traced(path, *args, **kwargs):
            self.meet(kind, path)
            return function(path, *args, **kwargs)

        return traced

    def _os_write(self, write):
        def traced(descriptor, data):
            data = memoryview(data).cast("B")
            done = self.meet("write", descriptor, lambda: write(descriptor, data[: len(data) // 2]))
            return done + write(descriptor, data[done:])

        return traced

    def _opener(self, open_file):
        trace = self

        class File(io.FileIO):
            """The raw stream of an open file."""

            def write(self, data) -> int:
                data = memoryview(data).cast("B")
                done = trace.meet("write", self.name, lambda: super(File, self).write(data[: len(data) // 2]))
                return done + super().write(data[done:])

            def readinto(self, buffer) -> int | None:
                trace.meet("read", self.name)
                return super().readinto(buffer)

            def readall(self) -> bytes:
                trace.meet("read", self.name)
                return super().readall()

            def close(self) -> None:
                was_open = not self.closed
                super().close()
                if was_open and self.writable_at_first:
                    trace.meet("close", self.name)

        def traced(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if isinstance(file, int) or trace.relative(file) is None:
                return open_file(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = File.__new__(File)
            raw.writable_at_first = bool(set(mode) & set("wax+"))
            raw.__init__(file, re.sub("[bt]", "", mode), closefd, opener)
            if buffering == 0:
                return raw
            wrap = (
                io.BufferedRandom if "+" in mode else io.BufferedWriter if set(mode) & set("wax") else io.BufferedReader
            )
            buffer = wrap(raw)
            if "b" in mode:
                return buffer
            text = io.TextIOWrapper(buffer, io.text_encoding(encoding), errors, newline, buffering == 1)
            text.mode = mode
            return text

        return traced


assert fcntl  # its audit events are traced
