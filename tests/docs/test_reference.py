"""docs/keys.md and docs/methods.md are what scripts/write_reference.py writes. docs/GLOSSARY.md is alphabetical."""

import re
import sys
from pathlib import Path

import pytest

from utils.config.legacy_keys import LIFT_KEYS
from utils.config.schema import EVALUATORS, KEYS, LOSSES, METHODS, OPTIMIZERS, SCHEDULES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import write_reference  # noqa: E402  (needs the path)

KEYS_PAGE, METHODS_PAGE = (ROOT / f"docs/{name}.md" for name in ("keys", "methods"))
BARE_NUMBER = re.compile(r"(?<![\w/\[])(?<!\[arXiv )\d{4}\.\d{5}\b")


def first_cells(page):
    """The code in the first cell of each row of a page's tables."""
    return re.findall(r"^\| \[?`([^`]+)`", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", write_reference.PAGES, ids=lambda page: page.stem)
def test_the_page_is_what_the_script_writes(page):
    text = page.read_text()
    assert text.count("<!-- generated: ") == len(write_reference.BLOCK.findall(text)) > 0
    assert write_reference.generated(text) == text, "run python scripts/write_reference.py"


def test_every_block_is_on_a_page():
    names = [found[1] for page in write_reference.PAGES for found in write_reference.BLOCK.findall(page.read_text())]
    assert sorted(names) == sorted(write_reference.BLOCKS)


def test_a_changed_block_is_written_again():
    text = METHODS_PAGE.read_text()
    assert write_reference.generated(text.replace("`focal_gamma` (`2.0`)", "`focal_gamma` (`3.0`)")) == text


def test_every_key_has_a_row():
    names = first_cells(KEYS_PAGE)
    assert [name for name in names if name in KEYS or name not in LIFT_KEYS] == list(KEYS)
    assert set(names) == KEYS.keys() | LIFT_KEYS.keys()


def test_every_choice_has_a_row():
    names = first_cells(METHODS_PAGE)
    for rows in (METHODS, LOSSES, OPTIMIZERS, SCHEDULES, EVALUATORS):
        assert set(rows) <= set(names)


@pytest.mark.parametrize(
    ("name", "default", "values"),
    [
        ("seed", "`0`", "whole number, 0 to 18,446,744,073,709,551,615; `None`"),
        ("num_workers", "`None`", "whole number, 0 to 1,024; `None`"),
        ("few_threshold", "`20`", "whole number, at least 0"),
        ("bad_images", "`stop`", "`stop`, `skip`"),
        ("exif_orientation", "`None`", "`True`, `False`; `None`"),
        ("evaluators", "`accuracy`", "one or more of `accuracy`, `top5`, `calibration`, with commas between them"),
        ("v.lora_layers", "`None`", "whole number, or block numbers, `[0,2]`; `None`"),
    ],
)
def test_values_of_a_key(name, default, values):
    assert write_reference.default_of(KEYS[name]) == default
    assert write_reference.values_of(KEYS[name]) == values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<f, W> (arXiv 2106.09685)", "&lt;f, W> ([arXiv 2106.09685](https://arxiv.org/abs/2106.09685))"),
        ("see docs/scale.md", "see [scale.md](scale.md)"),
        ("x / |x|\n  and y", r"x / \|x\| and y"),
    ],
)
def test_text_of_a_cell(text, expected):
    assert write_reference.cell(text) == expected


def test_paragraphs_leave_out_arguments_and_errors():
    def described():
        """The mean. Raises ModelError for no images.

        In float32.

        images: [B, 3].
        """

    assert write_reference.paragraphs(described) == ["The mean.", "In float32."]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_numbers_of_arxiv_are_links(page):
    text = " ".join(page.read_text().split())
    assert [found[0] for found in BARE_NUMBER.finditer(text)] == []
    labels = re.findall(r"\[(?:arXiv )?(\d{4}\.\d{5})\]\(([^)]+)\)", text)
    assert all(address == f"https://arxiv.org/abs/{number}" for number, address in labels)


def test_the_glossary_is_alphabetical_and_links_each_term():
    table = (ROOT / "docs/GLOSSARY.md").read_text().partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    terms = [row[0].replace("`", "").lower() for row in rows]
    assert len(terms) > 50
    assert terms == sorted(set(terms))
    assert [row for row in rows if len(row) != 3 or not re.fullmatch(r"\[[^]]+\]\(\w+\.md(#[\w-]+)?\)", row[2])] == []
