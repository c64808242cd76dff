"""One version everywhere, and the files of a public project: what they name exists."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import main as cli
from utils.device.environment import environment, recorded_versions
from utils.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def releases():
    """The versions of CHANGELOG.md with their dates, newest first."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.findall(r"(?m)^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", text)


def test_changelog_and_citation_have_the_version():
    assert releases()[0] == (VERSION, str(CITATION["date-released"]))
    assert CITATION["version"] == VERSION


def test_the_changelog_is_in_order():
    numbers = [tuple(map(int, version.split("."))) for version, _ in releases()]
    dates = [date for _, date in releases()]
    assert numbers == sorted(set(numbers), reverse=True)
    assert dates == sorted(dates, reverse=True)
    headings = re.findall(r"(?m)^## .*$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert [heading for heading in headings if heading != "## [Unreleased]"] == [
        f"## [{version}] - {date}" for version, date in releases()
    ]


def test_pyproject_reads_the_version():
    """setuptools reads the attribute without importing the module, if its value is a literal."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "utils.version.VERSION" }' in pyproject
    assert f'\nVERSION = "{VERSION}"\n' in (ROOT / "utils/version.py").read_text(encoding="utf-8")


def test_the_command_line_prints_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"LIFT+ {VERSION}\n"


def test_results_record_the_version_and_caches_do_not_depend_on_it():
    packages = environment(torch.device("cpu"), 1)["versions"]
    assert recorded_versions() == {"lift_plus": VERSION, **packages}
    assert "lift_plus" not in packages  # a key of caches, and compared when a run resumes


def test_the_citation_is_complete():
    """The keys that the Citation File Format 1.2.0 requires, and both papers."""
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in CITATION["references"])
    urls = [reference["url"] for reference in CITATION["references"]]
    assert urls == ["https://arxiv.org/abs/2504.13282", "https://arxiv.org/abs/2309.10019"]
