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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
run_all = importlib.import_module("run_all")

ECHO = '#!/bin/sh\nshift\necho "$@" >&2\ncat\n'  # in the place of Python: prints its stdin, and its arguments on stderr


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


@contextlib.contextmanager
def files_read_once():
    """Within it, thousands of commands are loaded from files that are read once."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (config.files, "read_yaml"),
            (config.files, "config_names"),
            (main, "config_names"),
            (main, "help_text"),
        ):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


def dry_run(lines, arguments=()):
    """The lines that run_all prints with --dry-run for the lines of a script, and the arguments that it passes on."""
    before, printed = signal.getsignal(signal.SIGPIPE), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["run_all.py", "--dry-run", *arguments])
        patch.setattr("sys.stdin", io.StringIO(lines))
        assert run_all.main() == 0
    signal.signal(signal.SIGPIPE, before)
    return printed.getvalue().splitlines()
