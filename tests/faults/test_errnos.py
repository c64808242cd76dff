"""Errors of file operations: a full or failing disk, a missing permission, too many open files.

The run ends with one sentence that names the file, or completes; the same command completes once the cause is gone, and
no existing file is lost.
"""

import errno
import os

import pytest
from faults.operations import CHANGES, Fault
from faults.runs import RUN, VARIANTS, assert_nothing_lost, assert_refused, assert_same, contents

pytestmark = pytest.mark.slow

CHUNKS = 3
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)


def errors(operations) -> list[Fault]:
    """Every error at every operation; and a disk that stays full, or becomes unreadable, from every change on."""
    once = [Fault(operation, "errno", number) for operation in operations for number in ERRORS]
    changes = [operation for operation in operations if operation.kind in CHANGES]
    lasting = [Fault(done, "errno", number, True, True) for done in changes for number in (errno.ENOSPC, errno.EROFS)]
    return [*once, *lasting]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_an_error_at_a_file_operation(chunk, place, sample, findings):
    faults = [(name, fault) for name in VARIANTS for fault in errors(place.operations(name))]
    done, faults = 0, sample(faults, "errors of file operations", alike)[chunk::CHUNKS]
    for name, fault in faults:
        variant = VARIANTS[name]
        with findings.case(f"{name}, {fault} ({errno.errorcode[fault.number]})"):
            folder = place.fresh(variant.state)
            outcome = place.server.run(variant.arguments, folder, fault)
            done += outcome.fault_done
            if outcome.status:
                assert_refused(outcome, RUN, *names(fault))
                assert_nothing_lost(folder, place, name, fault)
            place.repeat(variant.arguments, folder)
            assert_same(contents(folder), place.reference(variant.state, variant.arguments))
            place.remove(folder)
    findings.finish()
    assert done >= 0.9 * len(faults)


def alike(case: tuple[str, Fault]) -> tuple:
    """What errors at the same kind of operation on the same kind of file share, whatever the error."""
    _, fault = case
    return fault.operation.kind, *names(fault), fault.lasting


def names(fault: Fault) -> list[str]:
    """The name of the file that an error must contain; for a folder of such files, that of the run."""
    name = os.path.basename(fault.operation.path)
    return [name.partition(".*")[0]] if "." in name else []
