#!/usr/bin/env python3
"""What the scripts run_*.sh share: reads one command of main.py in a line, runs those that have no results yet.

    scripts/run_losses.sh [--dry-run]                            # all of them, then their table; or only their names
    scripts/run_losses.sh --only 'places_lt.*(CE|LDAM)'          # those whose command matches
    scripts/run_losses.sh --root imagenet_lt=/data/imagenet
    scripts/run_losses.sh -d digits_lt -b clip_tiny --jobs 4     # the same losses on something small
    scripts/run_losses.sh prec_train bf16 num_epochs 10          # KEY VALUE pairs for all runs

--only REGEX is looked for in each command as the script has it ('lift\\+$' finds those that end so) and, too, with what
the command line adds: first KEY VALUE pairs ('num_epochs 10$'), then root, then seed. One match is enough.
What a run prints lands in terminal.txt of its run directory. A run that has its results file is skipped, with one's own
pictures if the file is of the same ones; failures are listed at the end (exit status 1), wrong input is said before
anything starts (2). Ctrl-C stops what was started (130), and the same command goes on from there. The table goes to the
standard output, all else beside it.
"""

import argparse
import dataclasses
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import collect_results

from datasets import FOLDER_KEYS, build_data
from main import parse
from utils.config import OUTPUT, Config, load_config
from utils.errors import ConfigError, DataError
from utils.run.results import read, run_files, same_images

NEED_NO_ROOT = {"digits_lt"}  # inside scikit-learn
OWN_DIRECTORY = ("expand", "tte_expand")  # a results file has one name for all their values
PATIENCE = 20  # seconds that a stopped run has to end by itself


@dataclasses.dataclass(eq=False)
class Run:
    """One command of main.py."""

    command: list[str]  # its arguments
    cfg: Config
    results: Path  # the file that says that it is complete
    trained: Path  # the results file of the training run that it tests; its own for a training run
    done: bool = False  # before anything started

    @property
    def written(self) -> Path | None:
        """Its results file, if it is there: under a longer name where it tested other images than its training run."""
        if self.results.exists():
            return self.results if self.is_of_its_images(self.results) else None
        command = shlex.join(["python", "main.py", *self.command])
        longer = self.results.parent.glob(f"{self.results.stem}_*.json") if self.results != self.trained else ()
        return next((path for path in longer if read(path).get("command") == command), None)

    def is_of_its_images(self, path: Path) -> bool:
        """Whether a results file is of the images that this command names now; published sets are known by name."""
        now, then = fingerprints(self.cfg), read(path).get("data", {}).get("fingerprint", {})
        return not now or all(same_images(then.get(split), now[split]) for split in now)

    @property
    def terminal(self) -> Path:
        """The file of what it prints."""
        return self.results.with_name(self.results.stem.replace("results", "terminal") + ".txt")

    def __str__(self) -> str:
        return as_typed(self.command)


def fingerprints(cfg: Config) -> dict[str, str]:
    """Of the training and test list of one's own pictures; {} for other data, and where they cannot be read."""
    key = tuple(cfg[name] for name in ("dataset", "root", *FOLDER_KEYS, "bad_images"))
    if cfg.dataset == "folder" and key not in _known_lists:
        try:
            lists = build_data(cfg).fingerprints()
        except DataError:  # main.py says what is wrong
            lists = {}
        _known_lists[key] = lists
    return _known_lists.get(key, {})


_known_lists: dict[tuple, dict[str, str]] = {}


def as_typed(command: list[str]) -> str:
    """The command as a person would give it."""
    return shlex.join(["python", os.path.relpath(ROOT / "main.py"), *command])


# ---- what to run ----


def results_file(cfg: Config) -> Path:
    """The file that a run of `cfg` writes last."""
    crops = (cfg.test_train, cfg.tte, cfg.tte_crops, cfg.tte_draws)
    testing = cfg.test_only or cfg.test_train
    return run_files(Path(cfg.output_dir), *crops, testing=testing, name=cfg.test_name).results


def forms_of(line: str, seed: int, args: argparse.Namespace) -> list[list[str]]:
    """The arguments of a script's line: as the script has it, then with what the command line adds, piece by piece.

    The last form is what runs; --only is looked for in all of them. Raises ConfigError.
    """
    given = parse(shlex.split(line))
    if args.backbone and not given.backbone:
        raise ConfigError(f"-b {args.backbone} does not go with LIFT's form of a command, which names its own: {line}")
    data, backbone = args.data or given.data, args.backbone or given.backbone
    root = ["root", args.root[data]] if data in args.root else []
    forms, options = [shlex.split(line)], given.options
    for added in (args.options, root, ["seed", str(seed)] if seed else []):
        options = [*options, *added]
        if len(options) % 2 == 0:
            pairs = dict(zip(options[::2], options[1::2], strict=True))  # of a key given twice, the last value
            options = [text for pair in pairs.items() for text in pair]
        forms.append(["-d", data, *(["-b", backbone] if backbone else []), "-m", given.method, *options])
    return forms


def is_wanted(only: re.Pattern, forms: list[list[str]]) -> bool:
    """Whether --only is found in one of a command's forms, with the quotes of --dry-run or without any."""
    return any(only.search(text) for form in forms for text in (as_typed(form), f"python main.py {' '.join(form)}"))


def build_run(command: list[str], planned: dict[Path, Run]) -> Run:
    """The run of a command. Raises ConfigError.

    A test with its own `expand` gets a directory of its own, one with another list than its training run a test_name.
    planned: by results file, among others the training runs; those of earlier are known by their config.yaml.
    """
    given = parse(command)
    names, options = (given.data, given.backbone, given.method), given.options
    cfg = load_config(*names, options)
    trained = Path(cfg.output_dir) / "results.json"

    def add(*own: str) -> None:
        nonlocal command, options, cfg
        command, options = [*command, *own], [*options, *own]
        cfg = load_config(*names, options)

    if cfg.test_only or cfg.test_train:
        key = "train_list" if cfg.test_train else "test_list"
        listed = getattr(cfg, key)
        usual = getattr(planned[trained].cfg, key) if trained in planned else _earlier(trained.parent).get(key, listed)
        if listed and not cfg.test_name and os.path.realpath(listed) != os.path.realpath(usual or ""):
            add("test_name", Path(listed).stem)
        if any(key in OWN_DIRECTORY for key in options[::2]):
            name = f"{results_file(cfg).stem.removeprefix('results_')}_expand_{cfg.expand}"
            folder = str((Path(cfg.output_dir) / name).relative_to(OUTPUT))
            add("model_dir", cfg.output_dir, "output_dir", folder)
    return Run(command, cfg, results_file(cfg), trained)


def _earlier(run_dir: Path) -> dict[str, Any]:
    """The configuration of a run in an earlier call; {} where there is none."""
    try:
        return dict(yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}


def plan(lines: list[str], args: argparse.Namespace) -> list[Run]:
    """The runs of all lines and seeds that --only leaves, in order, none twice. Raises ConfigError."""
    runs: dict[Path, Run] = {}
    for line in lines:
        for seed in range(args.seeds):
            forms = forms_of(line, seed, args)
            if not is_wanted(args.only, forms):
                continue
            try:
                run = build_run(forms[-1], runs)
            except ConfigError as error:
                raise ConfigError(
                    f"{error}\n  in: {as_typed(forms[-1])}\n  --only REGEX leaves such runs out"
                ) from error
            if seed and run.cfg.zero_shot:
                continue  # nothing in zero-shot CLIP depends on the seed
            if runs.setdefault(run.results, run).cfg != run.cfg:
                raise ConfigError(f"two runs would write {run.results}:\n  {runs[run.results]}\n  {run}")
    if not runs:
        raise ConfigError(f"no command matches --only '{args.only.pattern}'; --dry-run without it shows them all")
    to_train: set[Path] = set()  # what training changes has to be tested again
    for run in runs.values():
        run.done = run.written is not None and run.trained not in to_train
        to_train |= set() if run.done else {run.results}
    return list(runs.values())


def require_roots(runs: list[Run]) -> None:
    """Raises ConfigError for data sets whose folder is not known."""
    rootless = [run.cfg for run in runs if not run.done and run.cfg.root is None]
    lacking = sorted({cfg.dataset for cfg in rootless if not cfg.train_list} - NEED_NO_ROOT)
    if lacking:
        flags = " ".join(f"--root {name}=FOLDER" for name in lacking)
        raise ConfigError(f"where are the images of {', '.join(lacking)}? Add {flags}, or leave them out with --only")


# ---- running ----


def run_all(runs: list[Run], jobs: int) -> dict[str, str]:
    """Runs them, `jobs` at once, a test after the training that it needs. Returns what failed: command -> reason."""
    waiting, running, failed = list(runs), {}, {}
    started = 0
    try:
        while waiting or running:
            for run in [run for run in waiting if not _blocked(run, waiting, running)][: jobs - len(running)]:
                waiting.remove(run)
                started += 1
                if any(run.trained == other.results for other in failed):
                    failed[run] = "its training run failed"
                    continue
                tell(f"{started}/{len(runs)} begins  {run}")
                running[run.results] = (run, start(run), time.monotonic(), started)
            time.sleep(0.05)
            for path, (run, process, since, number) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[path]
                seconds = time.monotonic() - since
                if process.returncode == 0:
                    tell(f"{number}/{len(runs)} done in {seconds:.0f} s  {run.written or run.results}")
                else:
                    tell(f"{number}/{len(runs)} FAILED after {seconds:.0f} s  {run.terminal}")
                    failed[run] = reason(run.terminal)
    except KeyboardInterrupt:
        stop([process for _, process, *_ in running.values()])
        raise
    return {str(run): why for run, why in failed.items()}


def _blocked(run: Run, waiting: list[Run], running: dict[Path, tuple]) -> bool:
    """Whether the training run that it tests is still to end."""
    return run.trained != run.results and (
        run.trained in running or any(other.results == run.trained for other in waiting)
    )


def start(run: Run) -> subprocess.Popen:
    """Starts it in a session of its own, so that Ctrl-C reaches it only once, through `stop`."""
    run.terminal.parent.mkdir(parents=True, exist_ok=True)
    with open(run.terminal, "w", encoding="utf-8") as terminal:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *run.command],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # its lines stand in the order in which they were said
            start_new_session=True,
            # in the background of a shell interrupts are ignored, and that is inherited
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )


def stop(processes: list[subprocess.Popen]) -> None:
    """Ends the processes and what they started: as Ctrl-C does, and after PATIENCE at once."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def reason(terminal: Path) -> str:
    """Why a run failed: the sentence that main.py ends with, else the last line."""
    lines = [line for line in terminal.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("error: ", "failed: "))]
    return (said or lines or ["it said nothing"])[-1]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- the command line ----


def _place(text: str) -> tuple[str, str]:
    data, _, folder = text.partition("=")
    if not (data and folder):
        raise argparse.ArgumentTypeError(f"takes DATA=FOLDER, found '{text}'")
    return data, folder


def _regex(text: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression ({error})") from error


def _count(text: str) -> int:
    if text == "cores":
        return os.cpu_count() or 1
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, found '{text}'")
    return int(text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/run_GROUP.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    parser.add_argument(
        "--only", metavar="REGEX", type=_regex, default="", help="of the commands, those that match: see above"
    )
    parser.add_argument("--jobs", metavar="N", type=_count, default=1, help="runs at once, or 'cores' (default: 1)")
    parser.add_argument("--seeds", metavar="N", type=_count, default=1, help="runs of each, with seeds 0 to N - 1")
    parser.add_argument(
        "--root", metavar="DATA=FOLDER", type=_place, action="append", default=[], help="where a data set's images lie"
    )
    parser.add_argument("-d", dest="data", help="this data set in place of the script's own")
    parser.add_argument("-b", dest="backbone", help="this backbone in place of the script's own")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="for all runs: see main.py --help")
    args = parser.parse_intermixed_args()
    if sys.stdin.isatty():
        parser.error("the commands come from a script: scripts/run_main.sh, scripts/run_losses.sh, ...")
    args.root = dict(args.root)
    own = {"output_dir", "model_dir", "seed" if args.seeds > 1 else ""} & set(args.options[::2])
    if own:
        parser.error(f"every run has its own {own.pop()}, so it cannot be the same for all")
    if ("seed", "None") in zip(args.options[::2], args.options[1::2], strict=False):
        parser.error("seed None draws another seed each time, so no run is found again; take --seeds N")
    return args


def main() -> int:
    args = read_arguments()
    try:
        runs = plan(sys.stdin.read().splitlines(), args)
        if args.dry_run:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` may end before we do
            for run in runs:
                print(f"{run}  # done" if run.done else run)
            return 0
        require_roots(runs)
    except ConfigError as error:
        tell(f"error: {error}")
        return 2
    to_run = [run for run in runs if not run.done]
    tell(f"{len(runs)} runs, {len(runs) - len(to_run)} of them done already")
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing that was started stays behind
        signal.signal(ending, signal.default_int_handler)
    try:
        failed = run_all(to_run, args.jobs)
    except KeyboardInterrupt:
        tell("stopped, and all that was started; the same command goes on where it stopped")
        return 130
    finished = [run.written for run in runs if run.written]
    if finished:
        collect_results.show(collect_results.collect(finished, OUTPUT))
    if failed:
        tell(f"\n{len(failed)} of {len(to_run)} failed:")
        for command, why in failed.items():
            tell(f"  {command}\n    {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
