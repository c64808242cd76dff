"""The log of a run: its content, and that a full disk does not end the run."""

import errno
import os

import pytest

from utils.errors import ConfigError
from utils.run.directory import RunDir
from utils.run.log import RunLog


@pytest.fixture
def log(tmp_path):
    with RunLog(RunDir(tmp_path / "run")) as log:
        yield log


def test_the_log_has_the_letters_and_escapes_the_rest(log, capsys):
    log.info("class 日本 \x1b[31m\nand a \u202esecond line")
    printed = "class 日本 \\x1b[31m\nand a \\u202esecond line\n"
    assert capsys.readouterr().out == printed
    assert log.run_dir.log().read_text(encoding="utf-8").partition("  ")[2] == printed


class Full:
    """A file on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    flush = close = add_scalar = lambda self, *_: self.write("")


def test_a_full_disk_is_one_warning(log, capsys):
    log.file = log.metrics = log.board = Full()
    for step in range(3):
        log.info("a line")
        log.scalars(step, loss=1.0)
    log.close()
    out = capsys.readouterr().out
    assert out.count("a line") == 3
    assert out.count("warning") == 1
    assert "No space left on device" in out


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_pipe_that_nobody_reads_is_not_waited_for(name, tmp_path, capsys):
    os.mkfifo(tmp_path / name)
    if name == "log.txt":
        with pytest.raises(ConfigError, match="cannot write to the run directory"):
            RunLog(RunDir(tmp_path))
        return
    with RunLog(RunDir(tmp_path)) as log:
        log.scalars(1, loss=1.0)
    assert "cannot be written" in capsys.readouterr().out


@pytest.mark.parametrize("seconds, shown", [(0.1, "80 images/s"), (20, "0.4 images/s (2.5 s an image)")])
def test_slow_runs_show_their_speed(seconds, shown, log, monkeypatch):
    with log.epoch(0, 1, 8, 1) as progress:
        progress.advance(8)
        monkeypatch.setattr("time.perf_counter", lambda: progress.start + seconds)
        progress.report(1.0, 4.0, 1e-6)
    line = log.run_dir.log().read_text()
    assert f"lr 1e-06  {shown}\n" in line
