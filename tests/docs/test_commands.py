"""Every command of docs/*.md is accepted: main.py's by its parser and its configuration; others name what exists.

tests/docs/test_after_training.py parses the commands of the scripts that have placeholders for a run.
"""

import re
import shlex
from pathlib import Path

import pytest

import main as cli
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    (path.stem, line.strip().removeprefix("$ "))
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.stem != "extending"  # test_extending.py runs its commands, which need the files of the page
    for line in re.findall(r"^(?: {2,}|\$ ).+", path.read_text(), re.MULTILINE)
]
PLACEHOLDERS = {"DATA": "digits_lt", "BACKBONE": "clip_tiny", "METHOD": "lift+", "MODEL": "clip_vit_b16"}
RUN = re.compile(r"(?:python |torchrun [-\w=]+ )?(?:main|scripts/check_data)\.py (-[dm] .+)")
PROGRAM = re.compile(r"(?:.*\| )?(?:python )?((?:scripts|benchmarks)/\w+\.(?:py|sh))\b(.*)")
COMMANDS = [(page, found[1]) for page, line in LINES if (found := RUN.match(line))]
PROGRAMS = sorted({(found[1], found[2]) for _, line in LINES if (found := PROGRAM.match(line))})


@pytest.mark.parametrize(("page", "arguments"), COMMANDS)
def test_runs_are_accepted(page, arguments):
    words = shlex.split(arguments.replace("[KEY VALUE ...]", ""), comments=True)
    words += [] if "-m" in words else ["-b", "clip_tiny", "-m", "zs"]  # a check of the data set has neither
    args = cli.parse([PLACEHOLDERS.get(word, word) for word in words])
    load_config(args.data, args.backbone, args.method, args.options)


@pytest.mark.parametrize(("program", "arguments"), PROGRAMS)
def test_other_programs_and_their_options_exist(program, arguments):
    files = (program, "scripts/grids.sh", "scripts/run_all.py") if program.endswith(".sh") else (program,)
    source = "".join((ROOT / file).read_text() for file in files)
    options = re.findall(r"(?<=\s)--\w[\w-]*", arguments.partition("#")[0])
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", source)] == []


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {found[1] for _, line in LINES if (found := re.match(r"make ([\w-]+)", line))}
    assert used
    assert used <= targets


def test_pages_with_runs():
    assert {page for page, _ in COMMANDS} >= {"after_training", "backbones", "data", "gpu", "keys", "methods", "scale"}
