"""The texts of --help: every key and name is found, and no line is longer than the terminal."""

import functools
import re
from pathlib import Path

import pytest

import main as cli
from utils.config import config_names
from utils.config import help as help_module
from utils.config.help import COMMON, EXAMPLES, LISTS, help_text, page_of
from utils.config.legacy_keys import LIFT_KEYS
from utils.config.schema import KEYS, LOSSES, METHODS, SCHEMA
from utils.errors import ConfigError

READ = functools.cache(help_module.read_yaml)
ROOT = Path(__file__).resolve().parents[3]
FILES = {name for section in ("data", "backbone", "method", "model") for name in config_names(section)}
TOPICS = ["", "all", *LISTS, *sorted({*KEYS, *LIFT_KEYS, *METHODS, *LOSSES, *FILES})]


def words(text):
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def files_read_once(monkeypatch):
    """The hundred files of configs/ are read once, and not for each key."""
    monkeypatch.setattr(help_module, "read_yaml", READ)


@pytest.mark.parametrize("width", [80, 50])
def test_no_line_is_longer_than_the_terminal(width):
    """On narrow terminals, long words and commands stay whole."""
    for topic in TOPICS:
        for line in help_text(topic, width).splitlines():
            whole = len(line.split()) < 3 or "python main.py" in line
            assert len(line) <= width or (width < 80 and whole), (topic, line)
            assert line == line.rstrip()


def test_all_has_every_key_with_its_default_and_meaning():
    shown = help_text("all")
    for section, keys in SCHEMA.items():
        assert f"\n{section}\n" in shown
        for name, key in keys.items():
            default = ",".join(key.default) if key.kind == "names" else str(key.default)
            assert re.search(rf"^  {re.escape(name)} {re.escape(default)}( |$)", shown, re.M)
            assert words(key.help) in words(shown)
    for name in LIFT_KEYS:
        assert re.search(rf"^  {name} ", shown, re.M)


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("lr", "changes training"),
        ("gpu", "is not part of the run's name"),
        ("train_list", "the name of the file is part of"),
        ("tte", "only with keep best"),
    ],
)
def test_a_key_in_full(name, effect):
    shown = words(help_text(name))
    assert words(KEYS[name].help) in shown
    assert f"default {KEYS[name].default} " in shown
    assert effect in shown
    assert shown.endswith(f"more {page_of(name)}")


def test_the_values_of_a_key_and_the_files_that_set_it():
    assert "values one of clip" not in help_text("mean")
    assert "values one of SGD, AdamW default SGD" in words(help_text("optimizer"))
    assert "values a whole number of at least 1, or None" in words(help_text("accum_step"))
    assert "0.002 in method/coop" in words(help_text("lr"))


def test_a_method_has_its_keys_in_each_tower():
    rows = help_text("lora").splitlines()
    for key in ("v.lora", "v.lora_layers", "v.lora_dim", "l.lora", "l.lora_layers", "l.lora_dim"):
        assert any(row.startswith(f"  {key} ") for row in rows)
    assert not any(row.startswith("  v.lora_mlp") for row in rows)
    assert "sets classifier CosineClassifier, v.lora True file configs/method/lora.yaml" in words("\n".join(rows))
    assert [row.split()[0] for row in help_text("v.lora").splitlines() if row.startswith("  v.")] == [
        "v.lora_layers",
        "v.lora_dim",
    ]
    assert "ldam_margin 0.5" in help_text("LDAM")


def test_the_first_steps_have_every_name_and_the_commonest_keys():
    shown = help_text()
    assert len(COMMON) == 10
    for name in COMMON:
        assert re.search(rf"^  {name} {KEYS[name].default}( |$)", shown, re.M)
    names = set()
    for stem, leaves in re.findall(r"([\w+@]+)(?:\{([^}]*)\})?", shown):
        names |= {stem + leaf for leaf in leaves.split(",")}  # clip_vit_{b16,l14}
    assert names >= {name for section in ("data", "backbone", "method") for name in config_names(section)}


def test_the_examples_are_accepted():
    for command in EXAMPLES:
        args = cli.parse(command.split())
        assert args.data and args.method


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("learning_rate", "--help lr?"),
        ("v.lorra", "--help v.lora?"),
        ("vit_b_16", "--help clip_vit_b16?"),
        ("qqq", ""),
    ],
)
def test_an_unknown_topic_is_answered_with_a_close_one(topic, hint):
    with pytest.raises(ConfigError, match=re.escape(f"unknown help topic '{topic}'; ") + f".*{re.escape(hint)}"):
        help_text(topic)


def test_every_key_has_a_page_that_exists():
    for name in KEYS:
        assert (ROOT / page_of(name)).is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "beginning"),
    [
        (["--help"], 0, "usage: "),
        (["-d", "digits_lt", "-h"], 0, "usage: "),
        (["-m", "--help", "lr"], 0, "lr\n"),
        (["--help", "-b"], 0, "-b: backbones\n"),
        (["--help", "lrr"], 2, ""),
    ],
)
def test_the_command_line(arguments, status, beginning, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    said = capsys.readouterr()
    assert caught.value.code == status
    assert said.out.startswith(beginning)
    assert ("did you mean --help lr?" in said.err) == (status == 2)
