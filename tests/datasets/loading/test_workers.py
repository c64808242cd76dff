"""Worker processes of the loader: they end for any reason, and one that does not answer is reported."""

import contextlib
import errno
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from helpers import is_running, time_limit

from datasets import images as image_module
from datasets.images import ImageList
from datasets.loading import pool
from datasets.loading.crops import TestCrops, TrainCrop
from datasets.loading.loader import Loader
from datasets.loading.sampler import TrainBatchSampler, largest_batch, sequential_batches
from utils import processes
from utils.errors import DataError

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ten pictures in files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        Image.fromarray(helpers.photograph()[10 * i : 10 * i + 60, :80]).save(folder / f"{i}.png")
    return ImageList.of_paths([str(folder / f"{i}.png") for i in range(10)], np.arange(10) % 3)


@pytest.fixture
def decoding(monkeypatch):
    """decoding(action) -> action(path) is called in a worker before each image is decoded."""
    decode = image_module.decode

    def use(action):
        monkeypatch.setattr(image_module, "decode", lambda path, *rest: (action(path), decode(path, *rest))[1])

    return use


def loader(images, workers=2, batch_size=2, epochs=1, **options):
    steps = TrainBatchSampler(len(images), batch_size, 0, epochs)
    return Loader(images, TrainCrop(16, 0, epochs), steps, CPU, workers, **options)


def workers():
    return sorted(child.pid for child in multiprocessing.active_children())


def assert_equal(found, expected):
    for (x, y), (x2, y2) in zip(found, expected, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def children():
    """The processes that this one has started, zombies among them."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(path.read_text().split()) if path.exists() else set()


@pytest.fixture(autouse=True)
def nothing_left():
    """A test leaves no process, and no zombie."""
    before = children()
    yield
    assert workers() == []
    assert children() <= before


# ---- transfer of batches ----


def test_batches_that_are_kept_stay_as_they_were(files):
    """No later batch overwrites them."""
    with time_limit(60):
        assert_equal(list(loader(files, epochs=5)), list(loader(files, workers=0, epochs=5)))


def test_shares_without_samples(files):
    steps = [[(0, 1)], [], [(0, 2), (0, 3)], []]
    with time_limit(60):
        both = [list(Loader(files, TrainCrop(16, 0, 1), steps, CPU, workers)) for workers in (0, 2)]
    assert_equal(*both)
    assert [x.shape for x, _ in both[1]] == [(n, 3, 16, 16) for n in (1, 0, 2, 0)]


def test_several_crops_an_image(files):
    crops, steps = TestCrops(16, 4, count=5), sequential_batches(np.arange(10), 4)
    with time_limit(60):
        assert_equal(*(list(Loader(files, crops, steps, CPU, workers)) for workers in (0, 3)))


@pytest.mark.parametrize("size, batch_size, ranks", [(10, 4, 1), (10, 4, 3), (3, 8, 1), (9, 1, 2), (7, 7, 4)])
def test_largest_batch(size, batch_size, ranks):
    for rank in range(ranks):
        steps = TrainBatchSampler(size, batch_size, 0, 2, rank=rank, num_ranks=ranks)
        longest = max(map(len, steps))
        assert largest_batch(list(steps)) == longest <= largest_batch(steps)
        assert rank or longest == largest_batch(steps)


def test_two_loaders_at_once(files):
    expected = list(loader(files, workers=0))
    with time_limit(60):
        first, second = iter(loader(files)), iter(loader(files))
        pairs = list(zip(first, second, strict=True))
    assert_equal([a for a, _ in pairs], expected)
    assert_equal([b for _, b in pairs], expected)


@pytest.mark.parametrize(
    "fitting, expected", [(0.2, "batches read ahead: 1, not 4"), (3.5, "batches read ahead: 3, not 4"), (4.0, None)]
)
def test_fewer_batches_are_read_ahead_where_memory_is_short(files, monkeypatch, fitting, expected):
    """And the result is the same."""
    lines = []
    monkeypatch.setattr(pool, "free_bytes", lambda device: int(2 * fitting * 2 * 3 * 16 * 16))
    with time_limit(60):
        assert_equal(list(loader(files, log=lines.append)), list(loader(files, workers=0)))
    assert [line.partition(";")[0] for line in lines] == ([f"memory    {expected}"] if expected else [])


def test_no_file_and_no_socket_has_a_name(files, monkeypatch):
    """So a small /dev/shm (64 MB in Docker) and a long or missing TMPDIR do not matter."""
    monkeypatch.setenv("TMPDIR", "/nowhere" * 20)
    with time_limit(60), contextlib.closing(iter(loader(files, epochs=100))) as batches:
        next(batches)
        for pid in [os.getpid(), *workers()]:
            assert "/dev/shm/torch" not in Path(f"/proc/{pid}/maps").read_text()


# ---- a worker that dies, or meets an error ----


@pytest.mark.parametrize("when", ["reading", "waiting for work", "while the parent computes"])
def test_killed_worker_is_explained(when, files, decoding):
    if when == "reading":
        decoding(lambda path: os.kill(os.getpid(), signal.SIGKILL) if path.endswith("7.png") else None)
    with time_limit(60), helpers.refused(DataError, kind="worker_died", key="num_workers"):
        for step, _ in enumerate(loader(files, epochs=1000)):
            if step == 3 and when != "reading":
                time.sleep(0.1 if when == "waiting for work" else 0)
                os.kill(workers()[0], signal.SIGKILL)
    assert workers() == []


def test_an_image_that_crashes_the_decoder_is_named(files, decoding):

    def crash(path):
        if path.endswith("7.png"):
            faulthandler.disable()  # pytest's
            os.kill(os.getpid(), signal.SIGSEGV)

    decoding(crash)
    with time_limit(60), helpers.refused(DataError, kind="worker_died", key="num_workers") as caught:
        list(loader(files))
    assert f"{files.images.path(7)} crashed the decoder;" in str(caught.value)


def test_the_first_error_is_that_of_the_first_batch(files, decoding):
    """However long it takes; an error that cannot be pickled arrives as text."""

    class Local(Exception):
        pass

    def fails(path):
        if path.endswith("0.png"):
            time.sleep(0.2)
            raise Local("the first")
        raise ValueError("a later one")

    decoding(fails)
    with time_limit(60), pytest.raises(RuntimeError, match="Local: the first") as caught:
        list(Loader(files, TrainCrop(16, 0, 1), sequential_batches(np.arange(10), 1), CPU, 2))
    assert "test_workers.py" in str(caught.value.__cause__)  # the traceback of the worker


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM], ids=errno.errorcode.get)
def test_process_that_cannot_be_started(number, files, monkeypatch):
    """The second of two: the first one is ended."""
    fork, calls = os.fork, []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))
        return fork()

    monkeypatch.setattr(os, "fork", fails)
    with time_limit(60), helpers.refused(DataError, kind="cannot_start_worker", key="num_workers"):
        list(loader(files))


def test_too_few_open_files(files):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 3, hard))
    try:
        with time_limit(60), helpers.refused(DataError, kind="cannot_start_worker", key="num_workers"):
            list(loader(files, workers=50))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_memory_that_cannot_be_had(files, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(pool.mmap, "mmap", fails)
    with helpers.refused(DataError, kind="cannot_start_worker", key="num_workers"):
        list(loader(files))


# ---- a worker that does not answer ----


@pytest.mark.slow
def test_stopped_worker_is_reported_then_ends_the_run(files):
    lines = []

    def log(line):
        lines.append(line)
        assert len(workers()) == 2  # none is ended before the timeout

    batches = iter(loader(files, epochs=1000, worker_timeout=0.4, log=log))
    with time_limit(60), pytest.raises(DataError) as caught:
        for step, _ in enumerate(batches):
            if step == 3:
                pid = workers()[0]
                os.kill(pid, signal.SIGSTOP)
                start = time.monotonic()
    assert 0.8 <= time.monotonic() - start < 10
    assert (caught.value.kind, caught.value.key) == ("worker_stalled", "worker_timeout")
    start = f"waiting   no image for 0.4 seconds: process {pid} (stopped) has not read /"
    assert len(lines) == 1 and lines[0].startswith(start)
    assert f"process {pid} (stopped) has not read /" in str(caught.value)


@pytest.mark.slow
def test_worker_that_goes_on_in_time_changes_nothing(files):
    lines = []

    def log(line):
        lines.append(line)
        os.kill(stopped, signal.SIGCONT)

    found = []
    with time_limit(60):
        for step, batch in enumerate(loader(files, epochs=10, worker_timeout=0.4, log=log)):
            found.append(batch)
            if step in (3, 20):
                stopped = workers()[0]
                os.kill(stopped, signal.SIGSTOP)
    assert len(lines) == 2
    assert_equal(found, list(loader(files, workers=0, epochs=10)))


@pytest.mark.slow
def test_all_images_that_are_waited_for_are_named(files, decoding):
    """Both workers are in a read that does not return; the first images of each are named, the others counted."""
    lines = []
    decoding(lambda path: time.sleep(600) if path.endswith(("1.png", "6.png")) else None)
    steps = sequential_batches(np.arange(10), 5)
    with time_limit(60), pytest.raises(DataError) as caught:
        list(Loader(files, TrainCrop(16, 0, 1), steps, CPU, 2, worker_timeout=0.4, log=lines.append))
    first, second = (f"(waiting) has not read {', '.join(files.images.paths[i : i + 3])}" for i in (1, 6))
    assert f"{first} and 1 more; " in lines[0]  # the second worker may have begun later, on a busy machine
    assert f"{first} and 1 more; " in str(caught.value) and f"{second} and 1 more; " in str(caught.value)
    assert caught.value.kind == "worker_stalled"


@pytest.mark.slow
def test_slow_images_are_not_stalled_ones(files, decoding):
    """A batch takes longer than the two timeouts after which a silent worker ends the run."""
    lines = []
    decoding(lambda path: time.sleep(0.25))
    with time_limit(60):
        steps = sequential_batches(np.arange(6), 6)
        ((x, _),) = Loader(files, TrainCrop(16, 0, 1), steps, CPU, 1, worker_timeout=0.7, log=lines.append)
    assert len(x) == 6 and lines == []


@pytest.mark.slow
def test_large_batches_do_not_block_their_sender(files):
    """The lists of samples of four batches are larger than any pipe, and no worker reads one."""
    lines = []
    images = files.subset(np.zeros(40_000, int))
    steps = sequential_batches(np.arange(40_000), 10_000)
    batches = iter(Loader(images, TrainCrop(1, 0, 1), steps, CPU, 2, worker_timeout=0.4, log=lines.append))
    start = processes.Worker.send

    def stop_and_send(worker, task):
        os.kill(worker.pid, signal.SIGSTOP)
        start(worker, task)

    with pytest.MonkeyPatch.context() as patch, time_limit(60), pytest.raises(DataError) as caught:
        patch.setattr(processes.Worker, "send", stop_and_send)
        next(batches)
    assert caught.value.kind == "worker_stalled"
    assert "and 19,997 more" in lines[0]


# ---- the end ----


@pytest.mark.parametrize("how", ["close", "release", "error", "end"])
@pytest.mark.parametrize("workers_are", ["idle", "stopped"])
def test_no_worker_is_left_behind(how, workers_are, files):
    batches = iter(loader(files, epochs=1 if how == "end" else 1000))
    with time_limit(60):
        next(batches)
        pids = workers()
        assert len(pids) == 2
        if how == "end":
            list(batches)
        if workers_are == "stopped":
            for pid in pids if workers() else ():
                os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        if how == "close":
            batches.close()
        elif how == "error":
            with pytest.raises(KeyboardInterrupt):
                batches.throw(KeyboardInterrupt)
        del batches
        assert time.monotonic() - start < 2
    assert not any(map(is_running, pids))


def test_worker_that_the_system_holds_is_left_to_it(files, monkeypatch):
    """A dead disk blocks a process even against SIGKILL; neither the loader nor the end of the program waits for it."""
    batches = iter(loader(files, workers=1, epochs=1000))
    next(batches)
    (pid,) = workers()
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", lambda process: os.kill(pid, signal.SIGSTOP))
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        batches.close()
        assert 0.2 <= time.monotonic() - start < 2
        assert workers() == [] and is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_signals_are_left_to_the_parent(files):
    found = []
    with time_limit(60):
        for step, batch in enumerate(loader(files, epochs=4)):
            found.append(batch)
            for pid in workers() if step == 2 else ():
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                    os.kill(pid, number)
    assert_equal(found, list(loader(files, workers=0, epochs=4)))


def test_handlers_of_the_parent_never_run_in_a_worker(files, tmp_path):
    """Not even if a signal arrives during its start."""
    before = signal.signal(signal.SIGTERM, lambda *_: (tmp_path / str(os.getpid())).write_text(""))
    storm = threading.Thread(target=lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(1000)])
    try:
        with time_limit(60):
            storm.start()
            for _ in range(5):
                assert len(list(loader(files))) == 5
            storm.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert os.listdir(tmp_path) == [str(os.getpid())]


def test_in_another_thread(files):
    found = []
    thread = threading.Thread(target=lambda: found.extend(loader(files)), daemon=True)
    thread.start()
    thread.join(60)
    assert_equal(found, list(loader(files, workers=0)))


class Forked:
    """A process in its own group, forked from this one, which calls act(). `lines`: its output."""

    def __init__(self, act):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout = sys.stderr = os.fdopen(writer, "w", buffering=1)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent of the tests may ignore it
            try:
                act()
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.close(writer)
        self.lines = os.fdopen(reader)
        self.workers = [int(pid) for pid in self.lines.readline().split()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.lines.close()


def report():
    """Prints the ids of this process's workers."""
    print(*workers(), flush=True)


def iterate(files, idle=False, timeout=1.0):
    """Reads without end; after some steps it reports, and continues with the workers at work or idle."""
    for step, _ in enumerate(loader(files, workers=3, epochs=10**6, worker_timeout=timeout)):
        if step == 5:
            report()
            time.sleep(600 if idle else 0)


def gone(pids, seconds):
    """Whether these processes end within this number of seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.01)
    return not any(map(is_running, pids))


@pytest.mark.slow
@pytest.mark.parametrize("workers_are", ["at work", "idle", "in a read that does not return"])
@pytest.mark.parametrize("thread", ["main", "other"])
def test_workers_end_with_their_parent(thread, workers_are, files, decoding):
    if workers_are.startswith("in a read"):
        decoding(lambda path: time.sleep(600))

    def report_start():
        while len(workers()) < 3:
            time.sleep(0.01)
        time.sleep(0.05)
        report()

    def read():
        if workers_are.startswith("in a read"):
            threading.Thread(target=report_start).start()
        iterate(files, idle=workers_are == "idle")

    def read_elsewhere():
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()

    with time_limit(60), Forked(read if thread == "main" else read_elsewhere) as parent:
        assert len(parent.workers) == 3 and all(map(is_running, parent.workers))
        os.kill(parent.pid, signal.SIGKILL)
        assert gone(parent.workers, 2)  # within 0.01 s on an idle machine


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_quietly(number, files):
    """As sent by Ctrl-C, Slurm and Kubernetes; the parent reacts, here by an exception."""

    def read():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            iterate(files)
        except KeyboardInterrupt:
            print("stopped")

    with time_limit(60), Forked(read) as parent:
        os.killpg(parent.pid, number)
        assert parent.lines.read() == "stopped\n"
        assert gone(parent.workers, 0)


@pytest.mark.slow
def test_a_pause_of_all_processes_is_no_silence(files):
    """Ctrl-Z and fg, or Slurm's suspension, for longer than two timeouts."""
    with time_limit(60), Forked(lambda: iterate(files, timeout=0.4)) as parent:
        os.killpg(parent.pid, signal.SIGSTOP)
        time.sleep(0.9)
        os.killpg(parent.pid, signal.SIGCONT)
        time.sleep(0.4)
        assert all(map(is_running, [parent.pid, *parent.workers]))
        os.killpg(parent.pid, signal.SIGINT)
        assert "no image" not in parent.lines.read()


ENDS = """
import multiprocessing, os, signal, sys
import numpy as np, torch
from datasets.base import ImageList
from datasets.loading.loader import Loader
from datasets.loading.sampler import TrainBatchSampler
from datasets.loading.crops import TrainCrop
images = ImageList.of_paths(sys.argv[1:], np.zeros(len(sys.argv) - 1, int))
loader = Loader(images, TrainCrop(16, 0, 9), TrainBatchSampler(10, 2, 0, 9), torch.device("cpu"), 2)
batches, others = iter(loader), iter(loader)
next(batches), next(others)
cycle = [others]
cycle.append(cycle)
children = [child.pid for child in multiprocessing.active_children()]
for child in children:
    os.kill(child, signal.SIGSTOP)
print(*children, flush=True)
"""


@pytest.mark.slow
def test_the_program_may_end_within_an_epoch(files):
    """With two generators in use, one held by a global and one by a cycle, whose workers are stopped."""
    command = [sys.executable, "-c", ENDS, *files.images.paths]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 4 and gone(pids, 0)
