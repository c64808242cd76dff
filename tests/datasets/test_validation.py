"""Validation sets: held out by a hash of each image, in lists and folders, and as published."""

import hashlib
import importlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from datasets import build_data, load_data
from datasets.images import ImageList
from datasets.own.splits import hold_out, hold_out_validation
from datasets.sets import digits_lt, imagenet_lt, places_lt, published
from utils.config import load_config
from utils.errors import ConfigError, DataError

CLASSES = ("bus", "cat")


def build(*options, data="folder"):
    return build_data(load_config(data, "clip_tiny", "lift+", [str(option) for option in options]))


# ---- val_fraction ----


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.999])
def test_each_class_loses_its_rounded_share_and_never_its_last_image(fraction):
    counts = [1, 2, 3, 4, 5, 10, 14, 15, 200, 0, 7]
    labels = np.repeat(np.arange(len(counts)), counts)
    images = ImageList.of_paths([f"/data/{c}/{i}.jpg" for i, c in enumerate(labels)], labels)
    train, val = hold_out_validation(images, fraction, "/data")
    assert sorted(train.images.paths + val.images.paths) == sorted(images.images.paths)
    expected = [max(min(int(n * fraction + 0.5), n - 1), 0) for n in counts]
    assert np.bincount(val.labels, minlength=len(counts)).tolist() == expected
    assert np.bincount(train.labels, minlength=len(counts)).tolist() == [
        n - held for n, held in zip(counts, expected, strict=True)
    ]


def test_the_smallest_hashes_are_held_out():
    """Computed by hand: from paths below the root, or the bytes of pixels; independent of the order of the list."""
    labels = np.arange(40) % 2
    paths = [f"/a/b/{i}.jpg" for i in range(40)]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
    hashes = {
        "files": [hashlib.sha256(f"{i}.jpg".encode()).digest() for i in range(40)],
        "pixels": [hashlib.sha256(image.tobytes()).digest() for image in pixels],
    }
    order = np.random.default_rng(1).permutation(40)
    for images in (ImageList.of_paths(paths, labels), ImageList.of_pixels(pixels, labels)):
        of_kind = hashes[images.images.kind]
        wanted = {i for c in (0, 1) for i in sorted(range(c, 40, 2), key=lambda i: of_kind[i])[:5]}  # a quarter of 20
        for indices in (np.arange(40), order):
            _, held = hold_out(images.subset(indices), 0.25, "/a/b")
            found = [i for i in indices.tolist() if i in wanted]  # in the order of the list
            assert held.images.digest(range(10)) == images.subset(found).images.digest(range(10))
            assert held.labels.tolist() == labels[found].tolist()


def test_the_same_images_are_held_out_for_every_seed():
    data, other = (build("val_fraction", 0.1, "seed", seed, data="digits_lt") for seed in (0, 7))
    whole = digits_lt.build()
    assert data.fingerprints() == other.fingerprints()
    assert data.fingerprints().keys() == {"train", "test", "val"}
    assert data.class_counts.tolist() == [112, 72, 46, 30, 19, 13, 8, 4, 3, 2]  # of 124, 80, 51, 33, 21, 14, 9, 5, 3, 2
    assert (len(data.train), len(data.val), len(data.test)) == (309, 33, 500)
    hashes = Counter(whole.train.images.content_hashes.tolist())
    parts = [Counter(part.images.content_hashes.tolist()) for part in (data.train, data.val)]
    assert parts[0] + parts[1] == hashes
    assert data.groups["many"].tolist() == [True] + [False] * 9  # of the images that remain
    assert "309 training, 33 validation (of 8 classes) and 500 test images" in data.summary()
    assert whole.fingerprints().keys() == {"train", "test"}


def test_a_fraction_that_holds_out_nothing_is_refused():
    with refused(DataError, kind="nothing_to_hold_out", key="val_fraction"):
        build("val_fraction", 0.002, data="digits_lt")


@pytest.mark.parametrize("options", [("test_split", "val"), ("val_every", 1)])
def test_without_a_validation_set_its_keys_are_refused(options):
    with refused(DataError, kind="no_validation_set", key="val_fraction"):
        build(*options, data="digits_lt")


def test_a_test_needs_no_validation_set_for_the_options_of_its_training():
    assert build("val_every", 1, "keep", "best", "test_only", "True", data="digits_lt").val is None


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("keep", "best"), "best_without_validation"),
        (("val_list", "v.csv", "val_fraction", "0.1"), "needless_val_fraction"),
        (("test_train", "True", "test_split", "val"), "two_tested_splits"),
        (("tracker", "trackio"), "no_tracker"),
    ],
)
def test_keys_that_do_not_fit_together(options, kind, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(ConfigError, kind=kind):
        load_config("digits_lt", "clip_tiny", "lift+", list(options))


def test_what_decides_the_kept_epoch_enters_the_name():
    def name(*options):
        return Path(load_config("digits_lt", "clip_tiny", "lift+", list(options)).output_dir).name

    usual = "digits_lt_clip_tiny_lift+"
    assert name("val_every", "2", "val_list", "v.csv", "test_split", "val") == usual
    assert name("val_fraction", "0.1") == f"{usual}_val_fraction_0.1"
    found = name("keep", "best", "val_every", "2", "val_list", "lists/v.csv", "keep_score", "few")
    assert found == f"{usual}_keep_best_keep_score_few_val_every_2_val_list_v"


# ---- folders and lists ----


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of each class to train with, two to test and two to validate with: ROOT/SPLIT/CLASS/NUMBER.png."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    for split, count in (("train", 6), ("test", 2), ("val", 2)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def lists(pictures, tmp_path):
    """Options of the three lists."""
    options = []
    for split in ("train", "test", "val"):
        file = tmp_path / f"{split}.csv"
        paths = sorted((pictures / split).rglob("*.png"))
        file.write_text("".join(f"{path.relative_to(pictures)},{path.parent.name}\n" for path in paths))
        options += [f"{split}_list", file]
    return ["root", pictures, *options]


def test_a_folder_val_beside_train_and_test_is_the_validation_set(pictures):
    assert build("root", pictures).val is None  # nothing needs it
    data = build("root", pictures, "val_every", 1)
    assert {Path(path).parts[-3] for path in data.val.images.paths} == {"val"}
    assert (len(data.train), len(data.test), len(data.val)) == (12, 4, 4)
    assert data.val.images.exif_orientation
    assert not build("root", pictures, "val_every", 1, "exif_orientation", "False").val.images.exif_orientation
    with refused(DataError, kind="needless_val_fraction", key="val_fraction"):
        build("root", pictures, "val_fraction", 0.2)


def test_a_folder_val_without_test_is_the_test_set(pictures):
    (pictures / "test").rename(pictures.parent / "elsewhere")
    data = build("root", pictures, "val_fraction", 0.34, "val_every", 1)
    assert {Path(path).parts[-3] for path in data.test.images.paths} == {"val"}
    assert data.class_counts.tolist() == [4, 4]
    assert np.bincount(data.val.labels).tolist() == [2, 2]
    with refused(DataError, kind="no_validation_set", key="val_fraction"):
        build("root", pictures, "val_every", 1)


def test_a_list_of_validation_images(lists, pictures):
    data = build(*lists)
    assert sorted(data.val.images.paths) == [str(path) for path in sorted((pictures / "val").rglob("*.png"))]
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    held = build(*lists[:4], "test_fraction", 0.34, *lists[6:])
    assert (len(held.train), len(held.test), len(held.val)) == (8, 4, 4)
    with refused(DataError, kind="no_train_list", key="val_list"):
        build(*lists[:2], *lists[6:])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_validation_image_in_another_list_is_refused(split, lists, tmp_path):
    line = (tmp_path / f"{split}.csv").read_text().splitlines()[0]
    with open(tmp_path / "val.csv", "a") as file:
        file.write(f"{line}\n")
    with refused(DataError, kind="image_in_both_lists", path=tmp_path / "val.csv", line=5):
        build(*lists)


def test_a_check_reads_validation_pictures_and_bad_ones_are_skipped(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    check_data = importlib.import_module("check_data")
    bad = [pictures / "val/cat/1.png", pictures / "train/bus/0.png"]
    for path in bad:
        path.write_bytes(b"")
    assert check_data.main(["-d", "folder", "root", str(pictures), "num_workers", "0"]) == 1
    listed = (tmp_path / "output/check_folder_pictures/bad_images.txt").read_text()
    assert [line.partition("\t")[0] for line in listed.splitlines()] == ["train/bus/0.png", "val/cat/1.png"]
    options = ("root", pictures, "bad_images", "skip")
    data = build(*options, "val_every", 1)
    assert (len(data.train), len(data.test), len(data.val)) == (11, 4, 3)
    assert "1 training and 0 test and 1 validation images" in data.notes[-1]
    assert (len(build(*options).train), build(*options).val) == (11, None)


# ---- published lists ----


@pytest.mark.parametrize(("module", "folder"), [(imagenet_lt, "n01440764"), (places_lt, "airfield")])
def test_published_lists_are_read_where_they_are_needed(module, folder, tmp_path, monkeypatch):
    rows = {
        "train": [(f"train/{folder}/{i}.jpg", 0) for i in range(8)],
        "test": [(f"val/{folder}/{i}.jpg", 0) for i in range(2)],
        "val": [(f"train/{folder}/{i}.jpg", 0) for i in range(8, 11)],
    }
    for split, of_split in rows.items():
        content = "".join(f"{path} {label}\n" for path, label in of_split).encode()
        (tmp_path / module.LISTS[split].name).write_bytes(content)
        verified = module.LISTS[split]._replace(blob_id=published.blob_id(content))
        monkeypatch.setitem(module.LISTS, split, verified)
        for path, _ in of_split:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    name = module.__name__.rpartition(".")[2]
    read, names = published.read_files, []
    monkeypatch.setattr(published, "read_files", lambda files, root: names.extend(files) or read(files, root))
    data = load_data(name, str(tmp_path), validation=True)
    assert data.val.images.paths == [str(tmp_path / path) for path, _ in rows["val"]]
    assert len(names) == 3
    for options in ({}, {"val_fraction": 0.25}, {"val_fraction": 0.25, "validation": True}):
        names.clear()
        data = load_data(name, str(tmp_path), **options)
        assert (0 if data.val is None else len(data.val)) == (2 if options else 0)
        assert len(names) == 2
