"""Tests of other images than a run's own: separate files, warnings about training images, class counts."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import execute, refused
from PIL import Image

from datasets import DATASETS, images, overlap
from datasets.base import DataSet
from datasets.images import ImageList, ImagePaths
from datasets.sets import cifar100_lt, digits_lt
from trainer import Trainer
from utils.config import load_config
from utils.device.precision import cpu_has_int8
from utils.errors import CheckpointError, ConfigError
from utils.run import checkpoint, results
from utils.run.directory import RunDir

pytestmark = pytest.mark.slow

CLASSES = ("bus", "cat", "dog")
TRAIN, TEST = 6, 3  # images of each class


def draw(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    """pictures/train/CLASS/0.png ... and pictures/test/CLASS/0.png ..., all different."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            for i in range(count):
                draw(root / split / name / f"{i}.png", rng)
    return root


@pytest.fixture
def run(random_clip, tmp_path, monkeypatch):
    """run(KEY, VALUE, ...) -> the results of a run on -d folder, in output/run by default."""
    monkeypatch.chdir(tmp_path)

    def run(*options, method="lp", data="folder"):
        keys = ["weights", random_clip, "prec_train", "fp32", "prec_test", "fp32", "num_workers", 0, "num_epochs", 1]
        keys += ["report", "False", "batch_size", 16, "output_dir", "run", "classifier_init", "None", *options]
        if method == "zs":
            del keys[keys.index("classifier_init") : keys.index("classifier_init") + 2]
        cfg = load_config(data, "clip_vit", method, [str(key) for key in keys])
        return execute(Trainer(cfg, f"python main.py {' '.join(map(str, options))}"))

    return run


TESTED = ("test_only", "True")
RUN = Path("output/run")


def write_list(path, images):
    """A list of (path, class)."""
    path.write_text("".join(f"{image},{name}\n" for image, name in images))
    return path


def of(root, split, numbers, names=CLASSES):
    return [(root / split / name / f"{i}.png", name) for name in names for i in numbers]


@pytest.fixture
def lists(pictures, tmp_path):
    """Options of a training list and of three test lists: a and b of other images, c of those of a and b."""
    train = write_list(tmp_path / "train.csv", of(pictures, "train", range(TRAIN)))
    a, b, c = (
        ("root", pictures, "train_list", train, "test_list", write_list(tmp_path / f"{name}.csv", images))
        for name, images in {
            "a": of(pictures, "test", [0]),
            "b": of(pictures, "test", [1, 2]),
            "c": of(pictures, "test", [0, 1, 2]),
        }.items()
    )
    return a, b, c


def names(folder=RUN):
    return {path.name for path in folder.iterdir() if path.suffix in (".json", ".npz", ".txt")}


# ---- files ----


def test_a_test_of_another_list_replaces_nothing(run, lists):
    a, b, c = lists
    saves = ("save_logits", "True")
    run(*a, *saves)
    run(*a, *saves, *TESTED)
    usual = {"results.json", "logits_test.npz", "log.txt", "results_test.json", "log_test.txt"}
    assert names() == usual
    before = {name: (RUN / name).read_bytes() for name in usual}
    for options, number in ((b, 6), (c, 9)):
        name = Path(options[-1]).stem
        tested = run(*options, *saves, *TESTED)
        assert {f"results_test_{name}.json", f"logits_test_{name}.npz", f"log_test_{name}.txt"} < names()
        assert json.loads((RUN / f"results_test_{name}.json").read_text()) == tested
        assert tested["data"]["list"] == name
        assert tested["logits"] == f"logits_test_{name}.npz"
        with np.load(RUN / tested["logits"]) as file:
            assert file["logits"].shape == (number, 3)
            assert str(file["fingerprint"]) == tested["data"]["fingerprint"]["test"]
    assert all((RUN / name).read_bytes() == content for name, content in before.items())
    run(*b, *TESTED, "tte", "True")
    assert "results_tte_b.json" in names()
    run(*b, "test_train", "True")
    assert "results_train.json" in names()  # the training list is that of the run


def test_a_name_that_is_taken_by_another_list_is_refused_before_the_test(run, lists, pictures, monkeypatch):
    a, b, c = lists
    run(*a)
    run(*b, *TESTED)
    write_list(b[-1], of(pictures, "test", [2]))
    kept = (RUN / "results_test_b.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("trainer.build_backbone", lambda cfg: pytest.fail("it begins"))
        with refused(ConfigError, kind="other_images", path=RUN / "results_test_b.json"):
            run(*b, *TESTED)
        with refused(ConfigError, kind="other_images", path=RUN / "results_test_b.json"):
            run(*c, *TESTED, "test_name", "b")
    assert (RUN / "results_test_b.json").read_bytes() == kept
    assert run(*b, *TESTED, "test_name", "../fold 2")["data"]["list"] == "../fold 2"
    assert "results_test_..-fold-2.json" in names()
    run(*a, *TESTED, "test_name", "a")  # a test_name is always part of the names
    assert "results_test_a.json" in names()
    assert "results_test.json" not in names()


def test_without_a_list_the_data_set_or_the_fingerprint_is_the_name(run, pictures, monkeypatch):
    run("root", pictures)
    (pictures / "test/bus/0.png").unlink()
    tested = run("root", pictures, *TESTED)
    name = tested["data"]["fingerprint"]["test"][-8:]
    assert tested["data"]["list"] == name
    assert f"results_test_{name}.json" in names()
    whole = digits_lt.build()
    few = DataSet(
        "digits_lt",
        list(CLASSES),
        *(part.subset(slice(9)).with_labels(part.labels[:9] % 3) for part in (whole.train, whole.test)),
    )
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: few)
    assert run(*TESTED, data="digits_lt")["data"]["list"] == "digits_lt"
    assert "results_test_digits_lt.json" in names()


def test_the_checkpoint_tells_where_there_are_no_results(run, lists):
    a, b, _ = lists
    run(*a)
    (RUN / "results.json").unlink()
    run(*a, *TESTED)
    run(*b, *TESTED)
    assert {"results_test.json", "results_test_b.json"} < names()


@pytest.mark.parametrize("method", ["zs", "lp"])
def test_without_a_training_run_the_first_test_takes_the_plain_names(run, lists, method):
    """Zero-shot CLIP, and a checkpoint of LIFT+ in a separate folder."""
    a, b, _ = lists
    place = ("output_dir", "theirs") if method == "zs" else ("output_dir", None, "model_dir", "theirs")
    if method == "lp":
        run(*a, "classifier", "LinearClassifier")
        tensors, _ = checkpoint.load(RUN / "checkpoint.safetensors")
        Path("theirs").mkdir()
        tuner = {name.replace("head.", "classifier."): tensor for name, tensor in tensors.items()}
        torch.save({"tuner": tuner}, "theirs/checkpoint.pth.tar")
        place += ("classifier", "LinearClassifier")
    folder = Path("output/theirs" if method == "zs" else "theirs")
    for options in (a, b, a):
        tested = run(*options, *TESTED, *place, method=method)
        assert tested["data"].get("trained_on") == (0 if method == "zs" else None)
        assert tested.get("unknown_training") == (None if method == "zs" else True)
    assert {"results_test.json", "results_test_b.json"} < names(folder)
    assert results.read(folder / "results_test.json")["data"]["list"] == "a"  # the list's own name, as usual


def test_zero_shot_clip_leaves_its_earlier_tests_alone(run, lists):
    """Nothing is retrained, so they stay valid; logits of another test are not replaced."""
    a, b, _ = lists
    saves = ("save_logits", "True")
    run(*a, *TESTED, *saves, "expand", 8, method="zs")
    before = {name: (RUN / name).read_bytes() for name in ("results_test.json", "logits_test.npz")}
    assert run(*a, *saves, method="zs")["logits"] == "logits_test_expand_4.npz"
    assert all((RUN / name).read_bytes() == content for name, content in before.items())
    (RUN / "results.json").unlink()
    with refused(ConfigError, kind="other_images", path=RUN / "logits_test.npz"):
        run(*b, *saves, method="zs")


def test_logits_of_another_way_of_testing_stay_apart(run, lists):
    a, saves = lists[0], ("save_logits", "True")
    trained = run(*a, *saves)
    before = (RUN / "logits_test.npz").read_bytes()
    with np.load(RUN / "logits_test.npz") as file:
        about = {key: file[key].item() for key in file.files if key not in ("logits", "labels")}
    assert about == {"fingerprint": trained["data"]["fingerprint"]["test"], **trained["test"]}
    tested = run(*a, *saves, *TESTED, "expand", 8)
    assert tested["logits"] == "logits_test_expand_8.npz"
    assert results.read(RUN / "results_test_expand_8.json") == tested
    assert run(*a, *saves, *TESTED, "prec_test", "bf16")["test"]["precision"] in ("bf16", "fp32")
    in_int8 = run(*a, *saves, *TESTED, "prec_test", "int8")["test"]["precision"]
    assert in_int8 == "int8" if cpu_has_int8() else in_int8 in ("bf16", "fp32")
    plain = run(*a, *TESTED, "expand", 8)
    assert plain["logits"] is None
    assert results.read(RUN / "results_test.json") == plain
    assert "logits_test.npz has the logits of another test" in (RUN / "log_test.txt").read_text()
    again = run(*a, *saves, *TESTED)
    assert again["logits"] == "logits_test.npz"
    assert (RUN / "logits_test.npz").read_bytes() == before
    with np.load(RUN / "logits_test_expand_8.npz") as file:
        assert file["expand"] == 8


def test_logits_of_an_older_version_are_replaced_by_the_same_images_only(run, lists):
    a, saves = lists[0], ("save_logits", "True", *TESTED)
    run(*a)
    for labels in ([0, 1, 2], [2, 1, 0]):
        np.savez(RUN / "logits_test.npz", logits=np.zeros((3, 3), np.float32), labels=np.array(labels))
        if labels == [0, 1, 2]:
            assert run(*a, *saves)["logits"] == "logits_test.npz"
            continue
        with refused(ConfigError, kind="other_images", path=RUN / "logits_test.npz"):
            run(*a, *saves)


def test_a_run_that_is_trained_again_leaves_no_logits_of_the_first(run, lists):
    a, b, _ = lists
    run(*a, "save_logits", "True")
    run(*b, *TESTED, "save_logits", "True")
    run(*a)
    assert not {name for name in names() if name.startswith(("logits", "results_"))}


# ---- tested on training images ----


def trained_on(result):
    return result["data"].get("trained_on")


def log(name="log_test.txt"):
    return (RUN / name).read_text()


@pytest.fixture(params=["contents", "names"])
def known_by(request, monkeypatch):
    """Both ways of identifying an image: small sets, and those with only names recorded."""
    if request.param == "names":
        monkeypatch.setattr(images, "CONTENT_FILES", 0)
    return request.param


def test_a_held_out_run_tested_on_all_its_images(run, pictures, known_by, tmp_path):
    root = pictures / "train"
    trained = run("root", root, "test_fraction", 0.34)
    assert trained_on(trained) == 0
    assert "warning" not in log("log.txt")
    everything = write_list(tmp_path / "all.csv", of(pictures, "train", range(TRAIN)))
    for name in CLASSES:  # a training list has to define the classes; hidden folders are not read
        draw(root / f".more/{name}.png", np.random.default_rng(len(name)))
    one = write_list(tmp_path / "one.csv", [(root / f".more/{name}.png", name) for name in CLASSES])
    for top in (root, pictures):  # and with root one folder higher
        tested = run(
            "root", top, "train_list", one, "test_list", everything, *TESTED, "test_name", f"all{len(top.parts)}"
        )
        assert trained_on(tested) == 3 * 4  # of six images each, two were held out
        said = log(f"log_test_all{len(top.parts)}.txt")
        assert "12 of the 18 test images are training images of this run" in said
        assert f"accuracy on folder (test, list all{len(top.parts)}; 12 of these are training images), %" in said
    assert trained_on(run("root", root, "test_fraction", 0.34, *TESTED)) == 0
    assert trained_on(run("root", root, "test_fraction", 0.34, "test_train", "True")) == 12


def test_a_moved_set_and_another_set_of_the_same_names(run, pictures, known_by, tmp_path):
    """Files with equal names in another folder: moved, or other pictures; names cannot distinguish these."""
    run("root", pictures)
    moved = tmp_path / "elsewhere/moved"
    moved.parent.mkdir()
    shutil.move(pictures, moved)
    assert trained_on(run("root", moved, *TESTED)) == 0
    train = write_list(tmp_path / "a.csv", of(moved, "test", range(TEST)))
    test = write_list(tmp_path / "b.csv", of(moved, "train", [0, 1]))
    assert trained_on(run("root", moved, "train_list", train, "test_list", test, *TESTED)) == 6
    rng = np.random.default_rng(1)
    for path in moved.glob("train/*/*.png"):
        draw(path, rng)
    tested = run("root", moved, "train_list", train, "test_list", test, *TESTED, "test_name", "others")
    assert trained_on(tested) == (0 if known_by == "contents" else 6)


def test_links_hide_no_image(run, pictures, known_by, tmp_path):
    run("root", pictures)
    (tmp_path / "link").symlink_to(pictures)
    (tmp_path / "other/test/bus").mkdir(parents=True)
    (tmp_path / "other/test/bus/x.png").symlink_to(pictures / "train/bus/3.png")
    (tmp_path / "other/test/cat").symlink_to(pictures / "train/cat")
    (tmp_path / "other/test/dog").symlink_to(pictures / "test/dog")
    (tmp_path / "other/train").symlink_to(pictures / "train")
    assert trained_on(run("root", tmp_path / "link", *TESTED)) == 0
    assert trained_on(run("root", tmp_path / "other", *TESTED)) == 1 + TRAIN


def test_a_copy_under_another_name_in_the_runs_own_test_folder(run, pictures):
    shutil.copy(pictures / "train/bus/0.png", pictures / "test/bus/renamed.png")
    assert trained_on(run("root", pictures)) == 1
    assert "1 of the 10 test images are training images of this run" in log("log.txt")
    assert trained_on(run("root", pictures, *TESTED)) == 1


def test_a_thinned_set_was_not_trained_on_what_it_left_out(run, pictures, known_by, tmp_path):
    run("root", pictures, "imbalance", 6)
    train = write_list(tmp_path / "a.csv", of(pictures, "test", [0]))
    test = write_list(tmp_path / "b.csv", of(pictures, "train", range(TRAIN)))
    tested = run("root", pictures, "train_list", train, "test_list", test, *TESTED)
    assert trained_on(tested) == 6 + 2 + 1
    assert tested["accuracy"]["overall"] is not None


@pytest.mark.parametrize("kind", ["copy", "link"])
def test_images_outside_root(run, pictures, known_by, tmp_path, kind):
    """Without a common root, absolute paths are the names."""
    train, test, back = (
        write_list(tmp_path / f"{name}.csv", images)
        for name, images in (
            ("train", of(pictures, "train", range(TRAIN))),
            ("test", of(pictures, "test", range(TEST))),
            ("back", of(pictures, "train", [2])),
        )
    )
    run("root", tmp_path, "outside_root", "True", "train_list", train, "test_list", test)
    assert trained_on(run("root", pictures, "train_list", test, "test_list", back, *TESTED)) == 3
    other = ("root", tmp_path, "outside_root", "True", "train_list", test, "test_list", back, "test_name", "x")
    assert trained_on(run(*other, *TESTED)) == 3


def digits(train=slice(None), test=slice(None), name="digits_lt", swap=False, **more):
    """digits_lt with some of its images; with `swap` the test images are among the training ones."""
    data = digits_lt.build()
    tests = data.train if swap else data.test
    return dataclasses.replace(DataSet(name, data.classnames, data.train.subset(train), tests.subset(test)), **more)


def test_pixels_in_memory(run, monkeypatch):
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: digits(train=slice(0, None, 2)))
    assert trained_on(run(data="digits_lt")) == 0
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: digits(train=slice(0, None, 2), swap=True))
    assert trained_on(run(*TESTED, data="digits_lt")) == 171  # every other one of 342
    with refused(CheckpointError, kind="other_images", path=RUN / "results.json"):
        run(data="digits_lt")
    assert trained_on(run("output_dir", "new", data="digits_lt")) == 171


def test_a_published_set_that_shares_images_with_itself(run, monkeypatch):
    """CIFAR-100 has pictures in both of its lists: not an error of a run, as long as exactly these lists are used."""
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: digits(swap=True, test=slice(0, 50), shares_images=True))
    assert trained_on(run(data="digits_lt")) == 0
    assert trained_on(run(*TESTED, data="digits_lt")) == 0
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: digits(swap=True, shares_images=True))
    assert trained_on(run(*TESTED, data="digits_lt")) == 342


def test_cifar_is_such_a_set(tmp_path, monkeypatch):
    pixels = np.zeros((100 * 500, 2, 2, 3), np.uint8)
    images = ImageList.of_pixels(pixels, np.arange(100).repeat(500))
    monkeypatch.setattr(cifar100_lt, "_load", lambda root, train: (images, [str(c) for c in range(100)]))
    assert cifar100_lt.build("cifar100_ir100", ".").shares_images


def test_what_cannot_be_known_is_left_out(run, pictures, lists, tmp_path):
    """Files against pixels in memory; and a checkpoint of an older version, except for its own training list."""
    a, b, _ = lists
    run(*a)
    path = RUN / "checkpoint.safetensors"
    tensors, about = checkpoint.load(path)
    assert about["data"]["counts"] == [TRAIN] * 3
    checkpoint.save(path, tensors, {key: about[key] for key in ("backbone", "weights", "classes")})
    results = json.loads((RUN / "results.json").read_text())
    (RUN / "results.json").write_text(json.dumps(results | {"checkpoint": None}))  # as an older version writes it
    assert trained_on(run(*b, *TESTED)) == 0
    short = write_list(tmp_path / "short.csv", of(pictures, "train", [0]))
    other = ("root", pictures, "train_list", short, "test_list", a[-1], *TESTED)
    assert trained_on(run(*other)) is None
    files = ImageList.of_paths([str(pictures / "train/bus/0.png")], np.zeros(1, np.int64))
    pixels = ImageList.of_pixels(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64))
    assert overlap.count_shared(files, None, [overlap.record(pixels, None)]) is None
    assert overlap.count_shared(pixels, None, [overlap.record(files, None)]) is None
    assert overlap.count_shared(files, None, [overlap.UNKNOWN, overlap.record(files, None)]) == 1
    assert overlap.count_shared(files, None, [{"kind": "files", "names": 7}]) is None


def test_a_run_that_starts_from_another_inherits_its_images(run, pictures, lists, tmp_path):
    run(*lists[0])
    train, test, back = (
        write_list(tmp_path / f"{name}.csv", images)
        for name, images in (
            ("second", of(pictures, "test", [0, 1])),
            ("others", of(pictures, "test", [2])),
            ("first", of(pictures, "train", [0, 1, 2, 3])),
        )
    )
    second = ("root", pictures, "train_list", train, "output_dir", "second")
    started = run(*second, "model_dir", RUN, "test_list", test)
    assert (trained_on(started), started["started_from"]) == (0, str(RUN))
    tested = run(*second, "test_list", back, *TESTED)
    assert (trained_on(tested), tested["started_from"]) == (12, str(RUN))
    known = checkpoint.load(Path("output/second") / "checkpoint.safetensors")[1]["trained_on"]
    assert known[1:] == checkpoint.load(RUN / "checkpoint.safetensors")[1]["trained_on"]
    (RUN / "checkpoint.safetensors").rename(RUN / "checkpoint.pth.tar")  # of LIFT+: unknown
    assert RunDir(RUN).training_record(RunDir(RUN).find_checkpoint()).images is None


def test_hashes_of_files_see_size_and_blocks(tmp_path):
    """Equal files are equal independent of their names; a byte in any block that is read makes a difference."""
    content = bytearray(np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes())
    images = []

    def add(name, data):
        (tmp_path / name).write_bytes(data)
        images.append(str(tmp_path / name))

    add("first", content)
    for position in (0, 4095, 150_000, 299_999):
        changed = bytearray(content)
        changed[position] ^= 1
        add(f"changed{position}", changed)
    add("longer", content + content[-4096:])
    add("small", content[:100])
    add("empty", b"")
    images.append(str(tmp_path / "missing"))
    hashes = ImagePaths(images).content_hashes
    assert len(set(hashes.tolist())) == len(images)
    shutil.copy(tmp_path / "first", tmp_path / "copy")
    copy = ImagePaths([str(tmp_path / "copy")]).content_hashes
    assert copy[0] == hashes[0]


def test_a_checkpoint_has_no_path_in_it(run, pictures):
    run("root", pictures)
    about = json.dumps(checkpoint.load(RUN / "checkpoint.safetensors")[1])
    assert os.fspath(pictures) not in about
    assert "/" not in about.replace(os.sep, "/")


# ---- class counts ----


def test_shot_groups_are_those_of_the_run(run, monkeypatch):
    """The same test images under another data set's name, whose training set is another."""
    run(data="digits_lt")
    before = results.read(RUN / "results.json")
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: digits(train=slice(0, None, 3), name="digits_short"))
    tested = run(*TESTED, data="digits_lt")
    assert tested["per_class"] == before["per_class"]
    assert tested["accuracy"] == before["accuracy"]
    assert tested["data"]["name"] == "digits_lt"
    assert "results_test.json" in names()
    assert "class counts are those of the tested run: its 342 training images of digits_lt" in log()
    on_train = run("test_train", "True", data="digits_lt")
    assert on_train["data"]["name"] == on_train["data"]["list"] == "digits_short"
    assert [row["train"] for row in on_train["per_class"]] == [row["train"] for row in before["per_class"]]
    assert trained_on(on_train) == sum(row["test"] for row in on_train["per_class"]) == 114
    (RUN / "results.json").unlink()  # the checkpoint has them, too
    assert run(*TESTED, data="digits_lt")["accuracy"] == before["accuracy"]


def test_zero_shot_clip_has_the_groups_of_the_data_set_asked_for(run, monkeypatch):
    """Nothing was trained, so its own counts are irrelevant; the two tests of one list of images stay separate."""
    whole = run(method="zs", data="digits_lt")
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: digits(train=slice(0, None, 3), name="digits_short"))
    tested = run(*TESTED, method="zs", data="digits_lt")
    assert tested["accuracy"]["overall"] == whole["accuracy"]["overall"]
    assert sum(row["train"] for row in tested["per_class"]) == 114
    assert tested["data"]["name"] == "digits_short"
    assert "results_test_digits_short.json" in names()


# ---- other pictures under the same names ----


@pytest.fixture
def same_names(pictures, tmp_path):
    """Another folder with files of the same names, and other pictures."""
    other = tmp_path / "same names"
    shutil.copytree(pictures, other)
    rng = np.random.default_rng(7)
    for path in other.glob("*/*/*.png"):
        draw(path, rng)
    return other


@pytest.fixture(params=["all contents", "a sample"])
def looked_at(request, monkeypatch):
    if request.param == "a sample":
        monkeypatch.setattr(images, "CONTENT_FILES", 0)


def test_other_pictures_of_the_same_names_are_another_list(run, pictures, same_names, looked_at):
    own = run("root", pictures, "save_logits", "True")
    before = (RUN / "logits_test.npz").read_bytes()
    tested = run("root", same_names, *TESTED, "save_logits", "True")
    name = tested["data"]["fingerprint"]["test"][-8:]
    assert tested["data"]["fingerprint"]["test"] != own["data"]["fingerprint"]["test"]
    assert tested["data"]["list"] == name
    assert {f"results_test_{name}.json", f"logits_test_{name}.npz"} <= names()
    assert (RUN / "logits_test.npz").read_bytes() == before
    assert run("root", same_names, "test_train", "True")["data"]["list"]


def test_a_run_is_not_replaced_by_one_on_other_pictures(run, pictures, same_names, looked_at):
    run("root", pictures)
    with refused(CheckpointError, kind="other_identity", path=RUN / "results.json", key="training images"):
        run("root", same_names)


def test_a_moved_copy_is_the_same_list(run, pictures, tmp_path, looked_at):
    own = run("root", pictures)
    shutil.copytree(pictures, tmp_path / "copy")
    assert run("root", tmp_path / "copy", *TESTED)["data"]["fingerprint"] == own["data"]["fingerprint"]
    assert "results_test.json" in names()


def test_files_of_earlier_versions_know_names_alone(run, pictures):
    run("root", pictures)
    content = json.loads((RUN / "results.json").read_text())
    content["data"]["fingerprint"] = {k: v.partition("-")[0] for k, v in content["data"]["fingerprint"].items()}
    content["settings"]["training images"] = content["settings"]["training images"].partition("-")[0]
    (RUN / "results.json").write_text(json.dumps(content))
    run("root", pictures, *TESTED)
    assert "results_test.json" in names()
    run("root", pictures)


# ---- tests in another way ----


def test_a_test_that_resizes_otherwise_stays_apart(run, lists):
    a, saves = lists[0], ("save_logits", "True")
    run(*a, *saves)
    tested = run(*a, *saves, *TESTED, "interpolation", "bilinear")
    assert tested["logits"] == "logits_test_interpolation_bilinear.npz"
    assert tested["test"]["interpolation"] == "bilinear"
    assert (
        "trained with interpolation bicubic; this test uses interpolation bilinear"
        in (RUN / "log_test_interpolation_bilinear.txt").read_text()
    )
    assert tested["settings"]["interpolation"] == "bicubic"  # of its training
    assert run(*a, *saves, *TESTED)["logits"] == "logits_test.npz"


def as_of_an_earlier_version(logits):
    """Removes the rule of resizing from the files of a run."""
    run_dir = RunDir(RUN)
    tensors, about = checkpoint.load(run_dir.checkpoint)
    content = json.loads(run_dir.results().read_text())
    for recorded in (about["training"]["settings"], content["settings"], content["test"]):
        del recorded["resize"]
    content["checkpoint"] = checkpoint.save(run_dir.checkpoint, tensors, about)
    run_dir.results().write_text(json.dumps(content))
    with np.load(RUN / logits) as file:
        arrays = {name: file[name] for name in file.files if name != "resize"}
    np.savez(RUN / logits, **arrays)


def test_a_run_of_an_earlier_version_is_tested_as_it_was(run, lists):
    a, saves = lists[0], ("save_logits", "True")
    run(*a, *saves)
    as_of_an_earlier_version("logits_test.npz")
    assert run(*a, *saves, *TESTED)["logits"] == "logits_test.npz"
    assert "trained with" not in (RUN / "log_test.txt").read_text()
    squashed = run(*a, *saves, *TESTED, "resize", "squash")
    assert squashed["logits"] == "logits_test_resize_squash.npz"
    assert squashed["test"]["resize"] == "squash"
    log = (RUN / "log_test_resize_squash.txt").read_text()
    assert "trained with resize shortest; this test uses resize squash" in log
    run(*a, *saves)  # trained again, it is the same run


def test_the_seed_of_random_crops_is_recorded(run, lists):
    a = lists[0]
    run(*a)
    draws = (*TESTED, "tte", "True", "tte_draws", 2, "save_logits", "True", "model_dir", "output/run")
    first, second = run(*a, *draws), run(*a, *draws, "seed", 1)
    assert (first["test"]["seed"], second["test"]["seed"]) == (0, 1)
    assert {"logits_tte_draws2.npz", "logits_tte_draws2_seed_1.npz"} <= names()


@pytest.mark.parametrize("key, value", [("classifier", "LayerNormClassifier"), ("classifier_scale", 30)])
def test_another_head_on_the_same_tensors_is_refused(key, value, run, lists):
    run(*lists[0])
    with refused(CheckpointError, kind="other_identity", path=RUN / "checkpoint.safetensors", key=key):
        run(*lists[0], *TESTED, key, value)


def test_a_name_that_tells_another_way_of_testing_is_a_lists_name(run, lists):
    run(*lists[0])
    run(*lists[0], *TESTED, "test_name", "expand_8")
    assert "results_test_list_expand_8.json" in names()


def test_a_test_that_computes_otherwise_never_replaces_the_usual_one(run, lists):
    """With logits or without."""
    a = lists[0]
    run(*a)
    usual = run(*a, *TESTED)
    for options, name in (
        (("interpolation", "bilinear"), "results_test_interpolation_bilinear.json"),
        (("resize", "squash"), "results_test_resize_squash.json"),
        (("reducing_gap", 2), "results_test_reducing_gap_2.0.json"),
        (("variant", "lift"), "results_test_variant_lift.json"),
        (("tte", "True", "tte_draws", 2, "seed", 5), "results_tte_draws2_seed_5.json"),
    ):
        run(*a, *TESTED, *options, "model_dir", "output/run")
        assert name in names()
    assert results.read(RUN / "results_test.json") == usual
