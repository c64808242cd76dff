"""Fixtures of the fault tests: a fork server, and a folder with the input files of commands."""

import contextlib
import zlib
from collections import Counter

import numpy as np
import pytest
from faults.client import Server
from faults.counts import COUNTS
from faults.runs import Place


@pytest.fixture(scope="session")
def full(request) -> bool:
    """Whether all faults are tried (--faults full) instead of a sample."""
    return request.config.getoption("--faults") == "full"


@pytest.fixture(scope="session")
def how_many(full):
    """how_many(kind) -> the number of attempts of a kind of counts.py; None: all."""
    return lambda kind: COUNTS[kind][full]


@pytest.fixture
def sample(request, how_many):
    """sample(CASES, KIND, GROUP) -> as many of the cases as counts.py has of a kind, the same ones in every test.

    They are of as many groups as possible, evenly: group(case) is what makes cases alike.
    """
    seed = request.config.getoption("--faults-seed")

    def choose(cases, kind, group):
        rng, seen = np.random.default_rng([seed, zlib.crc32(kind.encode())]), Counter()
        order = rng.permutation(len(cases))
        rank = {}
        for index in order:
            rank[index] = seen[group(cases[index])]
            seen[group(cases[index])] += 1
        return [cases[index] for index in sorted(sorted(order, key=rank.get)[: how_many(kind)])]

    return choose


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers of --faults-seed and of the test's name."""
    seed = request.config.getoption("--faults-seed")
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A fork server and the folders of its runs: see runs.py."""
    server = Server(tmp_path_factory.mktemp("server"))
    with contextlib.closing(server):
        yield Place(server, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def findings(request):
    """findings.case(TEXT): a block whose failed assertions are collected; findings.finish() reports all of them."""
    return Findings(f"{request.node.nodeid} --faults-seed {request.config.getoption('--faults-seed')}")


class Findings:
    """Collects the faults found in the cases of a test."""

    def __init__(self, command: str):
        self.command, self.tried, self.faults = command, 0, []

    @contextlib.contextmanager
    def case(self, text: object):
        self.tried += 1
        try:
            yield
        except AssertionError as error:
            self.faults.append(f"{text}: {str(error).strip()}")

    def finish(self) -> None:
        """Fails if there were faults: with each of them, and how to repeat this."""
        lines = "\n".join(f"- {fault}" for fault in self.faults)
        found = f"{len(self.faults)} of {self.tried} cases failed; repeat them: pytest {self.command}\n{lines}"
        assert not self.faults, found
