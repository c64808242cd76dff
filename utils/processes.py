"""Worker processes: forked, sent one task after another, and ended with their parent, however it ends.

A worker reads and answers. It has no state to lose, so SIGKILL may end it at any time, and it ignores all other
signals: Ctrl-C, Slurm and Kubernetes signal a whole group of processes, and the parent handles them.
"""

import atexit
import contextlib
import ctypes
import gc
import mmap
import multiprocessing
import multiprocessing.process
import multiprocessing.util  # registers its function atexit before this module does
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError

SECONDS_TO_END = 1.0  # to wait for killed workers, before they are left to the system
OF_THE_PARENT = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
STATES = {  # of a process in /proc
    "T": "stopped",
    "t": "stopped by a debugger",
    "D": "waiting for a disk or a network mount",
    "S": "waiting",
    "R": "computing",
}
PR_SET_PDEATHSIG = 1  # of prctl(2), Linux

Advance = Callable[[], None]
Serve = Callable[[Any, Advance], Iterable[Any]]

_prctl = getattr(ctypes.CDLL(None), "prctl", None) if os.name == "posix" else None
_starting = threading.Lock()  # no worker may inherit the pipes of another one that is being started
_running: "weakref.WeakSet[Worker]" = weakref.WeakSet()


class WorkerDied(Exception):
    """A worker has ended unexpectedly; `cause` is the name of a signal, or its exit status."""

    def __init__(self, cause: str):
        super().__init__(f"a worker process died ({cause})")
        self.cause = cause


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, as text: the cause of that error in its parent."""

    def __str__(self) -> str:
        return f"in a worker process:\n{self.args[0]}"


class Worker:
    """A forked process of one thread, which answers the tasks sent to it, in their order.

    `serve(task, advance)` runs there: it yields the answers to a task, and calls advance() after each of its items.
    Tasks must be small, so that sending one never waits. Raises OSError if the process cannot be started.
    """

    def __init__(self, serve: Serve):
        self.owner = os.getpid()
        self.silence = 0.0  # seconds of waiting in `wait_for` since this worker last advanced, or was sent a task
        self.progress = memoryview(mmap.mmap(-1, 16)).cast("q")  # shared: items so far, and of the current task
        self.seen = 0  # items
        context = multiprocessing.get_context("fork")  # starts at once, with packages and lists in memory
        with _starting, _signals_blocked() as mask, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about a fork with other threads
            self.pipe, far_end = context.Pipe()
            _running.add(self)
            args = (serve, far_end, self.progress, self.owner, threading.get_native_id() == self.owner, mask)
            self.process = context.Process(target=_work, args=args, daemon=True)
            try:
                self.process.start()
            except BaseException:
                _running.discard(self)
                self.pipe.close()
                raise
            finally:
                far_end.close()
        self.pid = self.process.pid

    @property
    def done(self) -> int:
        """Number of completed items of the current task."""
        return self.progress[1]

    @property
    def state(self) -> str:
        """The state of the process, in a few words."""
        with contextlib.suppress(OSError, IndexError):
            letter = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            return STATES.get(letter, f"in state {letter}")
        return "in an unknown state"

    def send(self, task: Any) -> None:
        """Sends a task."""
        self.silence = 0.0
        with contextlib.suppress(OSError):  # it has died, as `receive` will report
            self.pipe.send(task)

    def receive(self) -> Any:
        """The next answer, or the exception that ended the task, returned as a value. Raises WorkerDied.

        Call it once each time that `wait_for` returns this worker.
        """
        try:
            answer, error_text = self.pipe.recv() if self.pipe.poll() else self._raise_death()
        except (EOFError, OSError):
            self._raise_death()
        if error_text:
            answer.__cause__ = WorkerTraceback(error_text)
        return answer

    def _raise_death(self) -> Any:
        self.process.join(SECONDS_TO_END)
        code = self.process.exitcode
        if code is None or code >= 0:
            raise WorkerDied("unexpectedly" if code is None else f"exit status {code}")
        try:
            raise WorkerDied(signal.Signals(-code).name)
        except ValueError:
            raise WorkerDied(f"signal {-code}") from None


def wait_for(workers: Collection[Worker], seconds: float | None) -> list[Worker]:
    """The workers that have answered or died, after at most `seconds`; None: without a limit.

    Updates their silence, by at most `seconds`: this process may have been stopped together with them.
    """
    start = time.monotonic()
    sources: dict[Any, Worker] = {w.pipe: w for w in workers} | {w.process.sentinel: w for w in workers}
    ready = wait(list(sources), seconds)
    waited = time.monotonic() - start if seconds is None else min(time.monotonic() - start, seconds)
    for worker in workers:
        items = worker.progress[0]
        worker.silence = worker.silence + waited if items == worker.seen else 0.0
        worker.seen = items
    return list(dict.fromkeys(sources[source] for source in ready))


def end(workers: Iterable[Worker]) -> None:
    """Kills workers and waits for their end; after SECONDS_TO_END those blocked by a dead disk are left to the system.

    Does nothing in a process that has inherited them.
    """
    own = [worker for worker in workers if worker.owner == os.getpid() and worker in _running]
    for worker in own:
        worker.pipe.close()
        worker.process.kill()
    deadline = time.monotonic() + SECONDS_TO_END
    for worker in own:
        worker.process.join(max(deadline - time.monotonic(), 0))
        try:
            worker.process.close()
        except ValueError:  # it has not ended, and multiprocessing would wait for it at the end of the program
            multiprocessing.process._children.discard(worker.process)  # type: ignore[attr-defined]
        _running.discard(worker)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[set[int | signal.Signals]]:
    """Blocks the parent's signals: a new worker must not run the parent's handlers. Yields the previous mask."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_PARENT)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _close_inherited() -> None:
    """Closes the parent's ends of all pipes in a forked process: a worker ends once its pipe has no other open end."""
    for worker in list(_running):
        worker.pipe.close()
    _running.clear()


os.register_at_fork(after_in_child=_close_inherited)
atexit.register(lambda: end(list(_running)))  # multiprocessing would send SIGTERM, which they ignore, and then wait


# ---- in the worker ----


def _work(
    serve: Serve, pipe: Connection, progress: memoryview, parent: int, by_signal: bool, mask: set[int | signal.Signals]
) -> None:
    """Runs a worker's process. It never returns, so that no cleanup of the parent runs twice."""
    for number in OF_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _end_with(parent, by_signal)
    gc.freeze()  # never collect the parent's objects here: copies no pages, calls no destructors
    torch.set_num_threads(1)

    def advance() -> None:
        progress[0] += 1
        progress[1] += 1
        if os.getppid() != parent:
            os._exit(1)

    with contextlib.suppress(EOFError, OSError):  # the parent has closed its end
        while True:
            task = pipe.recv()
            try:
                for answer in serve(task, advance):
                    pipe.send((answer, ""))
            except BaseException as error:
                pipe.send(_portable(error))
            progress[1] = 0
    os._exit(0)


def _end_with(parent: int, by_signal: bool) -> None:
    """Ends this process when its parent ends.

    by_signal: the system kills it. This follows the thread that forked it, so it is for the main thread only.
    """
    if not (by_signal and _prctl and _prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0):
        with contextlib.suppress(RuntimeError):  # no thread can be started; `advance` and the pipe remain
            threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


def _portable(error: BaseException) -> tuple[BaseException, str]:
    """An error that survives pickling, and its traceback; "" for a UserError, whose message is enough."""
    text = "" if isinstance(error, UserError) else traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}"), text
    return error, text
