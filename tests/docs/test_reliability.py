"""docs/reliability.md: its numbers are those of tests/faults."""

from pathlib import Path

from faults.counts import ALL, COUNTS

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"


def test_the_page_has_the_numbers_of_the_fault_tests():
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in PAGE.read_text().splitlines()}
    for kind, counts in COUNTS.items():
        assert rows[kind][1:3] == ["all" if count is ALL else f"{count:,}" for count in counts], kind
