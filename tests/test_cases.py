"""The combinations that tests/cases.py chooses."""

import itertools

import cases
import pytest
from cases import covering, numbered

AXES = ["abcdefg", (1, 2, 3, 4), [[], {}], ("x",)]


def parts(rows, numbers):
    return [tuple(row[number] for number in numbers) for row in rows]


@pytest.mark.parametrize("together", [1, 2])
def test_all_values_meet_in_few_combinations(together, monkeypatch):
    monkeypatch.setattr(cases, "FULL", False)
    rows = covering(*AXES, together=together)
    assert len(rows) == {1: 7, 2: 28}[together]
    assert rows == covering(*AXES, together=together)
    for numbers in itertools.combinations(range(len(AXES)), together):
        expected = list(itertools.product(*(AXES[number] for number in numbers)))
        found = parts(rows, numbers)
        assert all(part in expected for part in found) and all(part in found for part in expected)


@pytest.mark.parametrize("sizes, most", [((3, 3, 3, 3), 12), ((10, 10, 2, 2, 2), 104), ((2,) * 10, 14), ((5,), 5)])
def test_there_are_hardly_more_than_needed(sizes, most, monkeypatch):
    """At least the product of the two largest axes; 9, 100 and 6 are enough."""
    monkeypatch.setattr(cases, "FULL", False)
    assert len(covering(*(range(size) for size in sizes))) <= most


def test_full_is_all(monkeypatch):
    monkeypatch.setattr(cases, "FULL", True)
    for together in (1, 2):
        assert covering(*AXES, together=together) == list(itertools.product(*AXES))
    assert len(numbered(9, sample=2)) == 9


def test_the_options_decide(request):
    option = request.config.getoption
    assert (option("--cases") == "full" or option("--update-messages")) == cases.FULL
