"""scripts/predict.py and scripts/features.py from the command line: lines, tables, statuses, one clear sentence."""

import csv
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_sentence, execute
from PIL import Image

from trainer import Trainer
from utils.config import load_config
from utils.errors import DataError
from utils.predictions import read_csv

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import features  # noqa: E402
import predict  # noqa: E402

CLASSES = ("one", "three", "two")
KEYS = ["root", "pictures", "num_workers", "0", "num_epochs", "1", "batch_size", "16", "prec_train", "fp32"]
KEYS += ["lr", "0.5", "classifier_init", "class_mean"]


@pytest.fixture(scope="module")
def home(tmp_path_factory, random_clip):
    """A folder with pictures/{train,test}/CLASS/*.png, and run/ that was trained on them."""
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 9)):
        for name in CLASSES:
            (home / "pictures" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), np.uint8)
                Image.fromarray(pixels).save(home / "pictures" / split / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        keys = [*KEYS, "weights", str(random_clip), "output_dir", str(home / "run"), "save_logits", "True"]
        execute(Trainer(load_config("folder", "clip_vit", "lift+", keys)))
    return home


@pytest.fixture
def run(home, capsys, monkeypatch):
    """run(arguments, ..., given=b"", script=predict) -> (exit status, stdout, stderr), in `home`."""
    monkeypatch.chdir(home)
    monkeypatch.delenv("DEBUG", raising=False)

    def run(*arguments, given=b"", script=predict):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        capsys.readouterr()
        try:
            status = script.main([*map(str, arguments), "--num_workers", "0"])
        except SystemExit as exit:  # argparse's
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def table(run, tmp_path):
    """table(arguments, ...) -> the rows of --csv, as dicts; the exit status is checked."""

    def table(*arguments, status=0, **names):
        found, out, _ = run("run", *arguments, "--csv", tmp_path / "found.csv", **names)
        assert (found, out) == (status, "")
        with open(tmp_path / "found.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.DictReader(file))

    return table


# ---- the predictions of the test ----


def test_the_table_has_the_numbers_of_the_test(table, home):
    """Text for text: the folder in the order of the test, and the test's own table as a list of pictures."""
    with open(home / "run/predictions_test.csv", newline="") as file:
        expected = list(csv.DictReader(file))
    same = [name for name in expected[0] if name not in ("label", "class", "label_probability")]
    for pictures in ("pictures/test", "run/predictions_test.csv"):
        rows = table(pictures)
        assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in expected]
        assert list(rows[0]) == [*same, "error"]
        assert {row["error"] for row in rows} == {""}
    assert len(rows) == 27


def test_lines_on_stdout_and_notes_on_stderr(run, home):
    status, out, err = run("run", "pictures/test", "--top", 2)
    found = read_csv(home / "run/predictions_test.csv", CLASSES)
    expected = [
        f"{path}  " + "  ".join(f"{CLASSES[c]} {100 * p:.1f} %" for c, p in zip(classes[:2], ps[:2], strict=True))
        for path, classes, ps in zip(found.paths, found.top_classes, found.top_probabilities.tolist(), strict=True)
    ]
    assert status == 0
    assert out.splitlines() == expected
    assert re.fullmatch(r"27 pictures in [\d.]+ m?s, [\d.,]+ images/s\n", err)


def test_a_threshold_leaves_pictures_to_a_person(run, table, home):
    confidence = read_csv(home / "run/predictions_test.csv", CLASSES).confidence
    threshold = float(np.sort(confidence)[13])  # 13 are below
    rows = table("pictures/test", "--threshold", repr(threshold))
    assert [row["sure"] for row in rows] == [str(int(value >= threshold)) for value in confidence]
    assert sum(row["sure"] == "0" for row in rows) == 13
    assert all(row["predicted_class"] for row in rows)
    status, out, err = run("run", "pictures/test", "--threshold", repr(threshold))
    assert (status, out.count("(unsure)")) == (0, 13)
    assert "13 unsure" in err


def test_ensembling_batches_and_standard_input(table, home):
    plain, crops = table("pictures/test"), table("pictures/test", "--tte")
    assert [row["path"] for row in crops] == [row["path"] for row in plain]
    assert [row["probability_1"] for row in crops] != [row["probability_1"] for row in plain]
    paths = "".join(f"{row['path']}\0" for row in plain[::-1]).encode()
    assert [row["path"] for row in table("-", "--batch_size", 4, given=paths)] == [row["path"] for row in plain[::-1]]


# ---- pictures that cannot be read ----


def test_unreadable_pictures(run, table, home, tmp_path):
    names = [b"cut.png", b"empty.png", b"new\nline.png", b"\xff.png", b"\x1b[31m.png"]
    good = home / "pictures/test/one/0.png"
    folder = os.fsencode(tmp_path / "mixed")
    os.mkdir(folder)
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"" if name == b"empty.png" else good.read_bytes()[: None if name[:1] != b"c" else 200])
    rows = table(tmp_path / "mixed", "nowhere.png", "pictures/test/one/0.png", "--threshold", 0, status=3)
    by_name = {os.fsencode(row["path"]).removeprefix(folder + b"/"): row for row in rows}
    assert set(by_name) == {*names, b"nowhere.png", b"pictures/test/one/0.png"}
    bad = [by_name[name] for name in (b"cut.png", b"empty.png", b"nowhere.png")]
    assert all(row["error"] and not row["predicted_label"] + row["probability_1"] + row["sure"] for row in bad)
    assert by_name[b"nowhere.png"]["error"] == "is missing"
    assert len({row["probability_1"] for row in rows if not row["error"]}) == 1  # of one picture under four names

    status, out, err = run("run", tmp_path / "mixed", "nowhere.png")
    assert status == 3
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out
    assert r"new\nline.png" in out
    assert "not read  nowhere.png: is missing\n" in err
    assert err.splitlines()[-1].endswith("3 not read")


def test_many_missing_pictures(table):
    rows = table("-", status=3, given=b"".join(b"no/%d.png\n" % number for number in range(1000)))
    assert len(rows) == 1000
    assert {row["error"] for row in rows} == {"is missing"}


# ---- refusals ----


@pytest.mark.parametrize(
    "arguments",
    [
        ("nowhere", "pictures"),
        ("pictures", "pictures"),
        ("run/config.yaml", "pictures"),
        ("run", "run"),
        ("run", "-"),
        ("run", "nowhere.txt"),
        ("run", "pictures", "--csv", "nowhere/found.csv"),
        ("run", "pictures", "--csv", "pictures"),
        ("run", "pictures", "--weights", "nowhere.pt"),
        ("run", "pictures", "--device", "abacus"),
    ],
    ids=" ".join,
)
def test_wrong_input(arguments, run):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert_one_sentence(err.splitlines(keepends=True)[-1])


@pytest.mark.parametrize(
    "options",
    [("--top", "0"), ("--threshold", "2"), ("--threshold", "x"), ("--batch_size", "-1"), ("--precision", "int4")],
)
def test_wrong_options(options, run):
    status, out, err = run("run", "pictures", *options)
    assert (status, out) == (2, "")
    assert f"argument {options[0]}" in err.splitlines()[-1]


def test_the_earlier_table_stays_where_a_command_fails(run, tmp_path, monkeypatch):
    (tmp_path / "found.csv").write_text("earlier")

    def fails(*_):
        raise DataError("a process that reads images died", kind="worker_died")

    monkeypatch.setattr("models.extractor.Loader.__iter__", fails)
    status, _, err = run("run", "pictures/test", "--csv", tmp_path / "found.csv")
    assert status == 2
    assert err == "error: a process that reads images died\n"
    assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]
    assert (tmp_path / "found.csv").read_text() == "earlier"


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number, status, home, tmp_path):
    """While the standard input is still open: nothing is written, and no traceback shown."""
    command = [sys.executable, ROOT / "scripts/predict.py", "run", "-", "--csv", tmp_path / "found.csv"]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=home, text=True, preexec_fn=heed, **pipes)
    caught = re.compile(r"^SigCgt:\s*(\w+)", re.M)
    while not int(caught.search(Path(f"/proc/{process.pid}/status").read_text())[1], 16) & 1 << (number - 1):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # Python itself catches SIGINT from its start
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.splitlines()[-1].endswith("no table was written")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


# ---- features ----


def read(path):
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def test_features_of_a_data_set_are_those_of_the_trainer(run, home, tmp_path, random_clip, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("test", "train"):
        chosen = ("--split", split, "root", "pictures", "image_cache", tmp_path / split)
        status, out, err = run("run", "folder", "--out", tmp_path / "f.npz", *chosen, script=features)
        assert (status, out) == (0, "")
        assert list((tmp_path / split).glob("*.pack"))
        found = read(tmp_path / "f.npz")
        keys = [*KEYS, "weights", str(random_clip), "output_dir", str(home / "run"), "test_only", "True"]
        with Trainer(load_config("folder", "clip_vit", "lift+", keys)) as trainer:
            images = trainer.data.split(split)
            assert np.array_equal(found["features"], trainer.features(split)[:, 0])
        assert found["features"].dtype == np.float32
        assert found["labels"].tolist() == images.labels.tolist()
        assert found["labels"].dtype == np.int64
        assert found["paths"].tolist() == images.images.paths
        assert found["classnames"].tolist() == list(CLASSES)
        about = json.loads(str(found["about"]))
        assert (about["run"], about["data"], about["split"]) == ("run", "folder", split)


def test_features_of_pictures_without_labels(run, home, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "list.txt").write_text(f"{home}/pictures/test/two/3.png\n{tmp_path}/bad.png\n")
    run("run", "folder", "--out", tmp_path / "all.npz", "root", "pictures", script=features)
    status, _, err = run("run", tmp_path / "list.txt", "--out", tmp_path / "f.npz", script=features)
    assert status == 3
    assert f"not read  {tmp_path}/bad.png: " in err
    found, expected = read(tmp_path / "f.npz"), read(tmp_path / "all.npz")
    assert found["paths"].tolist() == [f"{home}/pictures/test/two/3.png"]
    assert found["labels"].tolist() == [-1]
    row = expected["paths"].tolist().index("pictures/test/two/3.png")
    assert found["features"][0] == pytest.approx(expected["features"][row], rel=0.05, abs=0.05)  # in bf16


def test_features_of_a_backbone(run, home, tmp_path, random_clip, monkeypatch):
    """A run without training has the same tower; the second command reads them from the cache."""
    from models import features as module

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LEAST_WORK", 1)
    command = ("-b", "clip_vit", "digits_lt", "--out", tmp_path / "f.npz", "--precision", "fp32")
    status, _, err = run(*command, "weights", random_clip, script=features)
    assert (status, "come from" in err) == (0, False)
    found = read(tmp_path / "f.npz")
    keys = [
        "weights",
        str(random_clip),
        "prec_test",
        "fp32",
        "feature_cache",
        "False",
        "output_dir",
        str(tmp_path / "zs"),
    ]
    with Trainer(load_config("digits_lt", "clip_vit", "zs", keys)) as trainer:
        assert np.array_equal(found["features"], trainer.features("test")[:, 0])
        assert found["labels"].tolist() == trainer.data.test.labels.tolist()
    assert found["paths"][:2].tolist() == ["test[0]", "test[1]"]
    status, _, err = run(*command, "--weights", random_clip, script=features)
    assert (status, "come from" in err) == (0, True)
    assert np.array_equal(read(tmp_path / "f.npz")["features"], found["features"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("nowhere", "pictures"),
        ("run", "folder", "root", "nowhere"),
        ("run", "pictures", "lr", "1"),
        ("run", "pictures", "weights", "w.pt"),
        ("run", "digits_lt", "root"),
        ("-b", "clip_tiny", "run"),
    ],
    ids=" ".join,
)
def test_wrong_input_of_features(arguments, run):
    status, out, err = run(*arguments, "--out", "f.npz", script=features)
    assert (status, out) == (2, "")
    assert_one_sentence(err.splitlines(keepends=True)[-1])
    assert not Path("f.npz").exists()


def test_data_is_missing(run):
    status, _, err = run("run", "--out", "f.npz", script=features)
    assert status == 2
    assert "DATA is missing" in err
