"""The experiment scripts: the runs that they plan, skip, start and report; and the tables of results."""

import csv
import importlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import numpy as np
import pytest
import yaml
from helpers import said, train
from PIL import Image
from script_runs import dry_run, files_read_once, load, parse, script_lines

from datasets import build_data
from utils.config import completed, config_names, load_config, training_options
from utils.config.schema import FORMER_VALUES, KEYS
from utils.run.directory import RunDir
from utils.run.mode import build_mode

ROOT = Path(__file__).resolve().parents[2]


def results_file(cfg):
    """The file that a run of `cfg` writes last."""
    return RunDir(Path(cfg.output_dir)).results(build_mode(cfg))


sys.path.insert(0, str(ROOT / "scripts"))
collect_results, count_parameters, planning, results_table, run_all, running = map(
    importlib.import_module,
    ("collect_results", "count_parameters", "planning", "results_table", "run_all", "running"),
)
SCRIPTS = sorted((ROOT / "scripts").glob("run_*.sh"))
GROUPS = (
    "main ablation backbones methods aft_ratios partial_ft widths classifiers inits losses epochs mda tte_expand "
    "zero_shot pel digits "
    "lift_main lift_ablation lift_methods lift_inits lift_train_accuracy lift_ensembling lift_prompts lift_epochs "
    "lift_classifiers lift_losses lift_backbones lift_zero_shot lift_mask_ratios lift_widths lift_partial lift_expand"
)
EVERY_ROOT = [f"--root={data}=/images" for data in ("imagenet_lt", "places_lt", "inat2018")]


def call(name, *arguments):
    """Runs a script and the programs that it starts."""
    command = [ROOT / f"scripts/run_{name}.sh", *arguments]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1200)


def read_command(line):
    """A printed command -> its configuration; raises the errors of main.py."""
    program, script, *arguments = shlex.split(line, comments=True)
    assert (program, script) == ("python", "main.py")
    args = parse(arguments)
    return load(args.data, args.backbone, args.method, args.options)


@pytest.fixture(scope="module")
def dry_runs():
    """The lines that every script prints with --dry-run, by its name."""
    with files_read_once():
        return {path.stem.removeprefix("run_"): dry_run(*script_lines(path.stem)) for path in SCRIPTS}


# ---- plans ----


@pytest.mark.slow
def test_every_group_has_its_script(dry_runs):
    assert set(dry_runs) == set(GROUPS.split())
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        assert os.access(path, os.X_OK)
        assert f"scripts/{path.name}" in path.read_text()
        assert "run_all.py" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS.split())
def test_main_accepts_every_command(dry_runs, name):
    """Each has its own results file; a test comes after the run that it tests, and finds its checkpoint."""
    seen = set()
    for line in dry_runs[name]:
        cfg = read_command(line)
        file = results_file(cfg)
        assert file not in seen, line
        seen.add(file)
        if cfg.test_only and not cfg.zero_shot:
            assert Path(cfg.model_dir or cfg.output_dir) / "results.json" in seen, line
    assert len(seen) > 5


@pytest.mark.slow
def test_the_digits_have_every_method_and_loss(dry_runs):
    """The papers' grids: tests/scripts/test_grids.py."""
    assert {re.search(r"-m (\S+)", line)[1] for line in dry_runs["digits"]} == set(config_names("method"))
    assert {read_command(line).loss_type for line in dry_runs["digits"]} == set(KEYS["loss_type"].choices)


def test_digits_has_five_seeds(dry_runs):
    seeds = {}
    for line in dry_runs["digits"]:
        cfg = read_command(line)
        settings = training_options(cfg) | {"seed": None}
        seeds.setdefault(json.dumps(settings), []).append(cfg.seed)
        assert cfg.seed == 0 or not cfg.zero_shot
    assert sorted(map(tuple, seeds.values())) == [(0,)] + [(0, 1, 2, 3, 4)] * (len(seeds) - 1)


@pytest.mark.slow
def test_only_and_what_is_added_to_all():
    only = "places.*(CE|LADE)(?!.*test_only)"
    assert dry_run(*script_lines("run_losses", "--only", only, "lr", "1", "--seeds", "2", "num_epochs", "3")) == [
        f"python main.py -d places_lt -b clip_vit_b16 -m lift+ loss_type {loss} lr 1 num_epochs 3{seed}"
        for loss in ("CE", "LADE")
        for seed in ("", " seed 1")
    ]
    # with a process of its own
    out = call("main", "--dry-run", "--only", "places", "--root", "places_lt=/my pictures")
    assert [read_command(line).root for line in out.stdout.splitlines()] == ["/my pictures"] * 4
    lines = dry_run(*script_lines("run_losses", "-d", "digits_lt", "-b", "clip_tiny"))  # three data sets become one
    assert len(lines) == 2 * 7
    assert len(dry_run(*script_lines("run_losses", "--more", "--only", "cifar"))) == 2 * 8


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("tte", "True"), "results.json"),
        (("test_only", "True"), "results_test.json"),
        (("test_only", "True", "tte", "True"), "results_tte.json"),
        (("test_only", "True", "tte", "True", "tte_crops", "10"), "results_tte10.json"),
        (("test_train", "True"), "results_train.json"),
        (("test_train", "True", "tte", "True"), "results_train_tte.json"),
        (("test_only", "True", "test_name", "fold 1/b"), "results_test_fold-1-b.json"),
        (("test_train", "True", "test_name", "tte"), "results_train_list_tte.json"),  # not that of tte True
        (("test_name", "a"), "results.json"),
    ],
    ids=lambda options: " ".join(options) if isinstance(options, tuple) else "",
)
def test_the_results_file_of_a_command(options, name):
    cfg = load_config("digits_lt", "clip_tiny", "lift+", list(options))
    assert results_file(cfg) == Path("output/digits_lt_clip_tiny_lift+") / name


def test_a_run_writes_the_file_that_the_plan_expects(config, few_images):
    for options in ((), ("test_only", "True", "tte", "True"), ("test_train", "True", "test_name", "mine")):
        cfg = config("num_epochs", 1, *options)
        assert not results_file(cfg).exists()
        train(cfg)
        assert results_file(cfg).exists()


# ---- running ----

FAKE_MAIN = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, {root!r})
from main import parse
from utils.config import load_config
from utils.run.mode import build_mode

def results_file(cfg):  # as RunDir has it, which takes seconds to import
    return Path(cfg.output_dir) / f"results{{build_mode(cfg).file_suffix}}.json"

args = parse(sys.argv[1:])
cfg = load_config(args.data, args.backbone, args.method, args.options)
with open("order.txt", "a") as file:
    print(results_file(cfg), file=file)
if cfg.lr == 13:
    print("error: 13 is an unlucky lr", file=sys.stderr)
    sys.exit(2)
if cfg.lr == 14:
    Path("started").touch()
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        time.sleep(3600)
    except KeyboardInterrupt:
        Path("stopped").touch()
        sys.exit(130)
if cfg.lr == 15:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "3600"])
    Path("pids").write_text(f"{{os.getpid()}} {{child.pid}}")
    Path("started").touch()
    time.sleep(3600)
if cfg.lr > 19:
    while len(list(Path().glob("output/*/meets"))) < 2:
        (results_file(cfg).parent / "meets").touch()
        time.sleep(0.01)
results_file(cfg).write_text("no JSON")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """fake(LINES, ARGUMENT, ...): run_all with a main.py that only records that it ran."""
    (tmp_path / "main.py").write_text(FAKE_MAIN.format(root=str(ROOT)))
    monkeypatch.chdir(tmp_path)
    for module in (planning, running):
        monkeypatch.setattr(module, "ROOT", tmp_path)

    def run(lines, *arguments):
        monkeypatch.setattr("sys.stdin", open_lines(lines))
        return run_all.main(list(arguments))

    def open_lines(lines):
        (tmp_path / "lines").write_text("\n".join(lines))
        return open("lines")  # noqa: SIM115 (stands for the standard input)

    return run


def ran():
    return Path("order.txt").read_text().splitlines() if Path("order.txt").exists() else []


BASE = "-d digits_lt -b clip_tiny -m lift+"
RUN = "output/digits_lt_clip_tiny_lift+"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["lrr", "1"], [BASE]),
        (["lr"], [BASE]),
        ([], [BASE, "-d digits_lt -b clip_big -m lift+"]),
        (["-b", "clip_tiny"], ["-d digits_lt -m clip_vit_b16"]),
        (["--only", "nothing"], [BASE]),
        (["--only", "("], [BASE]),
        ([], ["-d imagenet_lt -b clip_vit_b16 -m lift+"]),
        (["output_dir", "x"], [BASE]),
        (["seed", "None"], [BASE]),
        (["--root", "imagenet_lt"], [BASE]),
        (["--jobs", "0"], [BASE]),
        ([], ["-d digits_lt -b clip_tiny -m zs", "-d digits_lt -b clip_tiny -m zs tte True"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_wrong_input_is_refused_before_anything_runs(arguments, lines, fake, capsys):
    try:
        status = fake(lines, *arguments)
    except SystemExit as error:  # argparse's
        status = error.code
    assert status == 2
    said(capsys.readouterr().err.partition("error: ")[2].rstrip())
    assert not ran()
    assert not Path("output").exists()


@pytest.mark.slow
def test_completed_runs_are_skipped_and_failures_do_not_stop_the_others(fake, capsys):
    done = Path(RUN + "_lr_0.5/results.json")
    done.parent.mkdir(parents=True)
    done.touch()
    lines = [f"{BASE} lr 0.5", f"{BASE} lr 13", f"{BASE} lr 13 test_only True", f"{BASE} lr 0.25"]
    assert fake(lines) == 1
    assert ran() == [RUN + "_lr_13.0/results.json", RUN + "_lr_0.25/results.json"]
    said = capsys.readouterr().err
    assert "4 runs, 1 of them done already" in said
    assert "1/3 FAILED" in said
    assert "3/3 done" in said
    failures = said.partition("2 of 3 failed:\n")[2].splitlines()
    assert failures == [
        "  python main.py -d digits_lt -b clip_tiny -m lift+ lr 13",
        "    error: 13 is an unlucky lr",
        "  python main.py -d digits_lt -b clip_tiny -m lift+ lr 13 test_only True",
        "    its training run failed",
    ]
    assert "13 is an unlucky lr" in Path(RUN + "_lr_13.0/terminal.txt").read_text()

    assert fake(lines[:1] + lines[3:]) == 0
    assert len(ran()) == 2  # nothing more to do
    capsys.readouterr()
    assert fake(lines, "--dry-run") == 0
    assert [line.endswith("# done") for line in capsys.readouterr().out.splitlines()] == [True, False, False, True]


def test_results_of_other_images_are_not_complete(fake, tmp_path, capsys):
    """With -d folder, images are compared by their lists and contents, wherever root is."""
    rng = np.random.default_rng(0)
    for root, name in itertools.product("pq", ("train/a/1", "train/b/1", "test/a/1", "test/b/1")):
        path = tmp_path / root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    shutil.copytree(tmp_path / "p", tmp_path / "moved")
    data = build_data(load_config("folder", "clip_tiny", "lift+", ["root", str(tmp_path / "p")]))
    lists = {split: getattr(data, split).fingerprint(data.root) for split in ("train", "test")}
    done = Path("output/folder_clip_tiny_lift+/results.json")
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps({"data": {"fingerprint": lists}}))
    for root, expected in (("p", True), ("moved", True), ("q", False), ("nowhere", True)):
        assert fake([f"-d folder -b clip_tiny -m lift+ root {tmp_path / root}"], "--dry-run") == 0
        assert capsys.readouterr().out.rstrip().endswith("# done") == expected, root


@pytest.mark.slow
def test_tests_wait_for_their_training(fake):
    lines = [BASE, *(f"{BASE} test_only True tte {tte} expand 4" for tte in (True, False)), f"{BASE} seed 1"]
    assert fake(lines, "--jobs", "4") == 0
    order = ran()
    assert sorted(order) == sorted(
        [f"{RUN}/results.json", f"{RUN}_seed_1/results.json"]
        + [f"{RUN}/{what}_expand_4/results_{what}.json" for what in ("test", "tte")]
    )
    assert set(order[:2]) == {f"{RUN}/results.json", f"{RUN}_seed_1/results.json"}
    Path(f"{RUN}/results.json").unlink()  # trained again, so tested again
    assert fake(lines) == 0
    assert len(ran()) == 7


def test_only_finds_a_command_with_and_without_what_is_added(fake, capsys):
    line, root = "-d places_lt -b clip_vit_b16 -m lift+", ("--root", "places_lt=/x")
    lines = [line, f"{line} num_epochs 5", f"{line} num_epochs 50 v.adaptformer_layers [0,2]"]
    added = ("lr", "1", *root, "--seeds", "2")
    for only, arguments, endings in (
        (r"lift\+$", (), [""]),
        (r"lift\+$", added, [" lr 1 root /x", " lr 1 root /x seed 1"]),
        ("num_epochs 5$", (), [" num_epochs 5"]),
        ("num_epochs 5$", added, [" num_epochs 5 lr 1 root /x", " num_epochs 5 lr 1 root /x seed 1"]),
        ("num_epochs 5 lr 1$", added, [" num_epochs 5 lr 1 root /x", " num_epochs 5 lr 1 root /x seed 1"]),
        ("epochs 5 .*root /x$", added, [" num_epochs 5 lr 1 root /x", " num_epochs 5 lr 1 root /x seed 1"]),
        (r"lift\+ lr 1 root /x seed 1$", added, [" lr 1 root /x seed 1"]),
        (r"\[0,2\]$", (), [" num_epochs 50 v.adaptformer_layers '[0,2]'"]),
        ("num_epochs 5$", ("num_epochs", "7"), [" num_epochs 7"]),
        ("num_epochs 7$", ("num_epochs", "7"), [" num_epochs 7"]),
    ):
        assert fake(lines, "--dry-run", "--only", only, *arguments) == 0
        assert capsys.readouterr().out.splitlines() == [f"python main.py {line}{ending}" for ending in endings], only


@pytest.mark.slow
def test_a_test_of_another_list_gets_its_name(fake, tmp_path):
    """In the same call as the training run, or from an earlier one, named as by the trainer."""
    lists = "-d folder -b clip_tiny -m lift+ train_list train.csv test_list"
    run = "output/folder_clip_tiny_lift+_train_list_train"
    lines = [f"{lists} a.csv", f"{lists} {tmp_path}/a.csv test_only True tte True", f"{lists} b.csv test_only True"]
    lines += [f"{lists} c.csv test_only True test_name mine expand 4"]
    names = ["results.json", "results_tte.json", "results_test_b.json", "test_mine_expand_4/results_test_mine.json"]
    assert fake(lines) == 0
    assert ran() == [f"{run}/{name}" for name in names]
    Path(run, "config.yaml").write_text("test_list: a.csv\n")
    assert fake([lines[2].replace("b.csv", "d.csv")]) == 0  # its training run was earlier
    assert ran()[-1] == f"{run}/results_test_d.json"


def test_a_results_file_with_a_longer_name_is_found(fake, capsys):
    """If only the fingerprints differ, the plan cannot derive the name: the command in the file decides."""
    line = f"{BASE} test_only True"
    for name, command in (("a", f"python main.py {line}"), ("b", "python main.py -d digits_lt")):
        path = Path(RUN, f"results_test_{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"command": command}))
    assert fake([line], "--dry-run") == 0
    assert capsys.readouterr().out.endswith("# done\n")
    assert fake([line, f"{line} tte True"], "--dry-run") == 0
    assert [line.endswith("# done") for line in capsys.readouterr().out.splitlines()] == [True, False]


@pytest.mark.slow
def test_as_many_runs_at_once_as_jobs(fake):
    """Each of the first two runs ends when it has met another one."""
    assert fake([f"{BASE} lr {lr}" for lr in (20, 21, 22)], "--jobs", "2") == 0
    assert ran()[2] == f"{RUN}_lr_22.0/results.json"


@pytest.fixture
def interrupted(tmp_path):
    """interrupted(LINES, SIGNAL) starts run_all, sends it the signal once a run has started, and waits for its end."""
    (tmp_path / "main.py").write_text(FAKE_MAIN.format(root=str(ROOT)))

    def call(lines, ending, patience=60):
        code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "scripts")!r})
import planning, run_all, running
planning.ROOT = running.ROOT = Path.cwd()
running.PATIENCE = {patience}
sys.exit(run_all.main([]))
"""
        (tmp_path / "lines").write_text("\n".join(lines))
        with open(tmp_path / "lines") as given:
            process = fork_server.start(["-c", code], cwd=tmp_path, stdin=given, stderr=subprocess.DEVNULL)
        while not (tmp_path / "started").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(ending)
        return process.wait(120)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_ctrl_c_ends_what_was_started(ending, interrupted, tmp_path):
    assert interrupted([f"{BASE} lr 14", f"{BASE} lr 1"], ending) == 128 + ending
    assert (tmp_path / "stopped").exists()
    assert (tmp_path / "order.txt").read_text().splitlines() == [RUN + "_lr_14.0/results.json"]


@pytest.mark.slow
def test_a_run_that_ignores_ctrl_c_is_killed_with_its_children(interrupted, tmp_path):
    assert interrupted([f"{BASE} lr 15"], signal.SIGHUP, patience=0.3) == 129
    for pid in (tmp_path / "pids").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(") ")[2][0] == "Z"  # nobody waits for an orphan


def test_a_script_runs_with_the_backbone_of_an_address():
    address = "timm:vit_base_patch14_dinov2.lvd142m"
    commands = dry_run("-d digits_lt -b clip_tiny -m lift+\n", ["-b", address])
    assert commands == [f"python main.py -d digits_lt -b {address} -m lift+"]
    assert results_file(read_command(commands[0])).parent.name == f"digits_lt_{address.replace(':', '-')}_lift+"


# ---- tables ----


@pytest.fixture
def results(tmp_path):
    """results(COMMAND OPTIONS, overall accuracy, ...) writes a results file as the trainer does."""

    def write(arguments, overall, file="results.json", place=None, **changes):
        cfg = completed(read_command(f"python main.py {arguments}"), FORMER_VALUES)  # as weights of these backbones do
        accuracy = {"overall": overall, "mean_class": overall - 1, "many": None, "medium": 50.0, "few": overall / 2}
        content = {
            "accuracy": accuracy,
            "params": {"trained": 1234},
            "data": {"name": cfg.dataset, "split": "test"},
            "test": {"crops": 5 if cfg.tte else 1},
            "settings": {"backbone": cfg.backbone, "weights": "abc"} | training_options(cfg),
            "seed": cfg.seed,
            "command": f"python main.py {arguments}",
        }
        path = tmp_path / (place or cfg.output_dir) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | changes))
        return path

    return write


def collected(capsys, tmp_path, *arguments, monkeypatch=None):
    """The table of tmp_path/output as {(data, backbone, run, test): the other cells}."""
    assert collect_results.main([str(tmp_path / "output"), *arguments]) == 0
    said = capsys.readouterr()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in said.out.splitlines()[2:]]
    return {tuple(row[:4]): row[4:] for row in rows}, said.err


def test_mean_and_deviation_over_seeds(results, tmp_path, capsys, monkeypatch):
    values = [81.0, 83.5, 82.0]
    for seed, value in enumerate(values):
        results(f"{BASE} lr 0.5 seed {seed}", value)
    older = json.loads(results(f"{BASE} lr 0.5", values[0]).read_text())["settings"]
    del older["classifier_init_images"]  # as if written before there was such a key
    results(f"{BASE} lr 0.5", values[0], settings=older)
    results(f"{BASE} lr 0.25", 40.0)
    results(f"{BASE} lr 0.5 seed 1 test_only True tte True", 84.0, "results_tte.json")
    results(f"{BASE} lr 0.5 test_only True tte True expand 8", 85.0, "results_tte.json", f"{RUN}_lr_0.5/tte_expand_8")
    results(f"{BASE} lr 0.5 test_only True", 86.0, "results_test.json")
    (tmp_path / "output/damaged").mkdir()
    (tmp_path / "output/damaged/results.json").write_text("{")
    rows, said = collected(capsys, tmp_path, "--csv", str(tmp_path / "table.csv"), monkeypatch=monkeypatch)

    place = ("digits_lt", "clip_tiny", "lift+_lr_0.5")
    mean, deviation = sum(values) / 3, statistics.stdev(values)
    assert rows.pop((*place, "1 crop")) == [
        f"{mean:.2f} ± {deviation:.2f}",
        f"{mean - 1:.2f} ± {deviation:.2f}",
        "-",
        "50.00 ± 0.00",
        f"{mean / 2:.2f} ± {deviation / 2:.2f}",
        "1,234",
        "3",
    ]
    assert {key[2:]: (row[0], row[-1]) for key, row in rows.items()} == {
        ("lift+_lr_0.25", "1 crop"): ("40.00", "1"),
        ("lift+_lr_0.5", "5 crops"): ("84.00", "1"),
        ("lift+_lr_0.5", "5 crops, expand 8"): ("85.00", "1"),
        ("lift+_lr_0.5", "1 crop, tested again"): ("86.00", "1"),
    }
    assert said.count("left out") == 1
    assert "damaged/results.json" in said

    with open(tmp_path / "table.csv", newline="") as file:
        table = {(row["run"], row["test"]): row for row in csv.DictReader(file)}
    row = table["lift+_lr_0.5", "1 crop"]
    assert float(row["overall_mean"]) == pytest.approx(mean)
    assert float(row["overall_deviation"]) == pytest.approx(deviation)
    assert (row["n"], row["many_mean"], row["published_overall"]) == ("3", "", "")
    assert table["lift+_lr_0.25", "1 crop"]["overall_deviation"] == ""


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self):
        return True


def test_the_table_fits_a_terminal(results, tmp_path, monkeypatch):
    """Two lines for each row, with the numbers of the Markdown table, which stays for pipes."""
    for seed, value in enumerate((81.0, 83.5)):
        results(f"{BASE} lr 0.5 seed {seed}", value)
    results(f"{BASE} loss_type LDAM", 40.0)
    rows = results_table.collect(tmp_path.rglob("results.json"), tmp_path / "output")
    monkeypatch.setattr("sys.stdout", Screen())
    results_table.show(rows)
    shown = sys.stdout.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for line in results_table.markdown(rows)[2:]:
        data, backbone, run, test, *numbers, trained, n = (cell.strip() for cell in line.strip("| ").split(" | "))
        names = f"{run} ({backbone}; {test})  n = {n}, {trained} trainable\n"
        assert f"{names}{' ' * 5}{''.join(number.rjust(15) for number in numbers)}\n" in shown
        assert shown.splitlines()[0] == data


def test_settings_and_not_names_make_a_row(results, tmp_path, capsys, monkeypatch):
    """Folders named by hand: two seeds of the same settings, another setting, and a seed that was run twice."""
    results(f"{BASE} seed 0", 80.0, place="output/first")
    results(f"{BASE} seed 1", 82.0, place="output/second")
    results(f"{BASE} seed 2 lr 0.5", 60.0, place="output/other_seed_2")
    results(f"{BASE} seed 1", 70.0, place="output/third")
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    assert sorted((key[2], row[0], row[-1]) for key, row in rows.items()) == [
        ("first", "81.00 ± 1.41", "2"),
        ("other", "60.00", "1"),
        ("third", "70.00", "1"),
    ]


SIZES = {"cifar100_ir100": [10847, 10000], "imagenet_lt": [115846, 50000], "inat2018": [437513, 24426]}
PUBLISHED = """
images: {cifar100_ir100: [10847, 10000], imagenet_lt: [115846, 50000], inat2018: [437513, 24426]}
results:
  - {source: first, model: clip_vit_b16_peft, overall: {cifar100_ir100: {1: 77.7, 5: 81.7}, imagenet_lt: {5: 78.3}}}
  - {source: second, backbone: clip_vit_b16, method: lift+, options: {num_epochs: 20}, overall: {inat2018: {1: 79.1}}}
  - {source: third, model: zsclip_vit_b16, overall: {imagenet_lt: {5: 68.3}}}
"""


@pytest.fixture
def published(results, tmp_path, capsys, monkeypatch):
    """published(COMMAND, FILE, ...) -> [published overall, source] of a whole run of PUBLISHED, or two blanks."""
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    monkeypatch.setattr(results_table, "PUBLISHED", tmp_path / "published.yaml")

    def beside(arguments, file="results.json", sizes=None, **changes):
        data = arguments.split()[1]
        train, test = sizes or SIZES[data]
        weights = {"name": "clip:ViT-B-16", "sha256": "abc", "published": True}
        whole = {"weights": weights, "per_class": [{"train": train - 1, "test": test - 2}, {"train": 1, "test": 2}]}
        path = results(arguments, 80.0, file, **(whole | changes))
        rows = results_table.collect([path], tmp_path / "output")
        results_table.show(rows)
        printed = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")]
        assert (rows[0].source in printed) or rows[0].published is None
        return [rows[0].published, rows[0].source]

    return beside


LIFT = "-d cifar100_ir100 -m clip_vit_b16_peft"
NONE = [None, ""]


def test_a_published_value_is_shown_beside_its_settings(published):
    assert published(f"{LIFT} seed 3") == [81.7, "first"]
    assert published(f"{LIFT} prec_train fp16 accum_step 4 deterministic True") == [81.7, "first"]  # HOW_ONLY
    assert published(f"{LIFT} test_only True tte False", "results_test.json") == [77.7, "first"]
    assert published("-d inat2018 -b clip_vit_b16 -m lift+ num_epochs 20") == [79.1, "second"]
    rules = "interpolation bicubic resize shortest"
    assert published(f"-d inat2018 -b clip_vit_b16 -m lift+ num_epochs 20 {rules}") == [79.1, "second"]
    tte = "-d imagenet_lt -m zsclip_vit_b16 test_only True tte True"
    assert published(tte, "results_tte.json") == [68.3, "third"]
    assert published("-d imagenet_lt -m zsclip_vit_b16") == NONE  # no value of one crop


@pytest.mark.parametrize(
    "arguments",
    [
        f"{LIFT} num_epochs 20",
        f"{LIFT} v.adaptformer_dim 64",
        f"{LIFT} lr 0.02",
        f"{LIFT} mean [0.5,0.5,0.5]",
        f"{LIFT} expand 8",
        f"{LIFT} resize squash",
        f"{LIFT} interpolation bicubic",
        "-d inat2018 -b clip_vit_b16 -m lift+ num_epochs 20 interpolation bilinear",
        f"{LIFT} test_only True tte False expand 8",
        "-d cifar100_ir100 -b clip_vit_b16 -m lift+ tte True",
        "-d cifar100_ir100 -b clip_vit_b32 -m lift tte True",
        "-d inat2018 -b clip_vit_b16 -m lift+",
    ],
)
def test_a_published_value_is_not_shown_beside_other_settings(published, arguments):
    assert published(arguments) == NONE


def test_a_published_value_is_not_shown_beside_other_weights_or_images(published):
    def data(**more):
        return {"name": "cifar100_ir100", "split": "test", "fingerprint": {"train": "t", "test": "e"}, **more}

    assert published(LIFT, data=data(trained_on=0)) == [81.7, "first"]
    assert published(LIFT, data=data(trained_on=7)) == NONE
    assert published(LIFT, data=data(list="val")) == NONE
    assert published(LIFT, data=data(split="train")) == NONE
    assert published(LIFT, sizes=[10846, 10000]) == NONE
    assert published(LIFT, sizes=[10847, 9999]) == NONE
    assert published(LIFT, per_class=[]) == NONE
    assert published(LIFT, started_from="output/other") == NONE
    assert published(LIFT, unknown_training=True) == NONE
    assert published(LIFT, other_checkpoint=True) == NONE
    assert published(LIFT, test={"crops": 5, "expand": 24}) == [81.7, "first"]
    assert published(LIFT, test={"crops": 5, "expand": 8}) == NONE
    assert published(LIFT, test={"crops": 5, "expand": 24, "draws": 5}) == NONE
    other = {"name": "open_clip:ViT-B-16/laion2b_s34b_b88k", "published": False}
    assert published(LIFT, weights=other) == NONE
    assert published(LIFT, weights={"name": "mine.pt"}) == NONE


def test_every_published_value_is_shown_beside_its_run(published, monkeypatch):
    """With the values that a trainer sets: the normalisation of the weights, and the pixels of expand."""
    content = yaml.safe_load((ROOT / "scripts/published.yaml").read_text())
    monkeypatch.setattr(results_table, "PUBLISHED", ROOT / "scripts/published.yaml")
    seen = 0
    for entry in content["results"]:
        flags = f"-m {entry['model']}" if "model" in entry else f"-b {entry['backbone']} -m {entry['method']}"
        options = " ".join(f"{key} {value}" for key, value in entry.get("options", {}).items())
        for data, values in entry["overall"].items():
            for crops, value in values.items():
                command = f"-d {data} {flags} {options} {'tte True' if crops > 1 else ''} seed 1"
                cfg = completed(read_command(f"python main.py {command}"), FORMER_VALUES)
                one_crop = {"@384px": 54, "@336px": 48}.get(cfg.backbone[-6:], 32)
                expand = (21 if "l14" in cfg.backbone else 24) if crops > 1 else one_crop
                described = {
                    "mean": [0.1, 0.2, 0.3],
                    "std": [1, 1, 1],
                    "activation": "gelu",
                    "heads": 12,
                    "text_heads": 8,
                }
                name = cfg.weights or "published.pt"
                changes = {
                    "weights": {"name": name, "published": cfg.weights is None},
                    "sizes": content["images"][data],
                    "settings": {"backbone": cfg.backbone, "weights": "abc"} | training_options(cfg) | described,
                    "test": {"crops": crops, "expand": expand, "precision": "bf16"},
                }
                assert published(command, **changes) == [value, entry["source"]], command
                others = {"weights": {"name": "timm:other", "published": cfg.weights is not None}}
                assert published(command, **(changes | others)) == NONE  # even if they are its backbone's defaults
                changes["test"]["expand"] += 1
                assert published(command, **changes) == NONE
                seen += 1
    assert seen > 10


def test_weights_of_older_results_are_recognised_by_their_file(published):
    assert published(LIFT, weights={"name": "ViT-B-16.pt"}) == [81.7, "first"]
    assert published(LIFT, weights={"name": "ViT-B-32.pt"}) == NONE
    assert published(f"{LIFT} weights ViT-B-16.pt", weights={"name": "ViT-B-16.pt"}) == NONE
    assert published(LIFT, weights={}) == NONE


def test_the_table_names_weights_that_are_not_the_published_ones(results, tmp_path, capsys, monkeypatch):
    results(BASE, 80.0, weights={"name": "clip_tiny.safetensors"})
    other = {"name": "open_clip:ViT-B-16/laion2b", "published": False}
    results(f"{BASE} lr 1", 81.0, weights=other)
    rows, _ = collected(capsys, tmp_path, "--csv", str(tmp_path / "table.csv"), monkeypatch=monkeypatch)
    assert {key[1] for key in rows} == {"clip_tiny", "clip_tiny (open_clip:ViT-B-16/laion2b)"}
    with open(tmp_path / "table.csv", newline="") as file:
        assert {row["weights"] for row in csv.DictReader(file)} == {"clip_tiny.safetensors", other["name"]}


def test_the_table_has_the_run_of_an_address_without_it(results, tmp_path, capsys, monkeypatch):
    address = "hf-hub:imageomics/bioclip-2"
    results(f"-d digits_lt -b {address} -m lift+ lr 1", 80.0, weights={"name": address, "published": True})
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    assert set(rows) == {("digits_lt", address, "lift+_lr_1.0", "1 crop")}


def images(test, train="t", split="test", **more):
    return {"data": {"name": "digits_lt", "split": split, "fingerprint": {"train": train, "test": test}, **more}}


def test_results_of_other_images_never_share_a_row(results, tmp_path, capsys, monkeypatch):
    results(BASE, 80.0, **images("aaaaaaaa1"))
    results(f"{BASE} seed 1", 82.0, **images("aaaaaaaa1"))
    results(f"{BASE} seed 2", 60.0, **images("bbbbbbbb2"))  # trained as usual, tested on another list
    results(f"{BASE} test_only True", 80.0, "results_test.json", **images("aaaaaaaa1"))
    results(f"{BASE} test_only True", 50.0, "results_test_val.json", **images("cccccccc3", list="val"))
    results(f"{BASE} seed 1 test_only True", 52.0, "results_test_val.json", **images("dddddddd4", list="val"))
    results(f"{BASE} seed 2 test_only True", 40.0, "results_test.json", **images("eeeeeeee5"))  # an older version's
    results(f"{BASE} lr 1", 30.0, **images("ffffffff6", list="a"))
    results(f"{BASE} lr 1 test_only True", 30.0, "results_test.json", **images("ffffffff6", list="a"))
    fp32 = {"crops": 1, "precision": "fp32"}
    results(f"{BASE} lr 1 test_only True", 31.0, "results_test_fp32.json", test=fp32, **images("ffffffff6", list="a"))
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    assert {key[3]: (row[0], row[-1]) for key, row in rows.items()} == {
        "1 crop, images aaaaaaa1": ("81.00 ± 1.41", "2"),
        "1 crop, images bbbbbbb2": ("60.00", "1"),
        "1 crop, images eeeeeee5": ("40.00", "1"),
        "1 crop, tested again": ("80.00", "1"),
        "1 crop, list a": ("30.00", "1"),
        "1 crop, list a, tested again": ("30.00", "1"),
        "1 crop, list a, tested again in fp32": ("31.00", "1"),
        "1 crop, list val, images ccccccc3": ("50.00", "1"),
        "1 crop, list val, images ddddddd4": ("52.00", "1"),
    }


def test_older_files_compare_images_by_name(results, tmp_path, capsys, monkeypatch):
    """Seeds of older and newer files share a row, unless two contents have the same names."""
    old, new, other = "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa-1111111111111111", "bbbbbbbbbbbbbbbb-2222222222222222"
    results(BASE, 80.0, **images(old))
    results(f"{BASE} seed 1", 82.0, **images(new))
    results(f"{BASE} seed 1 test_only True", 82.0, "results_test.json", **images(new))
    results(f"{BASE} lr 1", 30.0, **images(other))
    results(f"{BASE} lr 1 seed 1", 32.0, **images(other[:-1] + "3"))
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    assert {key[3]: (row[0], row[-1]) for key, row in rows.items()} == {
        "1 crop": ("81.00 ± 1.41", "2"),
        "1 crop, tested again": ("82.00", "1"),
        "1 crop, images 22222222": ("30.00", "1"),
        "1 crop, images 22222223": ("32.00", "1"),
    }


def test_a_test_on_training_images_is_marked(results, tmp_path, capsys, monkeypatch):
    counts = [{"train": 40, "test": 30}, {"train": 20, "test": 20}]
    results(BASE, 80.0, per_class=counts, **images("a", trained_on=0))
    results(f"{BASE} seed 1", 99.0, per_class=counts, **images("a", trained_on=12))
    results(f"{BASE} test_train True", 98.0, "results_train.json", per_class=counts, **images("a", split="train"))
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    assert {key[3]: row[0] for key, row in rows.items()} == {
        "1 crop": "80.00",
        "1 crop, trained on 12 of these 50 images": "99.00",
        "1 crop, train images": "98.00",
    }


def test_other_groups_make_another_row(results, tmp_path, capsys, monkeypatch):
    results(BASE, 80.0, **images("a", groups=[100, 20, "own"]))
    results(f"{BASE} seed 1", 82.0, **images("a", groups=[50, 5, "own"]))
    results(f"{BASE} seed 2", 84.0, **images("a"))  # older
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    assert {key[3]: row[-1] for key, row in rows.items()} == {"1 crop": "2", "1 crop, many above 50, few below 5": "1"}


def test_no_results(tmp_path, capsys, monkeypatch):
    assert collect_results.main([str(tmp_path)]) == 2
    said(capsys.readouterr().err.rstrip())


# ---- parameters ----


@pytest.mark.slow
def test_the_table_of_parameters_is_what_the_command_prints(monkeypatch, capsys):
    assert count_parameters.main([]) == 0
    printed = capsys.readouterr().out
    assert printed == (ROOT / "docs/parameters.md").read_text()
    cells = dict(re.findall(r"^\| (\S+) \| ([\d,]+) \|", printed, re.MULTILINE))
    dim, layers = 768, 12
    expected = {
        "lift+": layers * (2 * dim + dim * 32 + 32 + 32 * dim + dim + 1),  # width 2^floor(log2(1000 / 24)) = 32
        "lora": layers * 4 * dim * 16,
        "pt": layers * dim * 64,
        "bitfit": layers * (2 * dim + 3 * dim + dim + 4 * dim + dim),
        "ssf": layers * 2 * (3 * dim + dim + 4 * dim + dim),
        "coop": 4 * 512,
        "zs": 0,
    }
    assert {name: int(cells[name].replace(",", "")) for name in expected} == expected
    assert set(cells) == set(config_names("method"))
