"""Follows docs/extending.md as printed: adds its files and rows to a copy of the product, and runs its commands.

A block that begins with `# PATH` is a file; one that begins with `# PATH, in TABLE` is a row for the end of that table.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import fork_server
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
PRODUCT = ("main.py", "trainer.py", "datasets", "models", "utils", "configs", "assets", "scripts")
BLOCKS = re.findall(r"^```(python|yaml|bash)\n# (\S+?)(?:, in (\w+))?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    python (.+)$", PAGE, re.MULTILINE)


def add_row(path, table, row):
    """Adds a row to the end of the dict `table` in a file, and the row's imports."""
    text = path.read_text()
    start = re.search(rf"^{table}\b[^=\n]*= \{{", text, re.MULTILINE)
    assert start, f"{path} has no table {table}"
    end = re.compile(r"^}", re.MULTILINE).search(text, start.end())
    text = text[: end.start()] + row + text[end.start() :]
    if path.name == "__init__.py":  # a set next to the others
        text = text.replace("from datasets.sets import ", "from datasets.sets import petals, ", 1)
    path.write_text(text)


FEWER = """
_build_all = build


def build(*arguments):
    data = _build_all(*arguments)
    train, test = (part.subset(part.some_of_each(len(data.classnames), 8)) for part in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test)
"""


def write_petals(folder):
    """The images of the page's data set: 4 to train with and 2 to test with in each of two classes."""
    rng, lists = np.random.default_rng(0), {"train": [], "test": []}
    for label, name in enumerate(("rose", "tulip")):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / name / f"{i}.png")
            lists["train" if i < 4 else "test"].append(f"{name}/{i}.png {label}\n")
    for split, lines in lists.items():
        (folder / f"{split}.txt").write_text("".join(lines))


def write_eva02(path):
    """The weights of the page's backbone: random ones."""
    torch.manual_seed(0)
    save_file(timm.create_model("eva02_tiny_patch14_224").state_dict(), path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The product with all that the page adds, and with at most eight digits of a class."""
    folder = tmp_path_factory.mktemp("product")
    for name in PRODUCT:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
    for _, name, table, content in BLOCKS:
        path = folder / name
        if table:
            add_row(path, table, "".join(f"    {line}\n" for line in content.splitlines()))
        else:
            assert not path.exists(), f"{name} is there already"
            path.write_text(content)
    with open(folder / "datasets/sets/digits_lt.py", "a") as file:
        file.write(f"\nimport dataclasses\n{FEWER}")
    write_petals(folder / "petals")
    write_eva02(folder / "eva02.safetensors")
    return folder


def test_each_extension_is_one_file_or_function_and_one_row():
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) >= 5
    for section in sections:
        blocks = re.findall(r"^```python\n# \S+?(?:, in (\w+))?\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        files = [] if section.startswith("A backbone") else [False]  # whose file is a configuration
        assert [bool(table) for table, _ in blocks] == [*files, True], section.partition("\n")[0]
        assert len(blocks[-1][1].splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=[command[:60] for command in COMMANDS])
def test_the_commands_of_the_page_run(copy, command):
    done = fork_server.run(shlex.split(command), cwd=copy)
    assert done.returncode == 0, done.stderr
    name = re.search(r"output_dir (\S+)", command)[1]
    results = json.loads((copy / "output" / name / "results.json").read_text())
    assert 0 <= results["accuracy"]["overall"] <= 100
    EXPECTED[name](results)


EXPECTED = {
    "eva02": lambda results: results["params"]["head"] == 10 * 192 or pytest.fail("another tower"),
    "gate": lambda results: results["params"]["peft"] == 6 * 128 or pytest.fail("other gates"),
    "tilted": lambda results: results["settings"]["tilted_tilt"] == 0.5 or pytest.fail("other tilt"),
    "petals": lambda results: sum(row["train"] for row in results["per_class"]) == 8 or pytest.fail("other images"),
    "adam": lambda results: results["settings"]["optimizer"] == "Adam" or pytest.fail("other optimizer"),
    "worst": lambda results: results["more"].keys() >= {"worst_group", "top5"} or pytest.fail("other measures"),
}
