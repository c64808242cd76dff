"""Runs planned commands of main.py in processes, several at once, and ends them by a signal."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from planning import Run, find_results

from utils import terminal
from utils.text import duration

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60  # seconds until a stopped run is killed; after SIGUSR1 it completes its step and saves its progress


class Started(NamedTuple):
    """A run that has started."""

    run: Run
    number: int  # from 1, in the order of starting
    process: subprocess.Popen[bytes]
    time: float  # seconds, of time.monotonic


def run_all(runs: list[Run], jobs: int) -> dict[Run, str]:
    """Executes the runs, `jobs` at once, tests after their training runs. Returns the failed runs with the reasons."""
    waiting = list(runs)
    running: dict[Future[int], Started] = {}  # by the future of the exit status
    failed: dict[Run, str] = {}
    ending: int = signal.SIGINT  # is sent to unfinished runs
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                # start those that are ready
                unfinished = {run.results for run in waiting} | {started.run.results for started in running.values()}
                ready = [run for run in waiting if run.mode.trains or run.trained.results() not in unfinished]
                for run in ready[: jobs - len(running)]:
                    waiting.remove(run)
                    if any(run.trained.results() == other.results for other in failed):
                        failed[run] = "its training run failed"
                        continue
                    number = len(runs) - len(waiting)
                    log(f"{number}/{len(runs)} begins  {run}")
                    try:
                        process = start(run)
                    except OSError as error:
                        failed[run] = f"its output cannot be written ({error.strerror}): {run.terminal}"
                        continue
                    running[pool.submit(process.wait)] = Started(run, number, process, time.monotonic())

                # wait until one ends
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    run, number, _, since = running.pop(future)
                    seconds = time.monotonic() - since
                    if future.result() == 0:
                        log(f"{number}/{len(runs)} done in {duration(seconds)}  {find_results(run) or run.results}")
                    else:
                        log(f"{number}/{len(runs)} FAILED after {duration(seconds)}  {run.terminal}")
                        failed[run] = reason(run.terminal)
        except KeyboardInterrupt as interruption:
            ending = signal.SIGUSR1 if interruption.args == (signal.SIGUSR1,) else signal.SIGINT
            raise
        finally:
            stop({future: started.process for future, started in running.items()}, ending)
    return failed


def start(run: Run) -> subprocess.Popen[bytes]:
    """Starts a run in a new session, so that it gets Ctrl-C only once, from `stop`."""
    run.terminal.parent.mkdir(parents=True, exist_ok=True)
    run.terminal.unlink(missing_ok=True)  # a link is not followed
    with open(run.terminal, "xb") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *run.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # keeps the order of stdout's and stderr's lines
            start_new_session=True,
            # a shell's background jobs ignore SIGINT, and their children inherit that
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )


def stop(running: Mapping[Future[int], subprocess.Popen[bytes]], number: int = signal.SIGINT) -> None:
    """Ends processes with a signal; after PATIENCE, or a second signal, kills them and their children."""
    for process in running.values():
        process.send_signal(number)
    with contextlib.suppress(KeyboardInterrupt):
        wait(running, PATIENCE)
    for future, process in running.items():
        if not future.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def reason(terminal: Path) -> str:
    """Why a run failed: the last error of main.py in its output, else its last line."""
    lines = [line for line in terminal.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error: ", "failed: "))]
    return (errors or lines or ["it printed nothing"])[-1]


def log(line: str) -> None:
    """Prints a line to stderr."""
    terminal.say(line, error=True)
