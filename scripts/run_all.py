#!/usr/bin/env python3
"""Runs the experiments of the scripts run_*.sh: reads one command of main.py per line, runs those without results.

    scripts/run_losses.sh [--dry-run]                            # all of them, then their table; or only their names
    scripts/run_losses.sh --only 'places_lt.*(CE|LDAM)'          # those whose command matches
    scripts/run_losses.sh --root imagenet_lt=/data/imagenet
    scripts/run_losses.sh -d digits_lt -b clip_tiny --jobs 4     # the same losses on something small
    scripts/run_losses.sh prec_train bf16 num_epochs 10          # KEY VALUE pairs for all runs

--only REGEX is searched in each command as the script has it ('lift\\+$' finds those that end so), and also with the
additions of the command line: first KEY VALUE pairs ('num_epochs 10$'), then root, then seed. One match is enough.
The output of a run is in terminal.txt of its run directory. A run with a results file is skipped (with -d folder, if
the file is of the same images). Failures are listed at the end and do not stop the others (exit status 1); wrong input
is reported before anything starts (2). Ctrl-C (130), SIGTERM (143) and SIGHUP (129) end everything that was started,
and SIGUSR1 (138) saves the progress of each run first; the same command resumes. The table goes to stdout, everything
else to stderr.
"""

import argparse
import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import collect_results
from planning import Run, find_results, plan, require_roots

from utils import terminal
from utils.config import OUTPUT
from utils.errors import UserError
from utils.home import ensure_home
from utils.text import duration, visible

PATIENCE = 60  # seconds until a stopped run is killed; after SIGUSR1 it completes its step and saves its progress


# ---- running ----


class Started(NamedTuple):
    """A run that has started."""

    run: Run
    number: int  # from 1, in the order of starting
    process: subprocess.Popen[bytes]
    time: float  # seconds, of time.monotonic


def run_all(runs: list[Run], jobs: int) -> dict[Run, str]:
    """Runs them, `jobs` at once, a test after its training run. Returns the failed ones with the reason."""
    waiting = list(runs)
    running: dict[Future[int], Started] = {}  # by the future of the exit status
    failed: dict[Run, str] = {}
    ending: int = signal.SIGINT  # is sent to what runs
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
    """Starts a run in a session of its own, so that Ctrl-C reaches it once, through `stop`."""
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


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler of signals that end everything, as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def log(line: str) -> None:
    """Prints a line to stderr."""
    terminal.say(line, error=True)


# ---- the command line ----


def _data_and_folder(text: str) -> tuple[str, str]:
    data, _, folder = text.partition("=")
    if not (data and folder):
        raise argparse.ArgumentTypeError(f"takes DATA=FOLDER, found '{text}'")
    return data, folder


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a regular expression ({error})") from error


def _count(text: str) -> int:
    if text == "cores":
        return os.cpu_count() or 1
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, found '{text}'")
    return int(text)


def read_arguments() -> argparse.Namespace:
    """The command line, checked as far as it can be without the commands."""
    parser = terminal.Parser(
        prog="scripts/run_GROUP.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dry-run", action="store_true", help="print the commands, and run nothing")
    add("--only", metavar="REGEX", type=_regex, default="", help="run only the commands that match: see above")
    add("--jobs", metavar="N", type=_count, default=1, help="runs at once, or 'cores' (default: 1)")
    add("--seeds", metavar="N", type=_count, default=1, help="runs of each, with seeds 0 to N - 1")
    add("--root", metavar="DATA=FOLDER", type=_data_and_folder, action="append", default=[], help="a data set's images")
    add("-d", dest="data", help="this data set in place of the script's own")
    add("-b", dest="backbone", help="this backbone in place of the script's own")
    add("options", nargs="*", metavar="KEY VALUE", help="for all runs: see main.py --help")
    args = parser.parse_intermixed_args()
    if sys.stdin.isatty():
        parser.error("the commands come from a script: scripts/run_main.sh, scripts/run_losses.sh, ...")
    args.root = dict(args.root)
    fixed = {"output_dir", "model_dir", "seed" if args.seeds > 1 else ""} & set(args.options[::2])
    if fixed:
        parser.error(f"every run has its own {fixed.pop()}, so it cannot be the same for all")
    if ("seed", "None") in zip(args.options[::2], args.options[1::2], strict=False):
        parser.error("seed None draws another seed each time, so no run is found again; take --seeds N")
    return args


def main() -> int:
    """Runs the commands of stdin; returns the exit status."""
    args = read_arguments()
    try:
        runs = plan(sys.stdin.read().splitlines(), args)
        if args.dry_run:
            for run in runs:
                terminal.say(f"{run}  # done" if run.done else str(run))
            return 0
        require_roots(runs)
    except UserError as error:
        log(f"error: {error}")
        return 2

    to_run = [run for run in runs if not run.done]
    log(f"{len(runs)} runs, {len(runs) - len(to_run)} of them done already")
    for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ending, interrupt)
    try:
        failed = run_all(to_run, args.jobs)
    except KeyboardInterrupt as interruption:
        log("interrupted, and stopped everything that was started; run the same command again to resume")
        return 128 + (interruption.args[0] if interruption.args else signal.SIGINT)

    finished = [path for path in map(find_results, runs) if path]
    if finished:
        collect_results.show(collect_results.collect(finished, OUTPUT))
    if failed:
        log(f"\n{len(failed)} of {len(to_run)} failed:")
        for run, why in failed.items():
            log(f"  {run}\n    {visible(why)}")
    return 1 if failed else 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main())
