"""Processes without a home directory or a user name, as in containers: everything works, and nothing is named ~."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from utils import home
from utils.cache import cache_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user id without an entry in the user database, and an environment without HOME and names."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def test_no_home(nobody, tmp_path):
    assert home.find_home() is None
    assert cache_folder("features") == Path("/dev/null/.cache/lift_plus/features")  # cannot be created
    home.ensure_home()
    found = home.find_home()
    assert found == tmp_path / f"lift_plus_home_{os.getuid()}"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert os.environ["USER"] == str(os.getuid())
    assert cache_folder("features") == found / ".cache/lift_plus/features"
    del os.environ["HOME"]
    home.ensure_home()
    assert home.find_home() == found  # downloads are found again


@pytest.mark.parametrize("taken", ["link", "file", "open to all"])
def test_a_folder_of_somebody_else_is_not_taken(taken, nobody, tmp_path):
    path = tmp_path / f"lift_plus_home_{os.getuid()}"
    if taken == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    elif taken == "file":
        path.touch()
    else:
        path.mkdir()
        path.chmod(0o777)
    home.ensure_home()
    assert home.find_home() != path
    assert stat.S_IMODE(home.find_home().stat().st_mode) == 0o700


def test_no_folder_for_temporary_files(nobody, monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    home.ensure_home()
    assert home.find_home() == Path("/nonexistent")


def test_a_home_that_is_there_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    home.ensure_home()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "somebody")


CODE = """
import os, pathlib, importlib, pwd, runpy, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
folder = pathlib.Path(sys.argv[1])
for path in (folder / top for top in ("utils", "datasets", "models")):
    for file in sorted(path.rglob("*.py")):
        importlib.import_module(".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"))
importlib.import_module("trainer")
sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_without_home_user_or_locale(tmp_path):
    """Every module, imported before HOME is set, then a run."""
    out = tmp_path / "out"
    options = ["num_epochs", "1", "gpu", "-1", "output_dir", str(out)]
    words = [str(ROOT), "-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+", *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "results.json").exists()
    assert not list(tmp_path.rglob("~"))


@pytest.mark.slow
def test_a_deleted_working_directory_is_one_sentence(tmp_path):
    """Before torch is imported, whose MKL would end the process."""
    (tmp_path / "here").mkdir()
    words = ["-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+"]
    enter = ["bash", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "here")]
    done = subprocess.run([*enter, sys.executable, str(ROOT / "main.py"), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the working directory is gone")
    assert len(done.stderr.splitlines()) == 1
