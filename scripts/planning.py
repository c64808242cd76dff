"""Plans experiments: reads commands of main.py, and finds their run directories and the runs that are complete.

scripts/run_all.py runs the plan.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets import IMAGE_KEYS, build_data
from main import parse
from utils.config import OUTPUT, Config, load_config, pair_options
from utils.errors import ConfigError, DataError, amended
from utils.run.directory import RunDir
from utils.run.mode import build_mode
from utils.text import visible

NEED_NO_ROOT = {"digits_lt"}  # part of scikit-learn


class Run:
    """One command of main.py."""

    def __init__(self, command: list[str], cfg: Config, trained: RunDir):
        self.command = command  # its arguments
        self.cfg = cfg
        self.trained = trained  # the directory of the training run that it tests; its own if it trains
        self.done = False  # set by `plan`, before anything starts
        self.mode = build_mode(cfg)  # whether it trains or tests, and how
        self.directory = RunDir(Path(cfg.output_dir))
        self.results = self.directory.results(self.mode)  # the file that it writes last
        self.terminal = self.directory.terminal(self.mode)  # the file with its output

    def __str__(self) -> str:
        return visible(as_typed(self.command))


def as_typed(command: list[str]) -> str:
    """The command as a user would type it."""
    try:
        program = os.path.relpath(ROOT / "main.py")
    except FileNotFoundError:  # the working directory was deleted
        program = str(ROOT / "main.py")
    return shlex.join(["python", program, *command])


# ---- complete runs ----


def find_results(run: Run) -> Path | None:
    """The results file of a complete run; None for other runs."""
    command = shlex.join(["python", "main.py", *run.command])
    return run.directory.find_results(run.mode, command, lambda: fingerprints(run.cfg))


def fingerprints(cfg: Config) -> dict[str, str]:
    """The fingerprints of the lists of -d folder; {} for other data sets, or if they cannot be read."""
    key = tuple(cfg[name] for name in IMAGE_KEYS)
    if cfg.dataset == "folder" and key not in _fingerprints:
        try:
            _fingerprints[key] = build_data(cfg).fingerprints()
        except DataError:  # main.py reports it
            _fingerprints[key] = {}
    return _fingerprints.get(key, {})


_fingerprints: dict[tuple[Any, ...], dict[str, str]] = {}  # by the keys that they depend on, as images are read


# ---- what to run ----


def forms_of(line: str, seed: int, args: argparse.Namespace) -> list[list[str]]:
    """The arguments of a script's line: as in the script, then with each addition of the command line.

    The last form is run; --only is searched in all of them. Raises ConfigError.
    """
    words = shlex.split(line)
    given = parse(words)
    if args.backbone and not given.backbone:
        message = f"-b {args.backbone} cannot replace the backbone of a command in LIFT's form: {line}; leave -b out"
        raise ConfigError(message, kind="backbone_of_lift_form", key="backbone")
    data, backbone = args.data or given.data, args.backbone or given.backbone
    flags = ["-d", data, *(["-b", backbone] if backbone else []), "-m", given.method]
    root = ["root", args.root[data]] if data in args.root else []
    forms, options = [words], given.options
    for added in (args.options, root, ["seed", str(seed)] if seed else []):
        options = [text for pair in pair_options([*options, *added]).items() for text in pair]
        forms.append([*flags, *options])
    return forms


def is_wanted(only: re.Pattern[str], forms: list[list[str]]) -> bool:
    """Whether --only matches one of a command's forms, with the quotes of --dry-run or without any."""
    return any(only.search(text) for form in forms for text in (as_typed(form), f"python main.py {' '.join(form)}"))


def build_run(command: list[str], planned: Mapping[Path, Run]) -> Run:
    """The run of a command. Raises ConfigError.

    A test of another list than its training run's gets a test_name. A test with `expand` gets a separate directory, as
    names of results files do not contain expand. planned: the runs before this one, by results file.
    """
    given = parse(command)
    options = list(given.options)

    def load() -> Config:
        return load_config(given.data, given.backbone, given.method, options)

    cfg = load()
    trained = RunDir(Path(cfg.output_dir))
    if cfg.test_only or cfg.test_train:
        if name := name_of_other_list(cfg, planned.get(trained.results())):
            options += ["test_name", name]
            cfg = load()
        if "expand" in options[::2]:
            folder = trained.path / f"{build_mode(cfg).suffix}_expand_{cfg.expand}"
            below = folder.relative_to(OUTPUT) if folder.is_relative_to(OUTPUT) else os.path.abspath(folder)
            options += ["model_dir", cfg.output_dir, "output_dir", str(below)]
            cfg = load()
    return Run([*command, *options[len(given.options) :]], cfg, trained)


def name_of_other_list(cfg: Config, training: Run | None) -> str | None:
    """The name of the tested list, if it differs from the training run's; None otherwise, or with a test_name.

    training: the training run if it is planned, too; otherwise its config.yaml is read.
    """
    key = "train_list" if cfg.test_train else "test_list"
    tested = cfg[key]
    usual = training.cfg[key] if training else RunDir(Path(cfg.output_dir)).saved_config().get(key, tested)
    same = not tested or os.path.realpath(tested) == os.path.realpath(usual or "")
    return None if same or cfg.test_name else Path(tested).stem


def plan(lines: list[str], args: argparse.Namespace) -> list[Run]:
    """The runs of all lines and seeds that match --only, in order, without duplicates. Raises ConfigError."""
    runs: dict[Path, Run] = {}
    for line in lines:
        for seed in range(args.seeds):
            forms = forms_of(line, seed, args)
            if not is_wanted(args.only, forms):
                continue
            with amended(after=f" (in: {as_typed(forms[-1])}); --only REGEX can leave such runs out"):
                run = build_run(forms[-1], runs)
            if seed and run.cfg.zero_shot:
                continue  # zero-shot CLIP does not depend on the seed
            if runs.setdefault(run.results, run).cfg != run.cfg:
                message = f"two runs would write {run.results}: {runs[run.results]} and {run}"
                raise ConfigError(message, kind="same_results_file", path=run.results)
    if not runs:
        message = f"no command matches --only '{args.only.pattern}'; --dry-run without it shows them all"
        raise ConfigError(message, kind="no_command_matches")
    to_train: set[Path] = set()  # their tests are repeated, even complete ones
    for run in runs.values():
        run.done = run.trained.results() not in to_train and find_results(run) is not None
        if not run.done:
            to_train.add(run.results)
    return list(runs.values())


def require_roots(runs: list[Run]) -> None:
    """Raises ConfigError for data sets without a folder."""
    rootless = {run.cfg.dataset for run in runs if not (run.done or run.cfg.root or run.cfg.train_list)}
    missing = sorted(rootless - NEED_NO_ROOT)
    if missing:
        flags = " ".join(f"--root {name}=FOLDER" for name in missing)
        message = f"no folder is set for {', '.join(missing)}; add {flags}, or leave them out with --only"
        raise ConfigError(message, kind="missing_root", key="root")
