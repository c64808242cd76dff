"""A run directory is locked by one process, and free as soon as that process has ended."""

import os
import signal

import pytest
from helpers import refused

from utils.errors import ConfigError
from utils.run.directory import RunDir
from utils.run.log import RunLog
from utils.run.mode import Mode


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "run")


def test_a_child_does_not_inherit_the_lock(run_dir):
    """SIGKILL for the main process, while a worker of it lives on: the same command starts at once."""
    read, write = os.pipe()
    main = os.fork()
    if main == 0:  # the main process of a run, and its worker, which outlives it
        RunLog(run_dir)
        worker = os.fork()
        if worker == 0:
            signal.pause()
        os.write(write, b"%d" % worker)
        os.kill(os.getpid(), signal.SIGKILL)
    worker = int(os.read(read, 20))
    os.waitpid(main, 0)
    try:
        os.kill(worker, 0)  # it is alive
        with RunLog(run_dir), refused(ConfigError, kind="run_is_locked", path=run_dir.path):
            RunLog(run_dir)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_child_cannot_write_to_the_log(run_dir):
    with RunLog(run_dir) as log:
        log.note("before")
        child = os.fork()
        if child == 0:
            log.note("from the child")
            os._exit(0)
        os.waitpid(child, 0)
        log.note("after")
    lines = run_dir.log().read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["before", "after"]


# ---- a start that fails ----


def test_a_failed_start_leaves_nothing(run_dir):
    with pytest.raises(ValueError, match="no"), RunLog(RunDir(run_dir.path / "deep" / "er")) as log:
        log.info("here")
        raise ValueError("no")
    assert not run_dir.path.exists()


def test_a_failure_after_the_start_leaves_the_log(run_dir):
    with pytest.raises(ValueError, match="no"), RunLog(run_dir):
        run_dir.config.touch()
        raise ValueError("no")
    assert "stopped: ValueError: no" in run_dir.log().read_text()


def test_a_failed_start_removes_nothing_of_others(run_dir):
    """Neither a folder that was there before, nor the log of an earlier run."""
    run_dir.path.mkdir()
    with pytest.raises(ValueError, match="no"), RunLog(run_dir):
        raise ValueError("no")
    assert run_dir.log().exists()


def test_a_log_that_is_removed_while_it_is_opened_is_opened_again(run_dir, monkeypatch):
    """By a process whose start fails: the lock would be on a file without a name."""
    from utils.run import directory

    run_dir.path.mkdir()
    lock, removed = directory.lock, []

    def lock_late(file):
        if not removed:
            removed.append(run_dir.log().unlink())
        return lock(file)

    monkeypatch.setattr(directory, "lock", lock_late)
    with run_dir.open_log(Mode()) as log:
        assert os.path.samestat(os.fstat(log.fileno()), os.stat(run_dir.log()))
        assert removed == [None]
