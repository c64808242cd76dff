"""Signals that end a run: Ctrl-C, and those of batch systems.

SIGINT, SIGTERM (Slurm, Kubernetes), SIGHUP (a lost terminal)   end it at once; the last saved progress stays
SIGUSR1 (Slurm's warning: sbatch --signal=USR1@120)             saves the progress first, where a step is being trained

Where a signal ends a run at once, nothing is unwound: an exception may be raised within any line of any package, which
takes it for an error of its own or keeps a lock for ever. A run may be killed at any moment without losing anything
that was saved (tests/faults), so its process ends as a killed one does, but says so.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from utils import terminal

AT_ONCE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AFTER_SAVING = signal.SIGUSR1
RESUME = "run the same command again to resume from the last saved progress"


class Stopped(KeyboardInterrupt):
    """The progress was saved because of a signal, and now the run ends."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"{describe(self.number)}, progress saved"


def describe(number: int) -> str:
    """A signal that has ended a run, in words."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def status(number: int) -> int:
    """The exit status of a program that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class Stopping:
    """What signals ask of a run. Without `handled`, as in a notebook, they never ask anything.

    advice: the end of the sentence that is printed. on_end: functions that are called, with the reason, before the
    process ends at once; their errors are ignored.
    """

    def __init__(self, advice: str = RESUME):
        self.advice = advice
        self.on_end: list[Callable[[str], None]] = []
        self.requested = False  # by SIGUSR1, to end the run once the progress is saved
        self._deferring, self._ending = False, False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """In the block, signals are handled, but for those that the parent process has chosen to ignore, as nohup does.

        Python lets the main thread alone handle signals; in another one nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in (*AT_ONCE, AFTER_SAVING)}
        heeded = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        try:
            for number in heeded:
                signal.signal(number, self._handle)
            yield
        finally:
            for number, handler in heeded.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """In the block, SIGUSR1 sets `requested`, and the block ends the run once the progress is saved."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == AFTER_SAVING and (self._deferring or self.requested):
            self.requested = True
        elif not self._ending:
            self._ending = True
            self._end(number)

    def _end(self, number: int) -> None:
        terminal.say(f"{describe(number)}; {self.advice}", error=True)
        for function in self.on_end:
            with contextlib.suppress(Exception):
                function(describe(number))
        if multiprocessing := sys.modules.get("multiprocessing"):
            for child in multiprocessing.active_children():
                with contextlib.suppress(Exception):
                    child.kill()
        os._exit(status(number))
