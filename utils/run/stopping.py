"""Signals that end a run: Ctrl-C, and those of batch systems.

SIGINT, SIGTERM (Slurm, Kubernetes), SIGHUP (a lost terminal)   end it at once; the last saved progress stays
SIGUSR1 (Slurm's warning: sbatch --signal=USR1@120)             saves the progress first, if a step is being trained

A run ends at once without raising an exception: raised within any line of any package, it may be mistaken for an error
of that package, or leave a lock held. A run may be killed at any moment without losing saved progress (tests/faults),
so the process exits as a killed one does, after printing the reason.
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
    """Raised after a signal had the progress saved, to end the run."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"{describe(self.number)}, progress saved"


def describe(number: int) -> str:
    """Describes a signal that has ended a run."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def status(number: int) -> int:
    """The exit status of a program that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class Stopping:
    """Handles the signals that end a run, within the block `handled`.

    advice: the end of the printed sentence. on_end: functions that are called with the reason before the process ends
    at once; their errors are ignored. silent: whether nothing is printed; of several processes one prints.
    """

    def __init__(self, advice: str = RESUME):
        self.advice = advice
        self.on_end: list[Callable[[str], None]] = []
        self.silent = False
        self.requested = False  # by SIGUSR1, to end the run once the progress is saved
        self._deferring, self._ending = False, False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles signals in the block, except those that the parent process ignores, as nohup does.

        Only the main thread can handle signals in Python; in other threads the block does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in (*AT_ONCE, AFTER_SAVING)}
        replaced = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        try:
            for number in replaced:
                signal.signal(number, self._handle)
            yield
        finally:
            for number, handler in replaced.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """In the block, SIGUSR1 only sets `requested`; the caller ends the run once the progress is saved."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def say(self, reason: str) -> None:
        """Prints why the run ends, and the advice, unless it is silent."""
        if not self.silent:
            terminal.say(f"{reason}; {self.advice}", error=True, wrap=True)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == AFTER_SAVING and (self._deferring or self.requested):
            self.requested = True
        elif not self._ending:
            self._ending = True
            self._end(number)

    def _end(self, number: int) -> None:
        self.say(describe(number))
        for function in self.on_end:
            with contextlib.suppress(Exception):
                function(describe(number))
        if multiprocessing := sys.modules.get("multiprocessing"):
            for child in multiprocessing.active_children():
                with contextlib.suppress(Exception):
                    child.kill()
        os._exit(status(number))
