"""Signals raise in the main thread once, SIGUSR1 waits for the next save, and everything is as before afterwards."""

import os
import signal
import threading

import pytest

from utils.run.stopping import AFTER_SAVING, AT_ONCE, Stopped, Stopping


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def heeded():
    """pytest's own parent may ignore some signals."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in (*AT_ONCE, AFTER_SAVING)}
    yield
    assert all(signal.getsignal(number) == signal.SIG_DFL for number in former), "handlers are left behind"
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
        (signal.SIGUSR1, 138, "stopped by SIGUSR1"),
    ],
)
def test_a_signal_ends_the_run(number, status, text):
    with pytest.raises(Stopped) as caught, Stopping().handled():
        send(number)
    assert (caught.value.status, str(caught.value)) == (status, text)


def test_a_second_signal_does_not_disturb_the_ending():
    ended = False
    with pytest.raises(Stopped, match="SIGTERM"), Stopping().handled():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGINT)
            ended = True
    assert ended


def test_from_the_third_on_nothing_is_waited_for():
    child = os.fork()
    if child == 0:
        with Stopping().handled():
            try:
                send(signal.SIGTERM)
            finally:
                for _ in range(3):
                    send(signal.SIGTERM)
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_sigusr1_waits_for_the_next_save():
    stopping = Stopping()
    with stopping.handled():
        with stopping.deferred():
            send(signal.SIGUSR1)
            send(signal.SIGUSR1)
            assert stopping.requested
        with pytest.raises(Stopped):
            send(signal.SIGUSR1)


@pytest.mark.parametrize("number", [*AT_ONCE, AFTER_SAVING])
def test_an_ignored_signal_stays_ignored(number):
    """As nohup ignores SIGHUP, and a shell SIGINT for its background jobs."""
    signal.signal(number, signal.SIG_IGN)
    with Stopping().handled():
        send(number)
    assert signal.getsignal(number) == signal.SIG_IGN
    signal.signal(number, signal.SIG_DFL)


def test_another_thread_leaves_signals_alone():
    handlers = []

    def work():
        with Stopping().handled():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]
