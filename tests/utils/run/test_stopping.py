"""Signals end the process at once, with one sentence; SIGUSR1 waits for the next save; ignored signals stay ignored."""

import os
import signal
import sys
import threading

import pytest

from utils.run.stopping import AFTER_SAVING, AT_ONCE, Stopped, Stopping


def send(number):
    os.kill(os.getpid(), number)


def end_of(work):
    """The exit status of a child that runs `work(stopping)` while signals are handled, and its output."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for number in (*AT_ONCE, AFTER_SAVING):
                signal.signal(number, signal.SIG_DFL)
            sys.stderr = os.fdopen(write, "w")
            stopping = Stopping("resume it")
            with stopping.handled():
                work(stopping)
        except BaseException:
            os._exit(99)
        os._exit(0)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(read) as file:
        return status, file.read()


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [
        (signal.SIGINT, 130, "interrupted; resume it\n"),
        (signal.SIGTERM, 143, "stopped by SIGTERM; resume it\n"),
        (signal.SIGHUP, 129, "stopped by SIGHUP; resume it\n"),
        (signal.SIGUSR1, 138, "stopped by SIGUSR1; resume it\n"),
    ],
)
def test_a_signal_ends_the_process_at_once(number, status, text):
    """Nothing can prevent it: no except, and no finally that waits."""

    def work(stopping):
        try:
            send(number)
        except BaseException:
            os._exit(98)
        finally:
            signal.pause()

    assert end_of(work) == (status, text)


def test_functions_are_called_before_and_their_errors_are_ignored():
    def work(stopping):
        stopping.on_end += [lambda reason: 1 / 0, lambda reason: os.write(sys.stderr.fileno(), reason.encode())]
        send(signal.SIGTERM)

    assert end_of(work) == (143, "stopped by SIGTERM; resume it\nstopped by SIGTERM")


def test_a_silent_one_prints_nothing():
    def work(stopping):
        stopping.silent = True
        stopping.on_end.append(lambda reason: os.write(sys.stderr.fileno(), reason.encode()))
        send(signal.SIGTERM)

    assert end_of(work) == (143, "stopped by SIGTERM")


def test_a_second_signal_changes_nothing():
    def work(stopping):
        stopping.on_end.append(lambda reason: (send(signal.SIGINT), send(signal.SIGTERM)))
        send(signal.SIGTERM)

    assert end_of(work) == (143, "stopped by SIGTERM; resume it\n")


def test_children_end_with_it():
    import multiprocessing

    read, write = os.pipe()

    def work(stopping):
        multiprocessing.get_context("fork").Process(target=signal.pause).start()
        send(signal.SIGTERM)

    assert end_of(work)[0] == 143
    os.close(write)
    assert os.read(read, 1) == b""  # the child that held the other end is gone
    os.close(read)


def test_sigusr1_waits_for_the_next_save():
    def work(stopping):
        with stopping.deferred():
            send(signal.SIGUSR1)
            send(signal.SIGUSR1)
            assert stopping.requested
        send(signal.SIGUSR1)  # while it ends
        print("done", file=sys.stderr)

    assert end_of(work) == (0, "")  # os._exit leaves the text in its buffer
    assert str(Stopped(AFTER_SAVING)) == "stopped by SIGUSR1, progress saved"


@pytest.mark.parametrize("number", [*AT_ONCE, AFTER_SAVING])
def test_an_ignored_signal_stays_ignored(number):
    """As nohup ignores SIGHUP, and a shell SIGINT for its background jobs."""
    former = signal.signal(number, signal.SIG_IGN)
    try:
        with Stopping().handled():
            send(number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, former)


def test_former_handlers_come_back():
    former = {number: signal.getsignal(number) for number in (*AT_ONCE, AFTER_SAVING)}
    with Stopping().handled():
        pass
    assert {number: signal.getsignal(number) for number in former} == former


def test_another_thread_leaves_signals_alone():
    handlers = []

    def work():
        with Stopping().handled():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
