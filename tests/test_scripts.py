"""The experiment scripts: what they would run, what they skip, what they say; and the tables made of results."""

import csv
import importlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import main as cli
from utils.config import config_names, load_config, training_options
from utils.schema import KEYS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
collect_results, count_parameters, run_all = map(
    importlib.import_module, ("collect_results", "count_parameters", "run_all")
)
SCRIPTS = sorted((ROOT / "scripts").glob("run_*.sh"))
GROUPS = (
    "main ablation backbones methods aft_ratios partial_ft widths classifiers inits losses epochs mda tte_expand "
    "zero_shot pel digits "
    "lift_main lift_ablation lift_methods lift_inits lift_train_accuracy lift_ensembling lift_prompts lift_epochs "
    "lift_classifiers lift_losses lift_backbones lift_zero_shot lift_mask_ratios lift_widths lift_partial lift_expand"
)
EVERY_ROOT = [f"--root={data}=/images" for data in ("imagenet_lt", "places_lt", "inat2018")]


def call(name, *arguments, cwd=ROOT, lines=None):
    """A script, or the helper with `lines` as a script's output."""
    command = [sys.executable, ROOT / "scripts/run_all.py"] if lines is not None else [ROOT / f"scripts/run_{name}.sh"]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], input=lines, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


def read_command(line):
    """A printed command -> its configuration; raises what main.py would refuse."""
    program, script, *arguments = shlex.split(line, comments=True)
    assert (program, script) == ("python", "main.py")
    args = cli.parse(arguments)
    return load_config(args.data, args.backbone, args.method, args.options)


@pytest.fixture(scope="module")
def dry_runs():
    """The lines that every script prints, by its name."""
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda path: call(path.stem.removeprefix("run_"), "--dry-run"), SCRIPTS)
    printed = dict(zip([path.stem.removeprefix("run_") for path in SCRIPTS], results, strict=True))
    for name, result in printed.items():
        assert (result.returncode, result.stderr) == (0, ""), name
    return {name: result.stdout.splitlines() for name, result in printed.items()}


# ---- what would run ----


def test_every_group_has_its_script(dry_runs):
    assert set(dry_runs) == set(GROUPS.split())
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        assert os.access(path, os.X_OK)
        assert f"scripts/{path.name}" in path.read_text()
        assert "run_all.py" in lines[-1]


@pytest.mark.parametrize("name", GROUPS.split())
def test_main_accepts_every_command(dry_runs, name):
    """Each in a results file of its own; a test comes after the run that it tests, and finds its checkpoint."""
    seen = set()
    for line in dry_runs[name]:
        cfg = read_command(line)
        file = run_all.results_file(cfg)
        assert file not in seen, line
        seen.add(file)
        if cfg.test_only and not cfg.zero_shot:
            assert Path(cfg.model_dir or cfg.output_dir) / "results.json" in seen, line
    assert len(seen) > 5


def test_the_digits_have_every_method_and_loss(dry_runs):
    """The papers' grids: tests/test_grids.py."""
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


def test_only_and_what_is_added_to_all():
    only = "places.*(CE|LADE)(?!.*test_only)"
    out = call("losses", "--dry-run", "--only", only, "lr", "1", "--seeds", "2", "num_epochs", "3")
    assert out.stdout.splitlines() == [
        f"python main.py -d places_lt -b clip_vit_b16 -m lift+ loss_type {loss} lr 1 num_epochs 3{seed}"
        for loss in ("CE", "LADE")
        for seed in ("", " seed 1")
    ]
    out = call("losses", "--dry-run", "-d", "digits_lt", "-b", "clip_tiny")  # three data sets become one
    assert len(out.stdout.splitlines()) == 2 * 7
    out = call("losses", "--more", "--dry-run", "--only", "cifar")
    assert len(out.stdout.splitlines()) == 2 * 8
    out = call("main", "--dry-run", "--only", "places", "--root", "places_lt=/my pictures")
    assert [read_command(line).root for line in out.stdout.splitlines()] == ["/my pictures"] * 4


def test_wrong_input_is_said_before_anything_runs(tmp_path):
    for arguments, lines, part in (
        (["lrr", "1"], "-d digits_lt -b clip_tiny -m lift+", "did you mean 'lr'"),
        ([], "-d digits_lt -b clip_tiny -m lift+\n-d digits_lt -b clip_big -m lift+", "unknown backbone 'clip_big'"),
        (["--only", "nothing"], "-d digits_lt -b clip_tiny -m lift+", "no command matches --only 'nothing'"),
        ([], "-d imagenet_lt -b clip_vit_b16 -m lift+", "--root imagenet_lt=FOLDER"),
        (["output_dir", "x"], "-d digits_lt -b clip_tiny -m lift+", "output_dir"),
        (["--root", "imagenet_lt"], "-d digits_lt -b clip_tiny -m lift+", "DATA=FOLDER"),
        (["--jobs", "0"], "-d digits_lt -b clip_tiny -m lift+", "at least 1"),
        ([], "-d digits_lt -b clip_tiny -m zs\n-d digits_lt -b clip_tiny -m zs tte True", "two runs would write"),
    ):
        result = call("", *arguments, lines=lines, cwd=tmp_path)
        assert result.returncode == 2, arguments
        assert part in result.stderr
        assert "Traceback" not in result.stderr
        assert not list(tmp_path.iterdir())


def test_the_helper_knows_the_trainers_files():
    from trainer import Trainer

    for options, name in (
        (("tte", "True"), "results.json"),
        (("test_only", "True"), "results_test.json"),
        (("test_only", "True", "tte", "True"), "results_tte.json"),
        (("test_only", "True", "tte", "True", "tte_crops", "10"), "results_tte10.json"),
        (("test_train", "True"), "results_train.json"),
        (("test_train", "True", "tte", "True"), "results_train_tte.json"),
    ):
        cfg = load_config("digits_lt", "clip_tiny", "lift+", list(options))
        assert run_all.results_file(cfg) == Path("output/digits_lt_clip_tiny_lift+") / name
        trainer = Trainer(cfg)
        assert name == (f"results_{trainer.what}.json" if trainer.testing else "results.json")


# ---- running ----

FAKE_MAIN = """
import json, os, sys, time
from pathlib import Path

sys.path.insert(0, {scripts!r})
from run_all import results_file  # which finds the other modules
from main import parse
from utils.config import load_config

args = parse(sys.argv[1:])
cfg = load_config(args.data, args.backbone, args.method, args.options)
with open("order.txt", "a") as file:
    print(results_file(cfg), file=file)
if cfg.lr == 13:
    print("error: 13 is no lucky lr", file=sys.stderr)
    sys.exit(2)
if cfg.lr == 14:
    Path("started").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        Path("stopped").touch()
        sys.exit(130)
results_file(cfg).write_text("no JSON")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """run_all of a project whose main.py only says that it ran; returns a way to call it."""
    (tmp_path / "main.py").write_text(FAKE_MAIN.format(scripts=str(ROOT / "scripts")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_all, "ROOT", tmp_path)

    def run(lines, *arguments):
        monkeypatch.setattr("sys.argv", ["run_all.py", *arguments])
        monkeypatch.setattr("sys.stdin", open_lines(lines))
        return run_all.main()

    def open_lines(lines):
        (tmp_path / "lines").write_text("\n".join(lines))
        return open("lines")  # noqa: SIM115 (stands for the standard input)

    return run


def ran():
    return Path("order.txt").read_text().splitlines() if Path("order.txt").exists() else []


BASE = "-d digits_lt -b clip_tiny -m lift+"
RUN = "output/digits_lt_clip_tiny_lift+"


def test_what_is_done_is_skipped_and_a_failure_stops_nothing(fake, capsys):
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
        "    error: 13 is no lucky lr",
        "  python main.py -d digits_lt -b clip_tiny -m lift+ lr 13 test_only True",
        "    its training run failed",
    ]
    assert "13 is no lucky lr" in Path(RUN + "_lr_13.0/terminal.txt").read_text()

    assert fake(lines[:1] + lines[3:]) == 0
    assert len(ran()) == 2  # nothing more to do
    capsys.readouterr()
    assert fake(lines, "--dry-run") == 0
    assert [line.endswith("# done") for line in capsys.readouterr().out.splitlines()] == [True, False, False, True]


def test_tests_wait_for_their_training(fake):
    lines = [BASE, *(f"{BASE} test_only True tte {tte} expand 4" for tte in (True, False)), f"{BASE} seed 1"]
    assert fake(lines, "--jobs", "4") == 0
    order = ran()
    assert sorted(order) == sorted(
        [f"{RUN}/results.json", f"{RUN}_seed_1/results.json"]
        + [f"{RUN}/{what}_expand_4/results_{what}.json" for what in ("test", "tte")]
    )
    assert set(order[:2]) == {f"{RUN}/results.json", f"{RUN}_seed_1/results.json"}
    Path(f"{RUN}/results.json").unlink()  # trained anew, so tested anew
    assert fake(lines) == 0
    assert len(ran()) == 7


def test_ctrl_c_ends_what_was_started(tmp_path):
    (tmp_path / "main.py").write_text(FAKE_MAIN.format(scripts=str(ROOT / "scripts")))
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import run_all; "
        "run_all.ROOT = Path.cwd(); sys.exit(run_all.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    process.stdin.write(f"{BASE} lr 14\n{BASE} lr 1\n")
    process.stdin.close()
    for _ in range(600):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    process.terminate()  # taken as Ctrl-C is
    assert process.wait(30) == 130
    assert "stopped" in process.stderr.read()
    process.stderr.close()
    assert (tmp_path / "stopped").exists()
    assert (tmp_path / "order.txt").read_text().splitlines() == [RUN + "_lr_14.0/results.json"]


# ---- tables ----


@pytest.fixture
def results(tmp_path):
    """results(COMMAND OPTIONS, overall accuracy, ...) writes a results file as the trainer does."""

    def write(arguments, overall, file="results.json", place=None, **changes):
        args = cli.parse(arguments.split())
        cfg = load_config(args.data, args.backbone, args.method, args.options)
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
    monkeypatch.setattr("sys.argv", ["collect_results.py", str(tmp_path / "output"), *arguments])
    assert collect_results.main() == 0
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


def test_published_values_stand_beside_what_they_are_of(results, tmp_path, capsys, monkeypatch):
    lift = "-d cifar100_ir100 -b clip_vit_b16 -m lift"
    for arguments, file, value in (
        (f"{lift} prec_train fp16 accum_step 4", "results.json", 80.0),
        ("-d cifar100_ir100 -m clip_vit_b16_peft seed 3", "results.json", 81.0),
        (f"{lift} num_epochs 20", "results.json", 10.0),
        (f"{lift} v.adaptformer_dim 64", "results.json", 11.0),
        (f"{lift}+", "results.json", 12.0),
        (f"{lift} test_only True tte True expand 8", "results_tte.json", 13.0),
        ("-d cifar100_ir100 -b clip_vit_b32 -m lift", "results.json", 14.0),
        ("-d inat2018 -b clip_vit_b16 -m lift", "results.json", 15.0),
        ("-d inat2018 -b clip_vit_b16 -m lift num_epochs 20", "results.json", 79.0),
        ("-d imagenet_lt -b clip_vit_b16 -m zs", "results.json", 16.0),
        ("-d imagenet_lt -m zsclip_vit_b16 test_only True tte True", "results_tte.json", 68.0),
    ):
        results(arguments, value, file)
    rows, _ = collected(capsys, tmp_path, monkeypatch=monkeypatch)
    beside = {float(row[0].split()[0]): row[7:] for row in rows.values()}
    source = "LIFT, arXiv 2309.10019"
    assert {value: cells for value, cells in beside.items() if value > 20} == {
        80.0: ["80.3", source],
        81.0: ["81.7", source],
        79.0: ["79.1", source],
        68.0: ["68.3", source],
    }
    assert all(not any(cells) for value, cells in beside.items() if value < 20)


def test_no_results(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["collect_results.py", str(tmp_path)])
    assert collect_results.main() == 2
    assert "train something first" in capsys.readouterr().err


# ---- parameters ----


def test_the_table_of_parameters_is_what_the_command_prints(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["count_parameters.py"])
    assert count_parameters.main() == 0
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
