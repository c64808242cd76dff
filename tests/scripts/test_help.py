"""--help of the scripts: 80 columns, and at once."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "terminal.Parser(" in path.read_text())
HEAVY = "torch", "matplotlib", "scipy"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_80_columns_with_its_commands_whole(script, capsys):
    module = importlib.import_module(script)
    with pytest.raises(SystemExit) as caught:
        module.parse(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert max(map(len, shown.splitlines())) <= 80
    commands = [line for line in module.__doc__.splitlines() if line.startswith("    ")]
    assert [line for line in commands if line not in shown] == []
    assert " ".join(module.__doc__.split()) in " ".join(shown.split())  # nothing is lost by wrapping


def test_help_imports_nothing_heavy():
    code = f"""
import contextlib, importlib, os, sys
sys.path.insert(0, "scripts")
for name in ("main", *{SCRIPTS}):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, "w")):
        importlib.import_module(name).parse(["--help"])
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
