"""Variables of torchrun: those that number the processes of a run, and leftovers of an earlier job."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import refused

from utils.device import distributed
from utils.errors import ConfigError
from utils.ranks import MEETING, RANKS, Processes, read_processes, require_meeting_point

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(monkeypatch):
    """environment(NAME=VALUE, ...): these variables of torchrun, and no others."""

    def set_all(**values):
        for name in (*RANKS, *MEETING):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    set_all()
    return set_all


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, Processes()),
        ({"WORLD_SIZE": "1"}, Processes()),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3"}, Processes()),
        ({"RANK": "", "WORLD_SIZE": ""}, Processes()),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "x", "MASTER_ADDR": "node1"}, Processes()),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Processes(5, 8, 1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Processes(1, 2, 0, 1)),
    ],
)
def test_the_processes_of_a_run(values, expected, environment):
    environment(**values)
    assert read_processes() == expected


@pytest.mark.parametrize(
    "values",
    [
        {"WORLD_SIZE": "4"},
        {"RANK": "3"},
        {"RANK": "0"},
        {"RANK": "3", "WORLD_SIZE": "1"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "-1", "WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "0", "WORLD_SIZE": "four"},
        {"RANK": "0", "WORLD_SIZE": "２"},
        {"RANK": "0", "WORLD_SIZE": "9" * 5000},
        {"RANK": "0", "WORLD_SIZE": "4\n\x1b[31m"},
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "2"},
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "x"},
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "0"},
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "8"},
    ],
    ids=lambda values: " ".join(f"{name}={value[:9]!r}" for name, value in values.items()),
)
def test_leftovers_are_refused(values, environment):
    environment(**values)
    with refused(ConfigError, kind="wrong_processes"):
        read_processes()


@pytest.mark.parametrize("port", ["", "0", "65536", "x", "-1", "９"])
def test_processes_need_a_place_to_meet(port, environment):
    environment(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with refused(ConfigError, kind="wrong_processes"):
        require_meeting_point()


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_run_does_not_wait_for_processes_that_nobody_started(rank, environment, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment(RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 1)
    group = distributed.Distributed().process_group(torch.device("cpu"))
    with pytest.raises(ConfigError, match="did not meet at 127.0.0.1:.* within 1 s") as caught, group:
        pass
    assert caught.value.kind == "processes_did_not_meet"
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_says_so_before_it_writes(tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "-d", "digits_lt", "-b", "clip_tiny", "-m", "lift+"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"WORLD_SIZE": "4"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the environment has WORLD_SIZE=4")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
