"""Signals that end a run: Ctrl-C, and those of batch systems.

SIGINT, SIGTERM (Slurm, Kubernetes), SIGHUP (a lost terminal)   end it at once; the last saved progress stays
SIGUSR1 (Slurm's warning: sbatch --signal=USR1@120)             saves the progress first, where a step is being trained
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

AT_ONCE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AFTER_SAVING = signal.SIGUSR1
PATIENCE = 2  # signals to end at once, from the third on without closing anything


class Stopped(KeyboardInterrupt):
    """A signal has ended the run. saved: whether the progress was saved for it."""

    def __init__(self, number: int, saved: bool = False):
        super().__init__(number, saved)
        self.number, self.saved = number, saved

    def __str__(self) -> str:
        name = "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"
        return f"{name}, progress saved" if self.saved else name

    @property
    def status(self) -> int:
        """The exit status of the program: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class Stopping:
    """Whether a signal asks the run to end. Without `handled`, as in a notebook, it never does."""

    def __init__(self) -> None:
        self.requested = False  # by SIGUSR1, for the next point where the progress can be saved
        self._deferring, self._count = False, 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """In the block, the first signal raises Stopped in the main thread; a second one does not disturb its ending.

        A signal that the parent process has chosen to ignore, as nohup does, stays ignored. Python lets the main thread
        alone handle signals; in another one nothing changes.
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == AFTER_SAVING and self._deferring:
            self.requested = True
            return
        self._count += 1
        if self._count > PATIENCE:
            os._exit(128 + number)
        if self._count == 1:
            raise Stopped(number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """In the block, SIGUSR1 sets `requested`, and the block ends the run once the progress is saved."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
