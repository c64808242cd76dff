"""The experiment scripts without a process of Python for each: their lines, and the plan of run_all for these."""

import contextlib
import functools
import importlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import main
from utils import config
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
planning, run_all = (importlib.import_module(name) for name in ("planning", "run_all"))

ECHO = '#!/bin/sh\nshift\necho "$@" >&2\ncat\n'  # replaces Python: prints its stdin, and its arguments on stderr


def script_lines(name, *arguments):
    """The lines that scripts/NAME.sh pipes into run_all.py, and the arguments that it passes on."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "python")
        program.write_text(ECHO)
        program.chmod(0o755)
        command = [ROOT / f"scripts/{name}.sh", *arguments]
        environment = os.environ | {"PYTHON": str(program)}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return result.stdout, result.stderr.split()


@functools.cache
def _parsed(*arguments):
    return main.parse(list(arguments))


@functools.cache
def _loaded(data, backbone, method, *options):
    return load_config(data, backbone, method, list(options))


def parse(arguments):
    """main.parse, once for each command; nobody changes the result."""
    return _parsed(*arguments)


def load(data, backbone, method, options):
    """load_config, once for each command of a project that stays as it is; the result is frozen."""
    return _loaded(data, backbone, method, *options)


@contextlib.contextmanager
def files_read_once():
    """Within it, thousands of commands are loaded from files that are read once, and planned ones are loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "parse", parse)
        patch.setattr(planning, "load_config", load)
        for name in ("read_yaml", "config_names"):
            patch.setattr(config.files, name, functools.cache(getattr(config.files, name)))
        yield


def dry_run(lines, arguments=()):
    """The lines that run_all prints with --dry-run for the lines of a script, and the arguments that it passes on."""
    before, printed = signal.getsignal(signal.SIGPIPE), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(ROOT)
        patch.setattr("sys.stdin", io.StringIO(lines))
        assert run_all.main(["--dry-run", *arguments]) == 0
    signal.signal(signal.SIGPIPE, before)
    return printed.getvalue().splitlines()
