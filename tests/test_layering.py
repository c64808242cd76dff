"""Who may import whom (docs/architecture.md): the arrows between folders, and no cycle of files."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = {"main", "trainer", "datasets", "models", "utils"}
ON_TOP = {"benchmarks", "tests", *(path.stem for path in (ROOT / "scripts").glob("*.py"))}  # imported by nobody here
FILES = [
    ROOT / "main.py",
    ROOT / "trainer.py",
    *(file for folder in ("datasets", "models", "utils") for file in sorted((ROOT / folder).rglob("*.py"))),
]

# folder or file -> what of the product it may import, beside itself and what everybody may import
ARROWS = {
    "main": {"trainer", "utils.config", "utils.home", "utils.imports", "utils.run.stopping", "utils.version"},
    "trainer": {"datasets", "models", "utils"},
    "datasets": {"utils"},
    "models": {"utils"},
    "utils": set(),
}
# they join a model with the reading of new pictures
BEYOND = {"models.extractor": {"datasets"}, "models.predictor": {"datasets"}}
EVERYBODY = {"utils.errors", "utils.files", "utils.terminal", "utils.text"}
# within a folder, the same between its folders
INNER_ARROWS = {
    "datasets.sets": set(),
    "datasets.own": set(),
    "datasets.decoding": set(),
    "datasets.loading": set(),
    "datasets.check": {"datasets.decoding", "datasets.loading"},
    "models.backbones": {"models.backbones.families"},
    "models.backbones.families": {"models.backbones"},
    "models.export": {"models.backbones", "models.heads", "models.peft", "models.weights"},
    "models.heads": {"models.backbones"},
    "models.peft": {"models.backbones", "models.heads"},
    "models.weights": {"models.backbones", "models.backbones.families", "models.peft"},
    "utils.config": set(),
    "utils.device": set(),
    "utils.report": {"utils.config", "utils.run"},
    "utils.run": {"utils.config"},
}


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path):
    """The modules of the product that a file imports, at its top or within its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PRODUCT | ON_TOP)


GRAPH = {module: set(imports_of(path)) - {module} for module, path in MODULES.items()}


def within(module, folder):
    return module == folder or module.startswith(f"{folder}.")


@pytest.mark.parametrize("module", GRAPH)
def test_imports_follow_the_arrows(module):
    top = module.split(".")[0]
    allowed = ARROWS[top] | {top} | EVERYBODY | BEYOND.get(module, set())
    assert [name for name in GRAPH[module] if not any(within(name, folder) for folder in allowed)] == []


@pytest.mark.parametrize("folder", INNER_ARROWS)
def test_folders_within_a_folder_follow_theirs(folder):
    top = folder.split(".")[0]
    siblings = {name for name in INNER_ARROWS if name.startswith(f"{top}.")} - {folder}
    for module in GRAPH:
        if within(module, folder):
            used = {sibling for sibling in siblings for name in GRAPH[module] if within(name, sibling)}
            assert used <= INNER_ARROWS[folder], module


def test_each_folder_within_a_folder_has_its_arrows():
    found = {".".join(path.relative_to(ROOT).parent.parts) for path in FILES}
    assert {folder for folder in found if "." in folder} == INNER_ARROWS.keys()


def test_the_graph_has_no_cycle():
    """A package stands for its __init__.py; a file within it may not need it, unless it is imported from there."""
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("folder", ["datasets", "models", "utils"])
def test_only_builders_read_the_configuration(folder):
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())) if within(module, folder) else ():
            if isinstance(node, ast.FunctionDef) and any(argument.arg == "cfg" for argument in node.args.args):
                builds = node.name.startswith("build_") or node.name == "described_values"
                assert builds or within(module, "utils.config"), f"{path}: {node.name}"
