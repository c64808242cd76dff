"""The commands of four pages are accepted by the programs' own parsers; nothing runs."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

import main as cli
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

PAGES = {
    name: (ROOT / name).read_text()
    for name in ("docs/after_training.md", "docs/usage.md", "docs/index.md", "README.md")
}
SCRIPTS = ("adjust", "average", "export", "features", "predict", "report")
COMMAND = re.compile(r"^(?:    (?:.*\| )?|\$ )python (?:main|scripts/(\w+))\.py(.*)", re.MULTILINE)
FOUND = [(page, *found) for page, text in PAGES.items() for found in COMMAND.findall(text)]
COMMANDS = [found for found in FOUND if "--help" not in found[2]]
PLACEHOLDERS = {"DATA": "digits_lt", "BACKBONE": "clip_tiny", "METHOD": "lift+", "MODEL": "clip_vit_b16"}


def words_of(arguments):
    """The words of a command: names instead of placeholders, without comment and optional words."""
    words = shlex.split(re.sub(r"\[KEY VALUE \.\.\.\]", "", arguments), comments=True)
    return [PLACEHOLDERS.get(word, word) for word in words]


def test_every_script_has_commands_on_the_page():
    assert {script for page, script, _ in COMMANDS if page != "README.md"} == {"", *SCRIPTS}
    assert {script for page, script, _ in COMMANDS if page == "README.md"} == {
        "",
        *SCRIPTS,
        "check_data",
        "collect_results",
    }


@pytest.mark.parametrize(("page", "script", "arguments"), COMMANDS)
def test_commands_are_accepted(page, script, arguments):
    words = words_of(arguments)
    if script:
        module = importlib.import_module(script)
        args = module.parse([word for word in words if word != "..."])
        if script == "features":
            module.build_config(args)  # refuses unknown keys
    else:
        words = words_of(f"-d DATA -b BACKBONE -m METHOD {arguments.replace(' ...', '')}") if "..." in words else words
        args = cli.parse(words)
        load_config(args.data, args.backbone, args.method, args.options)


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_options_are_not_accepted(script):
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse(["RUN", "--no_such_option"])


def test_options_in_the_text_exist(capsys):
    for script in SCRIPTS:
        with pytest.raises(SystemExit):
            importlib.import_module(script).parse(["--help"])
    known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)) | {"--logdir"}  # of tensorboard
    assert sorted(set(re.findall(r"--[a-z][\w-]*", PAGES["docs/after_training.md"])) - known) == []
