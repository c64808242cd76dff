"""scripts/install.sh with a real pip: what it prints first, and the remedy when the installation fails."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import said

ROOT = Path(__file__).resolve().parents[2]
# `-m venv .venv` makes a .venv whose Python is this script, too; everything else is for the real Python
PYTHON = f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; else exec {sys.executable} "$@"; fi
"""
PIPES = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
CLOSED = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}


@pytest.fixture
def install(tmp_path):
    """install(ENVIRONMENT, python) -> the result of scripts/install.sh in a project that requires one package."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/install.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("a-package-that-nobody-has>=1\n")
    script = tmp_path / "python"
    script.write_text(PYTHON)

    def run(variables, python="./python", text=PYTHON):
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        usual = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_TARGET": str(tmp_path / "packages")}
        return subprocess.run(
            [tmp_path / "scripts/install.sh", python], env={**os.environ, **usual, **variables}, **PIPES
        )

    return run


def test_without_network_the_last_line_is_the_remedy(install):
    result = install(CLOSED)
    assert result.returncode == 1
    assert result.stdout.startswith("installing into .venv: about 3 GB to download")
    *before, last = result.stderr.splitlines()
    assert before[-1] == "ERROR: No matching distribution found for a-package-that-nobody-has>=1"
    said(last)


@pytest.mark.parametrize("reason", ["[Errno 28] No space left on device", "No matching distribution"])
def test_other_failures_of_pip(install, reason):
    pip = f'elif [ "$2" = pip ]; then echo "{reason}" > .venv/pip.log; exit 1; else'
    result = install({}, text=PYTHON.replace("else", pip))
    assert result.returncode == 1
    said(result.stderr.rstrip())


@pytest.mark.parametrize(
    ("python", "text"),
    [
        ("./no-such-python", PYTHON),
        ("./python", '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.10\nexit 1\n'),
        ("./python", '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n'),
    ],
    ids=["missing", "too old", "without venv"],
)
def test_a_python_that_cannot_be_used(install, python, text):
    result = install({}, python, text)
    assert (result.returncode, result.stdout) == (1, "")
    said(result.stderr.rstrip())
