"""Signals: the run ends at once with one sentence, its workers too, and the same command resumes bit for bit.

SIGINT is Ctrl-C, SIGTERM what Slurm, Kubernetes and shutdown send, SIGHUP a closed terminal; SIGUSR1, Slurm's warning,
saves within the epoch. The exit status is 128 plus the signal's number.
"""

import re
import signal
import time

import pytest
from faults.operations import Fault
from faults.runs import (
    PICTURES,
    RUN,
    TEST,
    VARIANTS,
    assert_ended,
    assert_nothing_lost,
    assert_same,
    assert_sentence,
    contents,
)

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
CHUNKS = 2
LONG = (*PICTURES, "num_epochs", "10", "print_freq", "1")  # a quarter of a second
STEP = re.compile(r"epoch (\d+)/\d+  step (\d+)/")


def assert_ended_by(number: int, outcome, complete: bool) -> None:
    """The status and the sentence of a run that a signal has ended; of one that was complete, also the status 0.

    A second signal may end the process as it exits, which a shell shows as the same status.
    """
    if complete and outcome.status in (0, -number):
        return
    said = outcome.status == -number and outcome.err
    assert outcome.status == 128 + number or said, f"not ended by status {128 + number}: {outcome}"
    assert_sentence(outcome.err)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_signal_at_a_file_operation(chunk, place, sample, findings):
    cases = [
        (name, Fault(operation, "signal", number))
        for name in VARIANTS
        for operation in place.operations(name)
        for number in SIGNALS
    ]
    cases = sample(cases, "signals at file operations", lambda case: (case[0], case[1].number))
    for name, fault in cases[chunk::CHUNKS]:
        variant = VARIANTS[name]
        with findings.case(f"{name}, {fault} ({signal.Signals(fault.number).name})"):
            folder = place.fresh(variant.state)
            outcome = place.server.run(variant.arguments, folder, fault)
            complete = outcome.status == 0 or (folder / RUN / variant.results).exists() and variant.state != "earlier"
            assert_ended_by(fault.number, outcome, complete)
            assert_nothing_lost(folder, place, name, fault)
            place.repeat(variant.arguments, folder)
            assert_same(contents(folder), place.reference(variant.state, variant.arguments))
            place.remove(folder)
    findings.finish()


# ---- while it trains and tests, with and without workers ----

HOW = ("once", "group", "twice")
WORKERS = (0, 2)
COMMANDS = ("train", "test")


def send(attempt, number: int, how: str, rng) -> None:
    """Sends a signal once, twice in a row, or to all processes of the run."""
    attempt.signal(number, group=how == "group")
    if how == "twice":
        time.sleep(rng.uniform(0, 0.05))
        attempt.signal(number)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("workers", WORKERS)
def test_a_signal_while_it_trains(workers, how, place, rng, findings, how_many):
    """Two signals of a sample meet each pair of a way, a number of workers and a signal; SIGINT, two workers' group."""
    command = (*LONG, "num_workers", str(workers))
    expected = place.reference("pictures", command)
    first = 2 * (HOW.index(how) + WORKERS.index(workers))
    for count in range(how_many("signals while it trains") // (len(HOW) * len(WORKERS))):
        number = SIGNALS[(first + count) % len(SIGNALS)]
        folder = place.fresh("pictures")
        run, wait = folder / RUN, rng.uniform(0, 0.1)
        with findings.case(f"{signal.Signals(number).name} {how}, {wait:.3f} s after the first step"):
            attempt = place.server.start(command, folder)
            place.wait_for(run / "metrics.jsonl", attempt)
            time.sleep(wait)
            saved = (run / "progress.safetensors").exists()
            send(attempt, number, how, rng)
            outcome = attempt.wait(20)
            assert_ended(attempt.process, 2)
            complete = (run / "results.json").exists()
            assert_ended_by(number, outcome, complete)
            assert complete or not saved or (run / "progress.safetensors").exists(), "its progress is lost"
            again = place.repeat(command, folder)
            assert_same(contents(folder), expected)
            if number == signal.SIGUSR1:
                steps = STEP.findall(outcome.out + again.out)
                assert len(steps) == len(set(steps)), "steps were lost, and taken again"
        place.remove(folder)
    findings.finish()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_at_a_random_time(command, place, rng, findings, how_many):
    """While it starts, trains, tests and ends. Before main.py runs, the system's own handling may end it.

    A sample sends each signal once, two to each command.
    """
    state = "pictures" if command == "train" else "trained_on_pictures"
    ways = ("num_epochs", "2") if command == "train" else ("num_epochs", "2", "tte", "True", "tte_crops", "10", *TEST)
    arguments = (*PICTURES, "num_workers", "2", *ways)
    expected = place.reference(state, arguments)
    whole = place.server.run(arguments, place.fresh(state)).seconds
    first = 2 * COMMANDS.index(command)
    for count in range(how_many("signals at random times") // len(COMMANDS)):
        number = SIGNALS[(first + count) % len(SIGNALS)]
        folder, wait = place.fresh(state), rng.uniform(0, whole)
        before = {path.name for path in (folder / RUN).glob("*")}
        with findings.case(f"{signal.Signals(number).name} after {wait:.3f} s"):
            attempt = place.server.start(arguments, folder)
            time.sleep(wait)
            attempt.signal(number)
            outcome = attempt.wait(20)
            assert_ended(attempt.process, 2)
            there = {path.name for path in (folder / RUN).glob("*")}
            if outcome.status != -number or any(name.startswith("log") for name in there - before):
                assert_ended_by(number, outcome, there >= {name for name in expected if name.startswith("results")})
            place.repeat(arguments, folder)
            assert_same(contents(folder), expected)
        place.remove(folder)
    findings.finish()
