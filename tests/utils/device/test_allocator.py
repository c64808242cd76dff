"""Memory that one step frees is reused by the next one."""

from pathlib import Path

import fork_server
import pytest

ROOT = Path(__file__).resolve().parents[3]


FAULTS = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages (PR_SET_THP_DISABLE): they would hide most faults
from utils.device.allocator import retain_freed_memory
if sys.argv[1] == "kept":
    retain_freed_memory()
import torch
def faults(size, rounds=12):  # until the gaps between tensors are filled
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
here, (reading, writing) = faults(2**24), os.pipe()
if not os.fork():  # as a worker, with an image larger than all that is free, and one of 20 MB
    large, in_the_gaps = faults(2**27, 2), [torch.ones(5 * 2**20) for _ in range(12)]
    usual = faults(5 * 2**20)
    os.write(writing, f"{large} {usual}".encode())
    os._exit(0)
print(here, os.read(reading, 99).decode())
"""


@pytest.mark.slow
def test_memory_is_kept_for_the_next_step():
    """A large tensor's pages are reused for the next one; but not in a worker, or without the setting.

    A worker retains those of an image of usual size.
    """
    ways = ("kept", "left alone")
    found = {way: fork_server.run(["-c", FAULTS, way], cwd=ROOT, check=True).stdout for way in ways}
    (kept, worker, usual), (left_alone, _, _) = (map(int, found[way].split()) for way in ways)
    assert kept < 100 < min(worker, left_alone)
    assert usual < 10
