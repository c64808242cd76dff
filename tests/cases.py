"""Parameters of tests: few combinations of values that stand for all, or all of them with `pytest --cases full`."""

import itertools
from collections.abc import Sequence
from typing import Any

FULL = False  # whether --cases is full (conftest.py)


def covering(*axes: Sequence[Any], together: int = 2) -> list[tuple[Any, ...]]:
    """Combinations of a value of each axis, for parametrize: every two values of two axes meet in at least one.

    together=1: every value is in at least one; for axes whose code does not depend on each other. In the same order
    each time. With --cases full, all combinations.
    """
    if FULL:
        return list(itertools.product(*axes))
    if together == 1:
        return [tuple(axis[i % len(axis)] for axis in axes) for i in range(max(map(len, axes)))]
    places = [[(number, place) for place in range(len(axis))] for number, axis in enumerate(axes)]
    # the pairs that have not met yet, in an order (a set's is another one in each process)
    missing = dict.fromkeys(pair for two in itertools.combinations(places, 2) for pair in itertools.product(*two))
    found = []
    while missing:
        row = dict(next(iter(missing)))
        for number, values in enumerate(places):
            if number not in row:
                row[number] = max(values, key=lambda value: len(missing.keys() & _pairs(row, value)))[1]
        for pair in itertools.combinations(sorted(row.items()), 2):
            missing.pop(pair, None)
        found.append(tuple(axis[row[number]] for number, axis in enumerate(axes)))
    return found


def numbered(count: int, sample: int) -> range:
    """Numbers of random cases, for parametrize: `sample` of them; with --cases full, `count`."""
    return range(count if FULL else sample)


def _pairs(row: dict[int, int], value: tuple[int, int]) -> set[tuple[tuple[int, int], ...]]:
    """The pairs that a place on a further axis makes with those of a row."""
    return {tuple(sorted((other, value))) for other in row.items()}
