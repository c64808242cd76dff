"""Kills at random times: the same command, repeated until it is complete, leaves the files of an uninterrupted run."""

import signal
import time

import pytest
from faults.runs import DIGITS, PICTURES, assert_ended, assert_same, contents

pytestmark = pytest.mark.slow

LONGER = (*DIGITS, "num_epochs", "5")
OFTEN = (*LONGER, "save_minutes", "0")  # after every step
OFTEN += ("val_fraction", "0.2", "val_every", "1", "keep", "best")  # so that each progress has the best epoch, too
CHUNKS = 2


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_killed_at_random_times_a_run_ends_as_if_it_had_not_been(chunk, place, rng, findings, how_many):
    """Several kills in a run: each attempt lasts up to as long as an uninterrupted run."""
    command = OFTEN if chunk % 2 else LONGER
    expected = place.reference("empty", command)
    whole = place.server.run(command, place.fresh("empty")).seconds
    kills = how_many("kills at random times") // CHUNKS
    while kills > 0:
        folder, killed = place.fresh("empty"), []
        with findings.case(killed):
            while kills > 0 and (wait := run_for(rng.uniform(0, whole), command, place, folder)):
                killed.append(f"killed after {wait:.3f} s")
                kills -= 1
            place.repeat(command, folder)
            assert_same(contents(folder), expected)
        place.remove(folder)
    findings.finish()


def run_for(seconds: float, command, place, folder) -> float | None:
    """Kills the run after this number of seconds, which is returned; None if it was complete before."""
    attempt = place.server.start(command, folder)
    time.sleep(seconds)
    attempt.signal(signal.SIGKILL)
    outcome = attempt.wait()
    assert outcome.status in (0, -signal.SIGKILL), outcome
    return seconds if outcome.status else None


def test_the_main_process_is_killed_while_workers_read(place, rng, findings, how_many):
    """Workers end with it, and the same command starts at once."""
    command = (*PICTURES, "num_workers", "2", "num_epochs", "10", "print_freq", "1")
    expected = place.reference("pictures", command)
    for _ in range(how_many("kills of the main process among its workers")):
        wait = rng.uniform(0.1, 0.6)
        with findings.case(f"killed after {wait:.3f} s"):
            folder = place.fresh("pictures")
            attempt = place.server.start(command, folder)
            time.sleep(wait)
            attempt.signal(signal.SIGKILL)
            attempt.wait()
            place.repeat(command, folder)
            assert_ended(attempt.process, 1)
            assert_same(contents(folder), expected)
            place.remove(folder)
    findings.finish()
