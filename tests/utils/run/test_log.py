"""The log of a run: its content, and that a full disk does not end the run."""

import errno
import io
import os
import sys

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


@pytest.mark.parametrize("seconds, shown", [(0.1, "80 images/s"), (20, "0.4 images/s (2.5 s per image)")])
def test_slow_runs_show_their_speed(seconds, shown, log, monkeypatch):
    with log.epoch(0, 1, 8, 1) as progress:
        progress.advance(8)
        monkeypatch.setattr("time.perf_counter", lambda: progress.start + seconds)
        progress.report(1.0, 4.0, 1e-6)
    line = log.run_dir.log().read_text()
    assert f"lr 1e-06  {shown}\n" in line


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self):
        return True


def test_the_terminal_gets_wrapped_lines_and_the_file_whole_ones(log, monkeypatch):
    monkeypatch.setattr("sys.stdout", Screen())
    line = "data      " + "a data set with many words " * 5
    log.info(line.strip())
    shown = sys.stdout.getvalue().splitlines()
    assert len(shown) == 2
    assert max(map(len, shown)) <= 80
    (kept,) = log.run_dir.log().read_text().splitlines()
    assert kept.endswith(f"  {line.strip()}")


def test_the_line_of_an_epoch_fits_80_columns(log, monkeypatch):
    """ImageNet-LT's numbers; the position within an epoch is shown before its end only."""
    with log.epoch(9, 100, 115_846, 906) as progress:
        progress.step, progress.images = 905, 115_840
        monkeypatch.setattr("time.perf_counter", lambda: progress.start + 93.9)
        progress.report(10.4321 * 905, 60_000, 0.00012312)
        progress.advance(6)
        progress.report(10.4321 * 906, 60_000, 0.00012312)
    within, end = (line.partition("  ")[2] for line in log.run_dir.log().read_text().splitlines())
    assert within.startswith("epoch 10/100  step 905/906  loss 10.4321  ")
    assert end == "epoch 10/100  loss 10.4321  train accuracy 51.79 %  lr 0.000123  1,234 images/s"
    assert len(end) <= 80
