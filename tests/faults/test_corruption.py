"""Damaged files: one sentence that names the file, or the same numbers as with undamaged ones.

A damaged file never leads to other numbers, a traceback or a hang.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest
from faults.corruption import damage
from faults.runs import DIGITS, PICTURES, RUN, TEST, WEIGHTS, assert_refused, content

pytestmark = pytest.mark.slow

CHUNKS = 8
CHECK = "output/check_*"
SKIP = (*PICTURES, "num_workers", "0", "num_epochs", "1", "bad_images", "skip")
TRAINED = ("results.json", "checkpoint.safetensors")
TESTED = ("results_test.json", "logits_test.npz", "checkpoint.safetensors")
SCORES = ("accuracy", "more", "per_class")
TEST_AGAIN = (*DIGITS, *TEST)


@dataclasses.dataclass(frozen=True)
class Target:
    """A file of a state (a pattern), and a command that reads it damaged.

    compared: files that are as with the undamaged file, or unchanged after an error; of results the scores. named: more
    words that identify the file. forbidden: the command fails because of the content of the undamaged file.
    """

    state: str
    file: str
    arguments: tuple[str, ...]
    compared: tuple[str, ...] = TRAINED
    named: tuple[str, ...] = ()
    forbidden: bool = False


TARGETS = [
    # three times: the most important files
    *3 * [Target("finished", f"{RUN}/checkpoint.safetensors", TEST_AGAIN, TESTED)],
    *3 * [Target("interrupted", f"{RUN}/progress.safetensors", DIGITS)],
    Target("finished", WEIGHTS, TEST_AGAIN, TESTED, ("other weights",)),
    Target("interrupted", WEIGHTS, DIGITS, TRAINED, ("other weights",)),
    Target("finished", WEIGHTS, DIGITS, TRAINED, ("other weights",)),
    Target("finished", f"{RUN}/results.json", TEST_AGAIN, TESTED),
    Target("finished", f"{RUN}/results.json", (*DIGITS, "seed", "1"), TRAINED, forbidden=True),
    Target("finished", f"{RUN}/config.yaml", TEST_AGAIN, TESTED),
    Target("interrupted", f"{RUN}/config.yaml", DIGITS),
    Target("interrupted", f"{RUN}/metrics.jsonl", DIGITS),
    Target("finished", f"{RUN}/metrics.jsonl", DIGITS),
    Target("interrupted", f"{RUN}/events.*", DIGITS),
    Target("tested", f"{RUN}/logits_test.npz", TEST_AGAIN, TESTED),
    Target("tested", f"{RUN}/results_test.json", TEST_AGAIN, TESTED),
    Target("checked", f"{CHECK}/bad_images.txt", SKIP, TRAINED, ("check_data.py",)),  # a line is missing: the image is
    Target("checked", f"{CHECK}/report.json", SKIP, TRAINED, ("was not checked",)),  # it is written last
]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_damaged_file(chunk, place, rng, findings, how_many):
    """Runs every command in a state with the damaged file, and compares with the undamaged result."""
    for number in range(how_many("corrupted files"))[chunk::CHUNKS]:
        target = TARGETS[number % len(TARGETS)]
        folder = place.fresh(target.state)
        path = next(folder.glob(target.file))
        kind, damaged = damage(path.read_bytes(), rng)
        write(path, damaged)
        before = read(folder, target, path)
        with findings.case(f"{kind} of {path.name}, then {' '.join(target.arguments[-2:])}"):
            outcome = place.server.run(target.arguments, folder)
            if outcome.status:
                assert_refused(outcome, path.name, *target.named)
                expected = before
            else:
                assert not target.forbidden or b'"seed": 1' in (damaged or b""), "a run of other settings replaced it"
                uninterrupted = place.reference(target.state, target.arguments)
                expected = {name: scores(value) for name, value in uninterrupted.items()}
            found = read(folder, target, path if outcome.status else None)
            differing = [name for name in found if found[name] != expected.get(name)]
            assert not differing, f"status {outcome.status}, and other content of {differing}"
        shutil.rmtree(folder)
    findings.finish()


def write(path: Path, damaged: bytes | None) -> None:
    """Replaces a file by the damaged content, or by a directory."""
    path.unlink()
    if damaged is None:
        path.mkdir()
    else:
        path.write_bytes(damaged)


def read(folder: Path, target: Target, damaged: Path | None) -> dict[str, object]:
    """The content of the compared files, except for the damaged one."""
    paths = [folder / RUN / name for name in target.compared]
    found = {path.name: content(path) for path in paths if path.exists() and path != damaged}
    return {name: scores(value) for name, value in found.items()}


def scores(value):
    """The scores in the content of a results file; other content as it is."""
    return {key: value[key] for key in SCORES} if isinstance(value, dict) and "accuracy" in value else value
