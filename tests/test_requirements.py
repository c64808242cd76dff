"""pyproject.toml declares every package that is imported, and no other; the requirements files repeat it."""

import functools
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "ruff",
    "pytest-xdist",
    "mypy",
    "types-pyyaml",
    "codespell",
    "mkdocs-material",
}  # run by the Makefile, not imported
PLUGINS = {"tensorboard", "onnx", "onnxscript"}  # imported by torch: torch.utils.tensorboard, torch.onnx
OPTIONAL = {"peft", "transformers"}  # an oracle of tests, a peer of benchmarks


@functools.cache
def is_ours(name):
    """Whether a module is part of this project: at its root, or in scripts, tests or benchmarks."""
    return any((ROOT / folder / name).with_suffix(".py").exists() for folder in ("", "scripts", "tests")) or any(
        path.name == name and any(path.glob("*.py"))
        for path in (*ROOT.iterdir(), *(ROOT / "tests").iterdir())
        if path.is_dir()
    )


def python_files():
    """The Python files of the project; none of a hidden folder, as .venv."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted([*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))])


@functools.cache
def imported_packages():
    """{top-level module: the first file that imports it}, without the standard library and this project's modules.

    Programs in strings count, too. ruff allows one module a line (E401), and nothing before it (E701, E702).
    """
    found = {}
    statement = re.compile(r"(?m)^[ \t]*(?:from (\w+)[\w.]* import|import (\w+))\b")
    for path in python_files():
        for names in statement.findall(path.read_text(encoding="utf-8")):
            name = "".join(names)
            if name not in sys.stdlib_module_names and name not in found and not is_ours(name):
                found[name] = path.relative_to(ROOT)
    return found


def normalised(name):
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(file):
    """The distributions that a requirements file names."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {normalised(re.match(r"[\w.-]+", line)[0]) for line in lines if re.match(r"\w", line)}


@functools.cache
def installed():
    """{module: the distributions that have it}."""
    return packages_distributions()


def distributions(module):
    """The distributions that have a module; its own name where it is not installed."""
    return {normalised(name) for name in installed().get(module, [module])}


def test_every_imported_package_is_declared():
    missing = {
        module: str(path)
        for module, path in imported_packages().items()
        if not distributions(module) & (declared("requirements.txt") | OPTIONAL)
    }
    assert missing == {}


def test_every_declared_package_is_used():
    used = set().union(*map(distributions, imported_packages()))
    assert declared("requirements.txt") <= used | COMMANDS | PLUGINS


def in_pyproject():
    """The requirements of pyproject.toml, those of its extras last, in order. Python 3.10 has no parser of TOML."""
    text = re.sub(r"#.*", "", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = re.findall(r"(?ms)^(?:dependencies|export|docs|dev) = \[(.*?)\]", text)
    assert len(lists) == 4
    return [requirement for each in lists for requirement in re.findall(r'"([^"]+)"', each)]


def test_requirements_txt_is_pyproject_with_every_extra():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == in_pyproject()


def test_the_exact_versions_are_of_the_same_packages():
    assert declared("requirements-with-version.txt") == declared("requirements.txt")
