"""Published values: published.yaml, docs/reproduction.md and configs/data state the same ones, with valid commands."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import yaml

import main as cli
from utils import config
from utils.config import config_names, load_config, training_options

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = yaml.safe_load((ROOT / "scripts/published.yaml").read_text())
PAGE = (ROOT / "docs/reproduction.md").read_text()
VALUES = [
    (entry, data, crops, value)
    for entry in PUBLISHED["results"]
    for data, values in entry["overall"].items()
    for crops, value in values.items()
]
IDS = [f"{data}-{entry['model']}-{crops}" for entry, data, crops, _ in VALUES]
UNCONFIRMED = {("cifar100_ir100", 1), ("cifar100_ir50", 1), ("cifar100_ir10", 1), ("inat2018", 5)}  # for ViT-B/16


@pytest.fixture(scope="module", autouse=True)
def each_file_is_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config.files, "read_yaml", functools.cache(config.files.read_yaml))
        yield


def identity(cfg):
    return cfg.backbone, cfg.weights, training_options(cfg), cfg.tte_crops if cfg.tte else 1


def load_command(arguments):
    args = cli.parse(shlex.split(arguments))
    return load_config(args.data, args.backbone, args.method, args.options)


def page_rows():
    """The page's table of values: [(value, configuration)]."""
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| `(-d [^`]+)` \| [A-E, ]+ \|$", PAGE, re.MULTILINE)
    return [(float(value), load_command(command)) for value, command in rows]


@pytest.mark.parametrize(("entry", "data", "crops", "value"), VALUES, ids=IDS)
def test_a_published_value_has_its_command_on_the_page(entry, data, crops, value):
    options = [str(text) for pair in (entry.get("options", {}) | {"tte": crops == 5}).items() for text in pair]
    wanted = identity(load_config(data, entry.get("backbone"), entry.get("model") or entry["method"], options))
    assert [found for found, cfg in page_rows() if identity(cfg) == wanted] == [value]


def test_the_page_has_no_other_value():
    assert len(page_rows()) == len(VALUES)


@pytest.mark.parametrize(("entry", "data", "crops", "value"), VALUES, ids=IDS)
def test_the_data_sets_file_states_it(entry, data, crops, value):
    """With a command of LIFT's form, as the values are LIFT's."""
    text = (ROOT / f"configs/data/{data}.yaml").read_text()
    assert f"{value} %" in text
    command = re.search(r"python main\.py (-d .+)", text)[1]
    cfg = load_command(command)
    assert (cfg.dataset, cfg.variant, cfg.v.adaptformer) == (data, "lift", True)


def test_only_confirmed_values_are_stated():
    stated = {(data, crops) for entry, data, crops, _ in VALUES if entry["model"] == "clip_vit_b16"}
    assert not stated & UNCONFIRMED
    assert {data for data, _ in stated} == set(PUBLISHED["images"])


@pytest.mark.parametrize("data", PUBLISHED["images"])
def test_the_numbers_of_images_are_those_of_the_data_page(data):
    train, test = (f"{number:,}" for number in PUBLISHED["images"][data])
    assert data in config_names("data")
    assert train in (ROOT / f"configs/data/{data}.yaml").read_text()
    name = data.removeprefix("cifar100") if data in ("cifar100_ir50", "cifar100_ir10") else data  # as on the page
    row = next(line for line in (ROOT / "docs/data.md").read_text().splitlines() if f"`{name}`" in line)
    assert train in row
    assert test in row


@pytest.mark.parametrize("command", re.findall(r"`((?:python main\.py )?-[db] [^`]+)`", PAGE))
def test_the_pages_commands_are_accepted(command):
    command = command.removeprefix("python main.py ")
    load_command(command if "-d " in command else f"-d imagenet_lt {command}")


def test_the_page_names_every_script_of_the_papers():
    scripts = {path.name for path in (ROOT / "scripts").glob("run_*.sh")} - {"run_digits.sh"}
    assert set(re.findall(r"`(?:scripts/)?(run_\w+\.sh)", PAGE)) == scripts


def test_the_tests_that_the_page_names_exist():
    names = set(re.findall(r"`([\w/]*test_\w+\.py)`", PAGE))
    assert len(names) > 10
    assert [name for name in names if not (ROOT / "tests" / name).exists()] == []
