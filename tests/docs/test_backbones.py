"""docs/backbones.md: its table of names is the script's, and its commands are accepted (counts: test_registries.py)."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from full_size import library_module, quick_meta

import main as cli
from benchmarks.backbones import BASE, TOWERS
from models.backbones import BACKBONES
from models.weights.descriptions import describe_name
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import list_backbones  # noqa: E402  (needs the path)

PAGE = (ROOT / "docs/backbones.md").read_text()
COMMANDS = re.findall(r"(?:^    |`)python (\S+\.py)([^`\n]*)", PAGE, re.MULTILINE)


def rows(columns):
    """The cells of the page's tables with this number of columns and a name in the first one."""
    found = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    return [[cell.strip("`") for cell in row] for row in found if len(row) == columns and row[0] != "`-b`"]


def test_table_of_names_is_what_the_script_prints():
    with quick_meta():
        assert "\n".join(list_backbones.named_table()) in PAGE
    assert [name for name, *_ in rows(7)] == list(BACKBONES)


@pytest.mark.parametrize("name", ["in21k_vit_t16", "in21k_vit_b16", "laion2b_vit_b16", "siglip2_vit_b16"])
def test_parameters_are_the_librarys(name):
    """In millions; timm's classifier is not counted. These models have no LayerScale and all biases."""
    module = library_module(BACKBONES[name].address)
    sizes = {key: value.numel() for key, value in module.named_parameters() if not key.startswith("head.")}
    image = sum(size for key, size in sizes.items() if "visual" not in dir(module) or key.startswith("visual."))
    projection = sizes.get("visual.proj", 0)  # not in the tower
    cells = next(row for row in rows(7) if row[0] == name)
    assert cells[5:] == [f"{(image - projection) / 1e6:,.1f}", f"{sum(sizes.values()) / 1e6:,.1f}"]


def test_table_of_speed_has_the_measured_towers():
    expected = []
    for name, sizes in TOWERS.items():
        known = describe_name(name)
        default = known.resolution or known.config.image.resolution
        expected += [(name, str(size or default)) for size in sizes]
    found = rows(5)
    assert [(name, pixels) for name, pixels, *_ in found] == expected
    assert [ratio for name, _, _, ratio, _ in found if name == BASE] == ["1.00"]
    for name, pixels, tokens, _, _ in found:
        image = describe_name(name).config.image.at(int(pixels))
        assert int(tokens) == image.num_first + image.side**2


@pytest.mark.parametrize("command", [options for program, options in COMMANDS if program == "main.py"])
def test_commands_are_accepted(command):
    args = cli.parse(shlex.split(command, comments=True))
    cfg = load_config(args.data, args.backbone, args.method, args.options)
    assert cfg.backbone == args.backbone


def test_scripts_of_the_commands_exist():
    programs = {program for program, _ in COMMANDS}
    assert programs == {"main.py", "scripts/list_backbones.py", "benchmarks/backbones.py"}
    assert all((ROOT / program).is_file() for program in programs)


def test_paths_and_links_exist():
    paths = re.findall(r"`((?:models|tests|configs|scripts)/[\w/.]+)`", PAGE)
    links = re.findall(r"\]\(([\w.]+)(?:#[\w-]+)?\)", PAGE)
    assert len(paths) >= 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
