"""Kills before every file operation that changes the disk, and half-way in every write.

A kill after an operation has the effect of a kill before the next one, and so has one before an operation that only
reads: these are not tried. The files after a kill are copied during an uninterrupted run. TensorBoard's
curves, which a separate thread writes, are cut in test_corruption.py.
"""

import re
from pathlib import Path

import pytest
from faults.operations import RANDOM_PARTS, Fault
from faults.runs import RUN, VARIANTS, assert_nothing_lost, assert_same, contents, replacement

pytestmark = pytest.mark.slow

CHUNKS = 4


def alike(fault: Fault) -> tuple:
    """What kills at the same kind of operation on the same file share: most are at lines of the log and the curves."""
    return fault.operation.kind, fault.operation.path, fault.half


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", VARIANTS)
def test_a_kill_at_each_file_operation(name, chunk, place, sample, findings):
    variant, left = VARIANTS[name], place.kills(name)
    expected = place.reference(variant.state, variant.arguments)
    for fault in sample([*left], f"kills at file operations, {name}", alike)[chunk::CHUNKS]:
        with findings.case(fault):
            folder = place.copy(left[fault])
            assert_nothing_lost(folder, place, name, fault)
            place.repeat(variant.arguments, folder)
            assert_same(contents(folder), expected)
            place.remove(folder)
    findings.finish()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_copy_is_what_a_kill_leaves(name, place, rng):
    """Up to the files that a thread of its own writes: TensorBoard's curves."""
    variant, left = VARIANTS[name], place.kills(name)
    faults = [fault for fault in left if "events" not in fault.operation.path]
    fault = faults[rng.integers(len(faults))]
    folder = place.fresh(variant.state)
    outcome = place.server.run(variant.arguments, folder, fault)
    assert outcome.status == -9, outcome
    assert_same(files(folder), files(left[fault]))


def files(folder: Path) -> dict[str, bytes | None]:
    """All files by their names; the content of those that have no times: checkpoints and configurations, also parts."""
    found = {RANDOM_PARTS.sub("*", str(path.relative_to(folder))): path for path in folder.rglob("*")}
    timeless = re.compile(r"checkpoint|config\.yaml")
    return {name: path.read_bytes() if timeless.search(name) else None for name, path in found.items()}


def test_an_earlier_run_is_replaced_only_when_the_new_one_is_complete(place):
    """After the first change of its files, only results are written and names are changed, which is quick."""
    operations = place.operations("a finished run again")
    late = operations[replacement(operations) :]
    assert any(done[:2] == ("rename", f"{RUN}/results.json") for done in late)
    written = {path for kind, path, _ in late if kind in ("write", "create")}
    page = f"{RUN}/report.html.*.partial"  # after the results
    assert written <= {f"{RUN}/log.txt", f"{RUN}/results.json.*.partial", page}
