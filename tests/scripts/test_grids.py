"""The scripts print every experiment of both papers: all cells of grids.yaml, which was written from the papers' grids.

Two commands are the same cell if the loader builds the same configuration from them, in any order and spelling of
their options. Whether a run was tested at its end or later (test_only) does not change the accuracy, so it does not
change the cell: counted in this way, LIFT+'s 536 commands have 516 different cells, as its authors' scripts have.
"""

import functools
import itertools
import json
import shlex
from pathlib import Path

import pytest
import yaml
from script_runs import dry_run, files_read_once, load, parse, script_lines

from utils.config import training_options

ROOT = Path(__file__).resolve().parents[2]

GRIDS = yaml.safe_load(Path(__file__).with_name("grids.yaml").read_text())
PAPERS = ("lift+", "lift")
GROUPS = [(paper, group["name"]) for paper in PAPERS for group in GRIDS[paper]["groups"]]
SCRIPTS = sorted(set((ROOT / "scripts").glob("run_*.sh")) - {ROOT / "scripts/run_digits.sh"})  # digits: of no paper
NAMES = [path.stem for path in SCRIPTS]


def expand(paper, group):
    """The cells of a group, each as (data, backbone or None, method or model, options)."""
    grid = GRIDS[paper]
    for block in group["blocks"]:
        block = {"rows": [{}], "options": {}} | grid["defaults"] | block
        names = block["method"] if paper == "lift+" else block["model"]
        backbones = block["backbone"] if paper == "lift+" else [None]
        products = itertools.product(
            block["data"], backbones, names, block["rows"], itertools.product(*block["options"].values())
        )
        for (data, backbone, name, row, values), way in itertools.product(products, GRIDS["ways"][block["way"]]):
            options = row | dict(zip(block["options"], values, strict=True)) | way
            if data in grid["epochs"] and not name.startswith("zs"):  # nothing trains in zero-shot CLIP
                options = {"num_epochs": grid["epochs"][data]} | options
            yield data, backbone, name, options


def load_cell(data, backbone, name, options):
    return load(data, backbone, name, [str(text) for pair in options.items() for text in pair])


def identity(cfg):
    """A text that two configurations share if they train alike and are tested alike."""
    crops = (cfg.tte_crops, cfg.tte_draws) if cfg.tte else 1
    return json.dumps(
        [cfg.backbone, cfg.weights, training_options(cfg), cfg.test_train, crops, cfg.expand], sort_keys=True
    )


@functools.cache
def identities(paper, group):
    """The identities of a group's cells, in their order."""
    return [identity(load_cell(*cell)) for cell in CELLS[paper, group]]


def describe(data, backbone, name, options):
    pairs = " ".join(f"{key} {value}" for key, value in options.items())
    return " ".join(filter(None, (f"-d {data}", backbone and f"-b {backbone}", f"-m {name}", pairs)))


CELLS = {(paper, group["name"]): list(expand(paper, group)) for paper in PAPERS for group in GRIDS[paper]["groups"]}


@pytest.fixture(scope="module", autouse=True)
def once():
    with files_read_once():
        yield


def planned(lines):
    """The commands that run_all plans for the lines of a script: [(command, configuration, its identity)]."""
    commands = []
    for line in dry_run(lines):
        program, script, *arguments = shlex.split(line, comments=True)
        assert (program, script) == ("python", "main.py")
        args = parse(arguments)
        cfg = load(args.data, args.backbone, args.method, args.options)
        commands.append((line, cfg, identity(cfg)))
    return commands


@pytest.fixture(scope="module")
def printed():
    """The commands that every script prints, by its name."""
    return {name: planned(script_lines(name)[0]) for name in NAMES}


# ---- the grids ----


@pytest.mark.parametrize(("paper", "name"), GROUPS)
def test_a_group_has_as_many_cells_as_the_paper(paper, name):
    group = next(group for group in GRIDS[paper]["groups"] if group["name"] == name)
    assert len(CELLS[paper, name]) == group["cells"]


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_has_as_many_cells_as_its_authors_scripts(paper):
    groups = [group for group in CELLS if group[0] == paper]
    assert sum(len(CELLS[group]) for group in groups) == GRIDS[paper]["cells"]
    if "different" in GRIDS[paper]:
        assert len({same for group in groups for same in identities(*group)}) == GRIDS[paper]["different"]


@pytest.mark.parametrize(
    ("data", "method", "product"),
    [("imagenet_lt", "lift", 0.1), ("places_lt", "lift+", 0.1), ("inat2018", "lift", 0.2), ("inat2018", "lift+", 0.3)],
)
def test_rate_times_epochs_is_constant(data, method, product):
    """In LIFT+'s grid of epochs, up to the digits of its learning rates, which reveals typing errors."""
    groups = [cells for (paper, name), cells in CELLS.items() if paper == "lift+" and name.startswith("epochs")]
    rows = [options for cells in groups for of, _, name, options in cells if (of, name) == (data, method)]
    assert len(rows) == (10 if data == "inat2018" else 6)
    for row in rows:
        assert row["lr"] * row["num_epochs"] == pytest.approx(product, rel=0.015)


# ---- the scripts ----


@pytest.fixture(scope="module")
def known(printed):
    """The identities of all commands that the scripts print."""
    return {same for commands in printed.values() for _, _, same in commands}


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "name"), GROUPS)
def test_every_cell_is_printed_by_a_script(paper, name, known):
    cells = zip(CELLS[paper, name], identities(paper, name), strict=True)
    missing = [describe(*cell) for cell, same in cells if same not in known]
    assert not missing, f"{len(missing)} of {len(CELLS[paper, name])} cells"


@pytest.fixture(scope="module")
def published():
    """The identities of a paper's cells, by paper."""
    return {paper: {same for of, name in GROUPS if of == paper for same in identities(of, name)} for paper in PAPERS}


@pytest.mark.slow
@pytest.mark.parametrize("script", NAMES)
def test_a_script_prints_only_the_papers_cells(script, printed, published):
    """And the runs tested by these. LIFT's scripts use LIFT's form, the others that of LIFT+."""
    paper = "lift" if script.startswith(("run_lift_", "run_pel")) else "lift+"
    tested = {cfg.model_dir or cfg.output_dir for _, cfg, _ in printed[script] if cfg.test_only or cfg.test_train}
    for line, cfg, same in printed[script]:
        trains = not (cfg.test_only or cfg.test_train)
        assert same in published[paper] or (trains and cfg.output_dir in tested), line
        assert (" -b " in line) == (paper == "lift+"), line
        if cfg.dataset.startswith("inat2018") and not cfg.zero_shot:
            assert " num_epochs " in line, line


@pytest.mark.slow
@pytest.mark.parametrize("script", NAMES)
def test_more_adds_to_the_papers_cells(script, printed):
    text, left = script_lines(script, "--jobs", "2", "--more", "lr", "1")
    assert left == ["--jobs", "2", "lr", "1"]
    more = {same for _, _, same in planned(text)}
    fewer = {same for _, _, same in printed[script]}
    assert fewer < more or (script == "run_main" and fewer == more)


@pytest.mark.parametrize("script", ["run_losses", "run_lift_losses"])
def test_another_data_set_has_its_own_epochs(script):
    """With -d, iNaturalist's epochs would be a second set of runs."""
    text, left = script_lines(script, "-d", "digits_lt")
    assert "num_epochs" not in text
    assert left == ["-d", "digits_lt"]
    assert "num_epochs" in script_lines(script)[0]


@pytest.mark.parametrize("script", NAMES)
def test_help_describes_the_script_and_more(script):
    text, left = script_lines(script, "--help")
    assert "--more" in text
    assert "arXiv" in text
    assert left == ["--help"]
