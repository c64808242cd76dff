"""Possible causes of endless waiting, each with a time limit: pipes as images, lost batches, stopped workers."""

import os
import re
import shutil
import signal
import socket

import pytest
from faults import namespace
from faults.client import processes
from faults.runs import PICTURES, assert_ended, assert_refused, assert_same, contents

pytestmark = pytest.mark.slow

LIMIT = 20  # seconds
TRAIN = (*PICTURES, "num_epochs", "2")
LISTS = ("train_list", "train.csv", "test_list", "test.csv")
NAME = "pictures/train/birch/birch-9999.png"


# ---- pipes, sockets and devices as images ----


def pipe(path) -> None:
    os.mkfifo(path)


def link_to_a_pipe(path) -> None:
    os.mkfifo(path.parents[3] / "pipe")
    path.symlink_to(path.parents[3] / "pipe")


def link_to_a_device(path) -> None:
    path.symlink_to("/dev/zero")


def link_to_a_terminal(path) -> None:
    path.symlink_to("/dev/ptmx")


def a_socket(path) -> None:
    address = path.parents[3] / "socket"  # short enough for the system
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(address.parent)
        server.bind(address.name)
    address.rename(path)


STRANGE = [pipe, link_to_a_pipe, link_to_a_device, link_to_a_terminal, a_socket]


@pytest.fixture
def strange(place, monkeypatch):
    """strange(MAKE) -> a folder of pictures of which one is not a file, and lists with it."""

    def build(make):
        monkeypatch.chdir(place.folder)
        folder = place.fresh("pictures")
        (folder / "pictures").unlink()
        shutil.copytree(place.pictures / "pictures", folder / "pictures")
        make(folder / NAME)
        for split in ("train", "test"):
            files = sorted((folder / "pictures" / split).glob("*/*"))
            rows = "".join(f"{file.relative_to(folder / 'pictures')},{file.parent.name}\n" for file in files)
            (folder / f"{split}.csv").write_text(rows)
        return folder

    return build


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", STRANGE)
def test_a_list_names_what_is_not_a_file(make, workers, strange, place):
    folder = strange(make)
    outcome = place.server.start((*TRAIN, *LISTS, "num_workers", workers), folder).wait(LIMIT)
    assert outcome.status == 2, outcome
    assert_refused(outcome, os.path.basename(NAME))


@pytest.mark.parametrize("make", STRANGE)
def test_a_folder_has_what_is_not_a_file(make, strange, place):
    """It is skipped, or an error."""
    outcome = place.server.start((*TRAIN, "num_workers", 2), strange(make)).wait(LIMIT)
    if outcome.status:
        assert outcome.status == 2, outcome
        assert_refused(outcome, os.path.basename(NAME))


@pytest.mark.parametrize("make", STRANGE)
def test_a_check_reports_what_is_not_a_file(make, strange, place):
    folder = strange(make)
    outcome = place.check(folder, *LISTS, seconds=LIMIT)
    assert (outcome.status, outcome.err) == (1, ""), outcome
    assert os.path.basename(NAME) in outcome.out
    report = next(folder.glob("output/check*/bad_images.txt")).read_text().splitlines()
    assert [os.path.basename(line.partition("\t")[0]) for line in report] == [os.path.basename(NAME)]


# ---- batches on their way from the workers ----


def completes_or_says_why(place, folder, outcome, words: str) -> None:
    """It leaves the same files as other runs, or one sentence has one of these words."""
    if outcome.status:
        assert_refused(outcome)
        assert re.search(words, outcome.err), outcome
    else:
        assert outcome.err == ""
        expected = place.reference("pictures", (*TRAIN, "batch_size", "24", "num_workers", "2"))
        assert_same(contents(folder), expected)


def test_shared_memory_is_small(place):
    """A /dev/shm of 64 KB, where users may mount one (root, or namespaces of one's own), smaller than a batch."""
    if not namespace.is_possible():
        pytest.xfail("neither root nor user namespaces: test_no_large_shared_memory_can_be_had tests the same without")
    folder = place.fresh("pictures")
    command = (*TRAIN, "batch_size", "24", "num_workers", "2")  # 72 KB
    outcome = place.server.start(command, folder, private_shm=1 << 16).wait(LIMIT)
    completes_or_says_why(place, folder, outcome, "shm|shared memory")


def test_no_large_shared_memory_can_be_had(place):
    """Files, including those in /dev/shm, of at most 64 KB, a limit that needs no rights: less than a batch."""
    folder = place.fresh("pictures")
    command = (*TRAIN, "batch_size", "24", "num_workers", "2")
    outcome = place.server.start(command, folder, limits={"RLIMIT_FSIZE": 1 << 16}).wait(LIMIT)
    if outcome.status:
        assert_refused(outcome)


def test_few_descriptors(place):
    """So few that workers cannot send batches by descriptors indefinitely."""
    folder = place.fresh("pictures")
    command = (*TRAIN, "batch_size", "2", "num_workers", "2")
    outcome = place.server.start(command, folder, limits={"RLIMIT_NOFILE": 40}).wait(LIMIT)
    if outcome.status:
        assert_refused(outcome)


@pytest.mark.parametrize("length", [80, 200])
def test_the_name_of_the_temporary_folder_is_long(length, place):
    """Addresses of sockets have 107 characters at most."""
    folder = place.fresh("pictures")
    temporary = folder / ("t" * length)
    temporary.mkdir()
    command = (*TRAIN, "batch_size", "24", "num_workers", "2")
    outcome = place.server.start(command, folder, environment={"TMPDIR": str(temporary)}).wait(LIMIT)
    completes_or_says_why(place, folder, outcome, "TMPDIR")


def test_the_temporary_folder_is_missing(place):
    folder = place.fresh("pictures")
    command = (*TRAIN, "batch_size", "24", "num_workers", "2")
    outcome = place.server.start(command, folder, environment={"TMPDIR": str(folder / "nowhere")}).wait(LIMIT)
    completes_or_says_why(place, folder, outcome, "TMPDIR")


# ---- workers ----


def start_with_workers(place, *more):
    """A run of many epochs whose two workers read, and their process ids."""
    folder = place.fresh("pictures")
    command = (*PICTURES, "num_epochs", "2000", "num_workers", "2", *more)
    attempt = place.server.start(command, folder)
    place.wait_for(folder / "output/run/progress.safetensors", attempt)
    workers = [process for process in processes(attempt.process) if process != attempt.process]
    assert workers
    return attempt, workers


def test_workers_that_are_stopped(place):
    """As one that waits for a network disk. The run reports the reason after one period, and ends after two.

    Two runs wait at the same time: one worker of the first and all workers of the second are stopped.
    """
    attempts = []
    for stopped in (1, None):
        attempt, workers = start_with_workers(place, "worker_timeout", "1")
        attempts.append(attempt)
        for worker in workers[:stopped]:
            os.kill(worker, signal.SIGSTOP)
    for attempt in attempts:
        outcome = attempt.wait(LIMIT)
        assert_refused(outcome, "worker_timeout")
        assert ".png" in outcome.out, "the images that it waited for are not named"
        assert_ended(attempt.process, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_worker_dies(number, place):
    attempt, workers = start_with_workers(place)
    os.kill(workers[0], number)
    assert_refused(attempt.wait(LIMIT), "worker", "num_workers")
    assert_ended(attempt.process, 2)
