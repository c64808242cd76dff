"""The check of a data set: its findings for photographs damaged one by one, and the effect of bad_images skip."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_one_sentence, is_running, photograph, refused, time_limit
from PIL import Image
from safetensors.torch import load_file

from datasets import build_data, images
from datasets.base import DataSet
from datasets.check import bad_images, check
from datasets.images import ImageList
from utils import config
from utils.errors import DataError
from utils.text import BIDI

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

import check_data  # noqa: E402
import data_report  # noqa: E402

COUNTS = {"zero": 101, "one": 20, "two": 5, "three": 1}  # a class above 100, one at 20, two below
GROUPS = ("medium", "few", "few", "many")  # of one, three, two, zero
draw = data_report.draw
STALLED = "cannot be read within 0.5 seconds (worker_timeout)"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A separate folder for every test, and no figure of the tail unless it is tested, as drawing is slow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBUG", raising=False)
    monkeypatch.setattr(data_report, "draw", lambda data, path: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """What `pictures` is a copy of."""
    root = tmp_path_factory.mktemp("original")
    photos, place = [photograph("china.jpg"), photograph("flower.jpg")], 0
    for split in ("train", "test"):
        for name, count in COUNTS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count if split == "train" else 3):
                place += 1
                part = photos[place % 2][place : place + 40, 2 * place : 2 * place + 50]
                Image.fromarray(part).save(folder / f"{i}.jpg")
    return root


@pytest.fixture
def pictures(original, tmp_path):
    """root: crops of two photographs, all at different positions, in class folders."""
    return shutil.copytree(original, tmp_path / "pictures", copy_function=shutil.copyfile)


@pytest.fixture
def run(capsys):
    """run(options...) -> (exit status, stdout, stderr)."""

    def run(*options, data="folder", workers=0):
        status = check_data.main(["-d", data, *map(str, (*options, "num_workers", workers))])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def damage(root):
    """One image of every kind of trouble; returns {name: a word of the reason}."""
    train, test = root / "train", root / "test"
    (train / "zero/0.jpg").unlink()
    (train / "zero/0.jpg").symlink_to("nowhere.jpg")
    whole = (train / "zero/1.jpg").read_bytes()
    (train / "zero/1.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "one/2.jpg").write_bytes(b"")
    (train / "three/0.jpg").write_text("<!DOCTYPE html><title>404</title>")
    (test / "two/1.jpg").write_bytes(os.urandom(500))
    return {
        "train/zero/0.jpg": "nowhere.jpg",
        "train/zero/1.jpg": "runcated",
        "train/one/2.jpg": "empty",
        "train/three/0.jpg": "web page",
        "test/two/1.jpg": "none of JPEG",
    }


def report(folder="check_folder_pictures"):
    return json.loads((Path("output") / folder / "report.json").read_text())


def listed(folder="check_folder_pictures"):
    return (Path("output") / folder / "bad_images.txt").read_text().splitlines()


def skipping(root, *options):
    """The data of a run with bad_images skip."""
    options = ("root", root, "bad_images", "skip", *options)
    return build_data(config.load_config("folder", "clip_tiny", "lp", [str(option) for option in options]))


# ---- findings ----


def test_good_pictures(run, pictures, monkeypatch):
    monkeypatch.setattr(data_report, "draw", draw)
    status, said, error = run("root", pictures)
    assert (status, error) == (0, "")
    folder = Path("output/check_folder_pictures")
    files = {"report.txt", "report.json", "bad_images.txt", "duplicates.txt", "long_tail.png"}
    assert {path.name for path in folder.iterdir()} == files
    assert listed() == []
    assert (folder / "report.txt").read_text() == (
        f"$ python scripts/check_data.py -d folder root {pictures} num_workers 0\n{said}"
    )
    with Image.open(folder / "long_tail.png") as picture:
        pixels = np.array(picture.convert("RGB"))
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0xC1, 0x27, 0x2D)):
        assert (pixels == colour).all(axis=2).sum() > 1000  # every group has its bars


def test_a_picture_of_many_classes(tmp_path):
    """Some without images, and with names that matplotlib could read as formulas."""
    labels = np.repeat(np.arange(60), np.r_[200:150:-1, [0] * 10])
    train, test = ImageList.of_paths(["a"] * len(labels), labels), ImageList.of_paths([], labels[:0])
    data = DataSet("own", [f"$x_{c}^" for c in range(60)], train, test)
    for few in (data, DataSet("$own", data.classnames[:3], ImageList.of_paths(["a"], np.array([2])), data.test)):
        draw(few, tmp_path / "tail.png")
        with Image.open(tmp_path / "tail.png") as picture:
            assert picture.size == (1500, 750)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_are_named_with_their_reasons(run, pictures, workers):
    bad = damage(pictures)
    status, said, _ = run("root", pictures, workers=workers)
    assert status == 1
    found = dict(line.split("\t") for line in listed())
    assert found.keys() == bad.keys()
    for name, word in bad.items():
        assert word in found[name]
        assert f"{name}: {found[name]}" in said
    kinds = {row["image"]: row["kind"] for row in report()["bad"]}
    assert [name for name, kind in kinds.items() if kind == "missing"] == ["train/zero/0.jpg"]
    assert "missing: 1" in said and "unreadable: 4" in said and "1 class would have no training image" in said


def test_counts_and_groups(run, pictures):
    """Against the numbers of files."""
    damage(pictures)
    run("root", pictures)
    assert report()["classes"] == [
        {"name": name, "train": COUNTS[name], "train_good": COUNTS[name] - lost, "test": 3, "group": group}
        for name, lost, group in zip(sorted(COUNTS), (1, 1, 0, 2), GROUPS, strict=True)
    ]
    _, said, _ = run("root", pictures, "many_threshold", 10, "few_threshold", 2)
    assert [row["group"] for row in report()["classes"]] == ["many", "few", "medium", "many"]
    assert re.search(r"^many +2 +121 +118 +6$", said, re.M)


def test_duplicates(run, pictures):
    copies = {"train/one/90.jpg": "train/zero/5.jpg", "test/two/91.jpg": "train/two/3.jpg"}
    copies |= {"train/zero/92.jpg": "train/zero/7.jpg", "test/one/93.jpg": "test/one/0.jpg"}
    for copy, original in copies.items():
        shutil.copy(pictures / original, pictures / copy)
    status, said, _ = run("root", pictures, workers=2)
    assert status == 1
    found = [{row["image"] for row in equal} for equal in report()["duplicates"]]
    assert sorted(map(sorted, found)) == sorted(sorted(pair) for pair in copies.items())
    assert "in training and in test: 1\n    train/two/3.jpg (two) = test/two/91.jpg (two)" in said
    assert "under two labels: 1\n    train/one/90.jpg (one) = train/zero/5.jpg (zero)" in said
    assert "more than once in one list and class: 2" in said
    blocks = Path("output/check_folder_pictures/duplicates.txt").read_text().strip().split("\n\n")
    assert "train/one/90.jpg\ttrain\tone\ntrain/zero/5.jpg\ttrain\tzero" in blocks
    assert len(blocks) == 4


@pytest.mark.parametrize(("copy", "status"), [("train/one", 0), ("test/one", 1), ("train/two", 1)])
def test_what_kind_of_duplicate_is_wrong(run, pictures, copy, status):
    shutil.copy(pictures / "train/one/0.jpg", pictures / copy / "copy.jpg")
    assert run("root", pictures)[0] == status


def test_small_pictures_are_no_error(run, pictures):
    Image.new("RGB", (31, 99)).save(pictures / "train/two/tiny.png")
    Image.new("RGB", (32, 99)).save(pictures / "train/two/not so tiny.png")
    status, said, _ = run("root", pictures)
    assert status == 0
    assert "small, a side below 32 pixels: 1\n    train/two/tiny.png: 31 x 99" in said
    assert [(row["height"], row["width"]) for row in report()["small"]] == [(99, 31)]


def test_a_picture_that_kills_the_decoder_is_named(pictures, monkeypatch):
    """Every other image of its process is still inspected."""
    decode = images.decode

    def fragile(path, *options):
        if path.endswith("train/one/3.jpg"):
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(path, *options)

    monkeypatch.setattr(images, "decode", fragile)
    data = build_data(config.load_config("folder", "clip_tiny", "lp", ["root", str(pictures)]))
    found = check.check_images(data, processes=2)
    ((image, report),) = found.bad.items()
    assert (found.names[image], report.kind) == ("train/one/3.jpg", "unreadable")
    assert "kills" in report.reason and "SIGKILL" in report.reason
    assert (found.sizes.min(axis=1) == 0).sum() == 1


@pytest.mark.slow
def test_a_picture_that_stalls_its_process_is_named(pictures, monkeypatch):
    """Two of them, in a read that does not return and in a stopped process; all others are inspected."""
    decode = images.decode

    def stalls(path, *options):
        if path.endswith("train/one/3.jpg"):
            time.sleep(600)
        if path.endswith("train/zero/50.jpg"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return decode(path, *options)

    monkeypatch.setattr(images, "decode", stalls)
    data = build_data(config.load_config("folder", "clip_tiny", "lp", ["root", str(pictures)]))
    with time_limit(60):
        found = check.check_images(data, 2, worker_timeout=0.5)
    reasons = {found.names[image]: (report.kind, report.reason) for image, report in found.bad.items()}
    assert reasons == {
        "train/one/3.jpg": ("unreadable", f"{STALLED}; its process was waiting"),
        "train/zero/50.jpg": ("unreadable", f"{STALLED}; its process was stopped"),
    }
    assert all(report.size for report in found.bad.values())
    assert (found.sizes.min(axis=1) == 0).sum() == 2
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_disk_that_does_not_answer_ends_the_check(pictures, monkeypatch):
    """Without a process for each of a million images."""
    monkeypatch.setattr(images, "decode", lambda *_: time.sleep(600))
    data = build_data(config.load_config("folder", "clip_tiny", "lp", ["root", str(pictures)]))
    with time_limit(60), pytest.raises(DataError) as caught:
        check.check_images(data, 2, worker_timeout=0.1)
    assert (caught.value.kind, caught.value.key) == ("worker_stalled", "worker_timeout")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_processes_of_a_check_end_with_it(pictures, monkeypatch):
    """Whatever they are doing when it is killed."""
    data = build_data(config.load_config("folder", "clip_tiny", "lp", ["root", str(pictures)]))
    reader, writer = os.pipe()
    monkeypatch.setattr(images, "decode", lambda *_: (os.write(writer, b"1"), time.sleep(600)))
    check_process = multiprocessing.get_context("fork").Process(target=check.check_images, args=(data, 3))
    check_process.start()
    with time_limit(60):
        os.read(reader, 1)
        children = Path(f"/proc/{check_process.pid}/task/{check_process.pid}/children")
        while len(pids := children.read_text().split()) < 3:
            time.sleep(0.01)
        check_process.kill()
        check_process.join()
        deadline = time.monotonic() + 2
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not any(map(is_running, pids))


def test_a_list_with_missing_files(tmp_path):
    """As for published lists, whose files are not counted."""
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    data = DataSet(
        "own",
        ["x", "y"],
        ImageList.of_paths([f"{tmp_path}/a.png", f"{tmp_path}/b.png"], np.array([0, 1])),
        ImageList.of_paths([f"{tmp_path}/c.png"], np.array([1])),
        str(tmp_path),
    )
    found = check.check_images(data, processes=1)
    assert [(found.names[image], report.kind, report.reason) for image, report in found.bad.items()] == [
        ("b.png", "missing", "is missing"),
        ("c.png", "missing", "is missing"),
    ]
    assert found.good_counts.tolist() == [1, 0]


# ---- pictures of 16 bits ----


def deepen(root, number=4095, kind="png"):
    """Every picture of root with 16 bits, of which those up to `number` are used."""
    for path in sorted(root.glob("*/*/*.jpg")):
        with Image.open(path) as image:
            grey = (np.array(image.convert("L")).astype(int) * (number // 255)).astype(np.uint16)
        grey[0, 0] = number
        Image.fromarray(grey).save(path.with_suffix(f".{kind}"))
        path.unlink()


@pytest.mark.parametrize(("kind", "workers"), [("png", 0), ("tif", 2)])
def test_dark_pictures_of_16_bits_are_noted(run, pictures, kind, workers):
    """They are not an error; with the key named in the note, the note disappears."""
    deepen(pictures, kind=kind)
    status, said, _ = run("root", pictures, workers=workers)
    total = sum(COUNTS.values()) + 12
    assert status == 0 and "add `bit_depth 12` to runs" in said
    assert f"dark, 12 bits are used: {total} pictures of 16 bits, largest number 4,095 where white is 65,535" in said
    assert report()["sixteen_bits"] == {
        "images": total,
        "largest": 4095,
        "used_bits": {"12": total},
        "bit_depth": None,
        "advised_bit_depth": 12,
    }
    status, said, _ = run("root", pictures, "bit_depth", 12)
    assert status == 0 and "dark" not in said and "bit_depth 12` to runs" not in said
    status, said, _ = run("root", pictures, "bit_depth", 11)
    assert f"numbers above 2,047, white with bit_depth 11: in {total} of {total} pictures of 16 bits" in said


def test_a_few_specks_do_not_hide_dark_pictures(run, pictures):
    deepen(pictures)
    path = pictures / "train/zero/0.png"
    with Image.open(path) as image:
        grey = np.array(image)
    grey[1, 1] = 65535
    Image.fromarray(grey).save(path)
    _, said, _ = run("root", pictures)
    assert "with bit_depth 12, numbers above 4,095 are white, in 1 of them" in said
    assert report()["sixteen_bits"]["advised_bit_depth"] == 12


def test_pictures_that_use_all_16_bits_are_not_noted(run, pictures):
    deepen(pictures, 65535)
    _, said, _ = run("root", pictures)
    assert "bit_depth" not in said and report()["sixteen_bits"]["advised_bit_depth"] is None


def test_pictures_of_two_cameras_are_noted(run, pictures):
    deepen(pictures, 65535)
    for path in sorted((pictures / "train").glob("*/*.png")):
        with Image.open(path) as image:
            grey = np.array(image)
        Image.fromarray(grey if len(path.name) % 2 else grey >> 6).save(path)
    _, said, _ = run("root", pictures)
    assert "dark, or of another camera" in said and "to runs of main.py" not in said


@pytest.mark.slow
def test_a_run_takes_the_bit_depth(run, pictures, random_clip):
    """It trains on the brightened pictures, in a separate directory; a test with another one has a longer name."""
    import main

    quick = ["num_epochs", "1", "num_workers", "0", "batch_size", "64", "weights", str(random_clip), "gpu", "-1"]
    command = ["-d", "folder", "-b", "clip_vit", "-m", "lp", "root", str(pictures), *quick]
    bright = Path("bright")
    shutil.copytree(pictures, bright)
    for path in sorted(bright.glob("*/*/*.jpg")):
        with Image.open(path) as image:
            grey = np.array(image.convert("L"))
        Image.fromarray(grey).save(path.with_suffix(".png"))
        deep = np.round(grey / 255 * 4095).astype(np.uint16)  # round(255 v / 4095) is the grey again
        original = pictures / path.relative_to(bright)
        Image.fromarray(deep).save(original.with_suffix(".png"))
        path.unlink()
        original.unlink()
    assert main.main([*command, "bit_depth", "12"]) == 0
    folder = Path("output/folder_clip_vit_lp_bit_depth_12_num_epochs_1_batch_size_64")
    plain = [word if word != str(pictures) else str(bright) for word in command]
    assert main.main([*plain, "output_dir", "plain"]) == 0
    heads = [load_file(path / "checkpoint.safetensors") for path in (folder, Path("output/plain"))]
    assert all(torch.equal(heads[0][name], tensor) for name, tensor in heads[1].items()) and heads[1]
    assert json.loads((folder / "results.json").read_text())["test"]["bit_depth"] == 12
    tests = [*command, "test_only", "True", "model_dir", str(folder)]
    assert main.main(tests) == 0
    assert (folder / "results_test_bit_depth_None.json").exists()


# ---- images in memory ----


def test_digits(run):
    from sklearn.datasets import load_digits

    status, said, _ = run(data="digits_lt")
    assert status == 0
    found = report("check_digits_lt")
    assert [row["train"] for row in found["classes"]] == [int(124 * 0.02 ** (c / 9)) for c in range(10)]
    assert len({image.tobytes() for image in load_digits().images}) == 1797  # no two are equal
    assert found["duplicates"] == []
    assert "small, a side below 32 pixels: all 842" in said


def test_made_up_cifar(run, tmp_path, monkeypatch):
    """The first training image is a test image; the second and the third are equal, of two classes."""
    from types import SimpleNamespace

    def cifar(root, train, download):
        labels = np.arange(300 if train else 50) % 100
        pixels = np.random.default_rng(train).integers(0, 255, (len(labels), 32, 32, 3), np.uint8)
        pixels[0] = 7
        if train:
            pixels[2] = pixels[1]
        return SimpleNamespace(data=pixels, targets=labels.tolist(), classes=[str(c) for c in range(100)])

    monkeypatch.setattr("torchvision.datasets.CIFAR100", cifar)
    status, said, _ = run("root", tmp_path, data="cifar100")
    assert status == 1
    assert "train[0] (0) = test[0] (0)" in said and "train[1] (1) = train[2] (2)" in said
    folder = f"check_cifar100_{tmp_path.name}"
    assert (len(report(folder)["duplicates"]), listed(folder)) == (2, [])
    (Path("output") / folder / "bad_images.txt").write_text("test[0]\ntrain[2]\ttrain\t2\n")
    options = ["root", str(tmp_path), "bad_images", "skip"]
    data = build_data(config.load_config("cifar100", "clip_tiny", "lp", options))
    assert data.train.images.pixels.tobytes() == np.delete(cifar("", True, True).data, 2, axis=0).tobytes()
    assert (len(data.train.labels), len(data.test)) == (299, 49)
    assert data.class_counts[:4].tolist() == [3, 3, 2, 3]


# ---- bad_images skip ----


def test_skip_leaves_out_exactly_what_is_listed(run, pictures):
    bad = damage(pictures)
    run("root", pictures)
    data = skipping(pictures)
    for split in ("train", "test"):
        files = sorted(str(path.relative_to(pictures)) for path in (pictures / split).glob("*/*.jpg"))
        assert bad_images.image_names(data, split) == [name for name in files if name not in bad]
        names = [data.classnames[label] for label in getattr(data, split).labels]
        assert names == [Path(path).parent.name for path in getattr(data, split).images.paths]
    assert data.class_counts.tolist() == [19, 0, 5, 99]
    assert data.groups["medium"].tolist() == [False, False, False, True]  # 20 became 19, and 101 became 99
    note = (
        "output/check_folder_pictures/bad_images.txt: 4 training and 1 test images; no training image is left of three"
    )
    assert note in data.summary()


def test_skip_in_a_run(run, pictures, random_clip):
    """The log lists the left out images; a test without the option finds the training run; stop names the file."""
    import main

    damage(pictures)
    (pictures / "train/three/0.jpg").unlink()
    (pictures / "train/three/1.jpg").write_bytes((pictures / "test/three/0.jpg").read_bytes()[::-1] + b"no image")
    shutil.copy(pictures / "train/zero/9.jpg", pictures / "train/three/2.jpg")
    quick = ["num_epochs", "1", "num_workers", "0", "batch_size", "64", "weights", str(random_clip), "gpu", "-1"]
    command = ["-d", "folder", "-b", "clip_vit", "-m", "lp", "root", str(pictures), *quick]
    assert main.main(command) == 2  # stop
    assert run("root", pictures)[0] == 1
    assert main.main([*command, "bad_images", "skip"]) == 0
    folder = Path("output/folder_clip_vit_lp_num_epochs_1_batch_size_64")
    assert "4 training and 1 test images" in (folder / "log.txt").read_text()
    results = json.loads((folder / "results.json").read_text())
    data = skipping(pictures)
    assert results["data"]["fingerprint"]["train"] == data.train.fingerprint(data.root)
    assert sum(row["test"] for row in results["per_class"]) == 11
    assert main.main([*command, "test_only", "True", "bad_images", "skip"]) == 0
    (pictures / "test/two/1.jpg").unlink()
    assert main.main([*command, "test_only", "True"]) == 0  # the test list is whole again


def test_without_a_report_the_command_is_named(run, pictures):
    with refused(DataError, kind="not_checked", key="bad_images"):
        skipping(pictures)
    os.makedirs("output/check_folder_pictures")
    for damaged in ("[damaged", "[1]", "7", "{}"):
        Path("output/check_folder_pictures/report.json").write_text(damaged)
        with refused(DataError, kind="not_checked", key="bad_images"):
            skipping(pictures)


@pytest.mark.parametrize("change", ["a picture more", "a picture less", "another class"])
def test_a_stale_report_is_refused(run, pictures, change):
    damage(pictures)
    run("root", pictures)
    if change == "a picture more":
        shutil.copy(pictures / "train/one/5.jpg", pictures / "train/two/5.jpg")
    elif change == "a picture less":
        (pictures / "test/one/0.jpg").unlink()
    else:
        (pictures / "train/one/5.jpg").rename(pictures / "train/two/50.jpg")
    with refused(DataError, kind="lists_changed", path="output/check_folder_pictures", key="bad_images"):
        skipping(pictures)
    run("root", pictures)
    skipping(pictures)


@pytest.mark.parametrize("name", ["train/zero/0.jpg", "train/one/2.jpg"])
def test_a_replaced_picture_makes_the_report_stale(run, pictures, name):
    damage(pictures)
    run("root", pictures)
    (pictures / name).unlink()
    shutil.copy(pictures / "test/one/0.jpg", pictures / name)
    with refused(DataError, kind="image_changed", path=name, key="bad_images"):
        skipping(pictures)


def test_the_list_may_be_edited_by_hand(run, pictures):
    run("root", pictures)
    path = Path("output/check_folder_pictures/bad_images.txt")
    path.write_text("test/zero/0.jpg\n\ntrain/two/1.jpg\ttrain\ttwo\n")
    data = skipping(pictures)
    assert (len(data.train), len(data.test)) == (sum(COUNTS.values()) - 1, 11)
    path.write_text("train/two/1.jpeg\n")
    with refused(DataError, kind="unknown_bad_image", path=path, key="bad_images"):
        skipping(pictures)
    path.write_text("".join(f"{name}\n" for name in bad_images.image_names(data, "test")) + "test/zero/0.jpg\n")
    with refused(DataError, kind="no_image_left", path=path, key="bad_images"):
        skipping(pictures)
    path.unlink()
    with refused(DataError, kind="unreadable_file", path=path, key="bad_images"):
        skipping(pictures)


def test_a_moved_folder_keeps_its_report(run, pictures, tmp_path):
    damage(pictures)
    run("root", pictures)
    pictures.rename(tmp_path / "elsewhere")
    assert len(skipping(tmp_path / "elsewhere").train) == sum(COUNTS.values()) - 4


def test_two_folders_do_not_overwrite_each_other(run, pictures, tmp_path):
    other = tmp_path / "other/pictures"
    shutil.copytree(pictures, other)
    (other / "train/one/0.jpg").unlink()
    for root in (pictures, other, pictures, other):
        run("root", root)
    assert sorted(os.listdir("output")) == ["check_folder_pictures", "check_folder_pictures-2"]
    assert report()["checked"]["root"] == str(pictures)
    assert report("check_folder_pictures-2")["images"]["train"] == report()["images"]["train"] - 1


# ---- the command line ----


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("nonsense", ()),
        ("folder", ()),
        ("folder", ("root", "nowhere")),
        ("folder", ("root",)),
        ("folder", ("rooot", "x")),
        ("folder", ("root", "x", "lr", "1")),
        ("folder", ("root", "x", "bad_images", "skip")),
    ],
    ids=lambda words: words if isinstance(words, str) else " ".join(words),
)
def test_wrong_input(data, options, capsys):
    assert check_data.main(["-d", data, *options]) == 2
    assert_one_sentence(capsys.readouterr().err)
    assert not Path("output").exists()


def test_a_failure_of_ours_is_no_finding(run, pictures, monkeypatch):
    monkeypatch.setattr("run_check.check_images", lambda *_: 1 / 0)
    status, _, error = run("root", pictures)
    assert (status, error) == (3, "failed: ZeroDivisionError: division by zero (DEBUG=1 shows the traceback)\n")
    assert not Path("output/check_folder_pictures/report.json").exists()
    Path("output/check_folder_pictures").rmdir()
    Path("output").rmdir()
    Path("output").write_text("in the way")
    status, _, error = run("root", pictures)
    assert status == 2
    assert_one_sentence(error)


def test_names_that_are_no_text(run, pictures):
    """A file name of bytes that are not UTF-8 comes through all files and back."""
    name = os.fsdecode(b"train/one/caf\xe9.jpg")
    (pictures / name).write_bytes(b"")
    status, said, _ = run("root", pictures)
    assert status == 1 and r"caf\xe9.jpg: the file is empty" in said
    assert len(skipping(pictures).train) == sum(COUNTS.values())


def test_the_same_folder_for_all_who_know_it():
    assert bad_images.OUTPUT == config.OUTPUT


ODD = [
    *(
        "new\nline",
        "tab\tin it",
        "cr\rname",
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "photo\u202egpj",
        "l\u2028p\u2029",
    ),
    *(
        '"quoted"',
        '"',
        "back\\slash",
        "\\x1b",
        " spaces ",
        "\ufeffmark",
        "nel\x85",
        "u2066\u2066",
        os.fsdecode(b"\xff\xfe"),
        "#",
    ),
    *("חתול", "кот", "emoji 👩\u200d🔬", "%s{0}$(x)"),
]


def test_odd_names_come_back_and_harm_no_line(run, pictures):
    """Through bad_images.txt and bad_images skip, and through a copy from duplicates.txt."""
    names = [f"train/one/{name}.jpg" for name in ODD]
    for name in names:
        (pictures / name).write_bytes(b"")
    shutil.copy(pictures / "test/two/0.jpg", pictures / "train/two/leak\n\u202e.jpg")
    status, said, _ = run("root", pictures)
    assert status == 1
    folder = Path("output/check_folder_pictures")
    for text in (said, *(path.read_text() for path in folder.glob("*.txt"))):  # UTF-8
        assert not {sign for sign in text if sign in BIDI or not (sign.isprintable() or sign in "\n\t\u200d\ufeff")}
    assert len((folder / "bad_images.txt").read_text().splitlines()) == len(ODD)
    assert len((folder / "duplicates.txt").read_text().splitlines()) == 3
    assert bad_images._read_names(folder / "bad_images.txt", "") == set(names)
    with open(folder / "bad_images.txt", "a") as file:
        file.write((folder / "duplicates.txt").read_text().split("\n")[0] + "\n")
    assert len(skipping(pictures).train) == sum(COUNTS.values())


@pytest.mark.parametrize(
    "line", ['"a".jpg', '"a.jpg', 'b "c".jpg\treason', "\\n.jpg", "d.jpg\t", '"', "e.jpg\tone\ttwo"]
)
def test_lines_of_older_reports_are_names_as_they_are(line):
    assert bad_images.unquoted(line) == line.split("\t")[0]


@pytest.mark.parametrize(
    "name", [*ODD, "".join(map(chr, range(1, 300))), '"\ud800"', '"a"\t"b"'], ids=map(str, range(99))
)
def test_quoting_is_exact(name):
    """With any control character."""
    line = bad_images.quoted(name)
    assert bad_images.unquoted(f"{line}\treason") == name
    assert line.isprintable() or line == name
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    "names",
    [["עברית", "العربية"], ["日本語", "한국어"], ["$x_{^", "\\frac{"], ["👩\u200d🔬", "e\u0301"], ["x" * 5000, "%d"]],
)
def test_a_picture_with_odd_names(names, tmp_path, monkeypatch):
    """Missing fonts are not searched elsewhere."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: 1 / 0)
    data = DataSet(
        "own",
        names,
        ImageList.of_paths(["a", "b", "c"], np.array([0, 1, 1])),
        ImageList.of_paths([], np.array([], int)),
    )
    draw(data, tmp_path / "tail.png")
    with Image.open(tmp_path / "tail.png") as picture:
        assert picture.size == (1500, 750)
