"""Kills before every file operation that changes the disk, and half-way in every write.

A kill after an operation leaves what a kill before the next one leaves, and so does one before an operation that only
reads: these are not tried.
"""

import pytest
from faults.operations import CHANGES, Fault
from faults.runs import RUN, VARIANTS, assert_nothing_lost, assert_same, contents, replacement

pytestmark = pytest.mark.slow

CHUNKS = 4


def kills(operations) -> list[Fault]:
    """The kills around these operations."""
    found = []
    for operation in operations:
        if operation.kind in CHANGES:
            found.append(Fault(operation, "kill"))
        if operation.kind == "write":
            found.append(Fault(operation, "kill", half=True))
    return found


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", VARIANTS)
def test_a_kill_at_each_file_operation(name, chunk, place, rng, findings, how_many):
    variant = VARIANTS[name]
    expected = place.reference(variant.state, variant.arguments)
    operations = place.operations(name)
    faults, count = kills(operations), how_many(f"kills at file operations, {name}")
    if count is not None:
        faults = [faults[i] for i in sorted(rng.choice(len(faults), min(count, len(faults)), replace=False))]
    reached = 0
    for fault in faults[chunk::CHUNKS]:
        with findings.case(fault):
            folder = place.fresh(variant.state)
            outcome = place.server.run(variant.arguments, folder, fault)
            reached += outcome.status == -9
            assert outcome.status in (-9, 0), outcome  # 0: with threads, an operation may be merged into another
            assert_nothing_lost(folder, place, name, fault)
            place.repeat(variant.arguments, folder)
            assert_same(contents(folder), expected)
            place.remove(folder)
    findings.finish()
    assert reached >= 0.9 * len(faults[chunk::CHUNKS])


def test_an_earlier_run_is_replaced_only_when_the_new_one_is_complete(place):
    """From the first change of its files on, only results are written and names are changed: a matter of moments."""
    operations = place.operations("a finished run again")
    late = operations[replacement(operations) :]
    assert any(done[:2] == ("rename", f"{RUN}/results.json") for done in late)
    written = {path for kind, path, _ in late if kind in ("write", "create")}
    page = f"{RUN}/report.html.*.partial"  # after the results
    assert written <= {f"{RUN}/log.txt", f"{RUN}/results.json.*.partial", page}
