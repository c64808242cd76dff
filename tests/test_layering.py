"""Who may import whom: main -> trainer -> {datasets, models} -> utils, and nothing back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"main", "trainer", "datasets", "models", "utils"}
ALLOWED = {
    "main": ROOMS,
    "trainer": {"trainer", "datasets", "models", "utils"},
    "datasets": {"datasets", "utils"},
    "models": {"models", "utils"},
    "utils": {"utils"},
}
FILES = [
    ROOT / "main.py",
    ROOT / "trainer.py",
    *(f for room in ("datasets", "models", "utils") for f in (ROOT / room).rglob("*.py")),
]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        yield from (name.split(".")[0] for name in names if name.split(".")[0] in ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_plan(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert set(imported_rooms(path)) <= ALLOWED[room]


@pytest.mark.parametrize("room", ["datasets", "models", "utils"])
def test_only_builders_read_the_configuration(room):
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(argument.arg == "cfg" for argument in node.args.args):
                assert node.name.startswith("build_") or path.relative_to(ROOT).parts[:2] == ("utils", "config"), (
                    f"{path}: {node.name} takes cfg"
                )


def test_every_public_function_has_a_docstring():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node) or path.name == "main.py", f"{path}: {node.name}"
