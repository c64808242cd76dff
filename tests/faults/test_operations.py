"""Kills before every file operation that changes the disk, and half-way in every write.

A kill after an operation leaves what a kill before the next one leaves, and so does one before an operation that only
reads: these are not tried.
"""

import pytest
from faults.operations import CHANGES, Fault
from faults.runs import EARLIER, RUN, VARIANTS, assert_same, contents, earlier_files, snapshot

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
    kept, there = EARLIER_OF[name](place)
    reached = 0
    for fault in faults[chunk::CHUNKS]:
        with findings.case(fault):
            folder = place.fresh(variant.state)
            outcome = place.server.run(variant.arguments, folder, fault)
            reached += outcome.status == -9
            assert outcome.status in (-9, 0), outcome  # 0: with threads, an operation may be merged into another
            if before_replacement(fault, operations, variant):
                now = there(folder)
                lost = [file for file in kept if now.get(file) != kept[file]]
                assert not lost, f"before the new run is complete, files of the earlier one have changed: {lost}"
            place.repeat(variant.arguments, folder)
            assert_same(contents(folder), expected)
            place.remove(folder)
    findings.finish()
    assert reached >= 0.9 * len(faults[chunk::CHUNKS])


EARLIER_OF = {  # what a kill must leave alone, and how it is read
    "a first run": lambda place: ({}, snapshot),
    "a resumed run": lambda place: ({}, snapshot),
    "a finished run again": lambda place: (earlier_files(place.earlier), earlier_files),
    "a test": lambda place: (earlier_files(place.finished), earlier_files),
}


# ---- an earlier run that is trained again ----


def replacement(operations) -> int:
    """The index of the first operation that changes a file of the earlier run."""
    protected = {f"{RUN}/{name}" for name in EARLIER}
    for index, (kind, path, _) in enumerate(operations):
        changes = kind in CHANGES and path in protected
        if changes or (kind in ("remove", "rename", "truncate") and path.startswith(f"{RUN}/events")):
            return index
    return len(operations)


def before_replacement(fault: Fault, operations, variant) -> bool:
    """Whether the earlier run must still be whole when this kill has happened."""
    return variant.state != "earlier" or operations.index(fault.operation) <= replacement(operations)


def test_an_earlier_run_is_replaced_only_when_the_new_one_is_complete(place):
    """From the first change of its files on, only results are written and names are changed: a matter of moments."""
    operations = place.operations("a finished run again")
    late = operations[replacement(operations) :]
    assert any(done[:2] == ("rename", f"{RUN}/results.json") for done in late)
    written = {path for kind, path, _ in late if kind in ("write", "create")}
    assert written <= {f"{RUN}/log.txt", f"{RUN}/results.json.*.partial"}
