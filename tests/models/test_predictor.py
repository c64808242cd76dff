"""A run's model for new pictures: the predictions of its test, bit for bit, even if the run or its data have moved."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import FULL
from helpers import GIVEN, execute, open_clip_resnet, refused, weights_of
from PIL import Image
from safetensors.torch import save_file

from datasets.images import ImagePaths
from models import load_run
from trainer import Trainer
from utils.config import load_config
from utils.errors import CheckpointError, ConfigError, DataError, ModelError
from utils.predictions import read_csv
from utils.run import checkpoint
from utils.run.directory import RunDir
from utils.run.saved import read_run

CLASSES = ("one", "three", "two", "zero")
TRAIN, TEST = 3, 33  # pictures of each class: a test has a batch of 128 and one of 4


@pytest.fixture(scope="module")
def home(tmp_path_factory, random_clip):
    """A folder with pictures/train/CLASS/*, pictures/test/CLASS/*, and weights/clip.pt."""
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            folder = home / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
                small.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg")
    (home / "weights").mkdir()
    for file in random_clip.parent.iterdir():  # the description is in the folder of the weights
        shutil.copy(file, home / "weights" / file.name)
    return home


@pytest.fixture
def run(home, tmp_path, monkeypatch):
    """run(KEY, VALUE, ..., method=) -> the directory of a run of one epoch, whose data and weights are in `home`."""
    return lambda *options, **names: train_in(home, tmp_path / "run", *options, **names)


def train_in(home, directory, *options, method="lift+", backbone="clip_vit", weights="weights/random_clip.pt"):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        keys = ["root", "pictures", "weights", weights, "num_workers", 0, "num_epochs", 1, "batch_size", 16]
        keys += ["prec_train", "fp32", "output_dir", directory, *options]
        execute(Trainer(load_config("folder", backbone, method, [str(key) for key in keys])))
    return directory


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    """The directory of a run that no test changes."""
    return train_in(home, tmp_path_factory.mktemp("trained") / "run", "lr", 0.5)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of that run on another path."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def pictures_of(home):
    return sorted(map(str, (home / "pictures/test").rglob("*.jpg")))


def assert_same(found, directory, suffix="test"):
    """Predictions equal those of the run's own test, to the last bit."""
    expected = read_csv(directory / f"predictions_{suffix}.csv", CLASSES)
    assert [Path(one.path).relative_to(Path(one.path).parents[3]) for one in found] == [*map(Path, expected.paths)]
    assert [one.label for one in found] == expected.predicted.tolist()
    classes = [[CLASSES.index(ranked.classname) for ranked in one.top] for one in found]
    assert classes == expected.top_classes.tolist()
    probabilities = np.array([[ranked.probability for ranked in one.top] for one in found], np.float32)
    assert np.array_equal(probabilities, expected.top_probabilities)
    assert [one.probability for one in found] == [one.top[0].probability for one in found]
    assert len({one.label for one in found}) > 1 or len(np.unique(probabilities)) > 10


# ---- the predictions of the test ----


CLASS_MEAN = ("classifier_init", "class_mean", "classifier", "LinearClassifier")
LIFT = ("variant", "lift", "classifier", "LayerNormClassifier")
CROPS = ("expand", 8, "reducing_gap", 1, "interpolation", "bilinear", "resize", "squash")
EXIF = ("exif_orientation", "False", "bit_depth", 12, "prec_test", "fp32")
AFT = ("v.aft_ratio", 0.01)
RUNS = {  # each kind of head, method, crop and precision is in one of them; a method's crops do not depend on it
    "zs, other crops": ("zs", CROPS),
    "lp, exif": ("lp", EXIF),
    "coop": ("coop", ()),
    "lora, class_mean": ("lora", CLASS_MEAN),
    "aft, lift": ("aft", (*AFT, *LIFT)),
}
if FULL:
    RUNS |= {"zs": ("zs", ()), "lp": ("lp", ()), "lora": ("lora", ()), "aft": ("aft", AFT)}
    RUNS |= {"class_mean": ("lift+", CLASS_MEAN), "lift": ("lift+", LIFT)}
    RUNS |= {"other crops": ("lift+", CROPS), "exif": ("lift+", EXIF)}


@pytest.mark.parametrize("name", RUNS)
def test_predictions_are_those_of_the_test(name, run, home):
    method, options = RUNS[name]
    directory = run("lr", 0.5, *options, method=method)
    assert_same(load_run(directory).predict(pictures_of(home)), directory)


def test_predictions_of_a_resnet(run, home):
    file = home / "resnet/resnet.safetensors"
    file.parent.mkdir()
    save_file(weights_of(open_clip_resnet()), file)
    given = GIVEN["clip_rn"]
    options = ("activation", given.activation, "mean", "half")
    directory = run(*options, method="lp", backbone="clip_rn", weights=file)
    assert_same(load_run(directory).predict(pictures_of(home)), directory)


def test_ensembling_is_that_of_the_test(trained, copy, home):
    train_in(home, copy, "lr", 0.5, "test_only", "True", "tte", "True")
    assert_same(load_run(copy).with_ensembling().predict(pictures_of(home)), copy, "tte")
    assert_same(load_run(copy).predict(pictures_of(home)), copy)


def test_ensembling_takes_the_options_of_the_run(run, home):
    directory = run("lr", 0.5, "tte", "True", "tte_crops", 10, "expand", 8)
    assert_same(load_run(directory).with_ensembling().predict(pictures_of(home)), directory, "tte10")


def test_logits_and_features_are_those_of_the_trainer(copy, home, monkeypatch):
    monkeypatch.chdir(home)
    keys = ["root", "pictures", "weights", "weights/random_clip.pt", "num_workers", "0", "num_epochs", "1"]
    keys += ["batch_size", "16", "prec_train", "fp32", "lr", "0.5", "output_dir", str(copy), "test_only", "True"]
    model = load_run(copy)
    images = ImagePaths(pictures_of(home), exif_orientation=True)
    counts = []
    with Trainer(load_config("folder", "clip_vit", "lift+", keys)) as trainer:
        assert np.array_equal(model.logits(images, counts.append), trainer.predict("test"))
        assert np.array_equal(model.features(images), trainer.features("test"))
    assert counts == [128, 4]


def test_workers_and_batches_change_nothing_that_a_person_sees(trained, home):
    paths = pictures_of(home)
    assert_same(load_run(trained, num_workers=2).predict(paths), trained)
    found = load_run(trained, batch_size=5).predict(paths)
    expected = read_csv(trained / "predictions_test.csv", CLASSES)
    assert [one.label for one in found] == expected.predicted.tolist()
    assert [one.probability for one in found] == pytest.approx(expected.confidence.tolist(), rel=0.05)  # in bf16


# ---- moved runs ----


def test_a_copy_without_the_data_from_another_directory(copy, home, tmp_path, monkeypatch):
    """The path of the weights was relative; the training pictures are gone."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "pictures/test", tmp_path / "else/pictures/test")
    os.rename(home / "pictures/train", home / "pictures/hidden")
    try:
        paths = sorted(map(str, (tmp_path / "else/pictures/test").rglob("*.jpg")))
        assert_same(load_run("copy").predict(paths), copy)
    finally:
        os.rename(home / "pictures/hidden", home / "pictures/train")


def test_a_checkpoint_alone(trained, home, tmp_path):
    shutil.copy(trained / "checkpoint.safetensors", tmp_path)
    with refused(ModelError, kind="weights_required"):
        load_run(tmp_path)
    model = load_run(tmp_path, weights=str(home / "weights/random_clip.pt"))
    assert_same(model.predict(pictures_of(home)), trained)
    assert model.shot_groups == ["few"] * 4


def make_older(directory):
    """Converts a run's files to those of the version before, which recorded neither classes nor the reading options."""
    path = directory / "checkpoint.safetensors"
    tensors, about = checkpoint.load(path)
    checkpoint.save(path, tensors, {k: v for k, v in about.items() if k not in ("model", "classnames", "shot_groups")})
    results = json.loads((directory / "results.json").read_text())
    del results["model"]
    (directory / "results.json").write_text(json.dumps(results))


def test_a_run_of_the_version_before(copy, home, monkeypatch):
    make_older(copy)
    monkeypatch.chdir(home)  # the weights' path was relative
    model = load_run(copy)
    assert_same(model.predict(pictures_of(home)), copy)
    assert model.shot_groups == ["few"] * 4
    (copy / "results.json").unlink()
    with refused(CheckpointError, kind="unrecorded_run", path=copy):
        load_run(copy)


def test_a_checkpoint_of_the_authors_that_was_tested_once(run, home, tmp_path):
    directory = run("lr", 0.5, method="lp")
    tensors, _ = checkpoint.load(directory / "checkpoint.safetensors")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    content = {"tuner": {name.replace("head.", "classifier."): tensor for name, tensor in tensors.items()}}
    torch.save(content, theirs / "checkpoint.pth.tar")
    with refused(CheckpointError, kind="unrecorded_run", path=theirs):
        load_run(theirs)
    train_in(home, theirs, "test_only", "True", method="lp")
    assert_same(load_run(theirs).predict(pictures_of(home)), directory)


def test_a_path_that_no_file_can_have(trained):
    with refused(DataError, kind="zero_byte"):
        load_run(trained).predict(["a.jpg", "b\0.jpg"])


def test_more_classes_than_there_are(trained, home):
    assert sorted(ranked.label for ranked in load_run(trained).predict(pictures_of(home)[:1], top=99)[0].top) == [
        0,
        1,
        2,
        3,
    ]


# ---- pictures that cannot be read ----


def test_unreadable_pictures_do_not_stop_the_others(trained, home, tmp_path):
    good = pictures_of(home)[:3]
    model = load_run(trained)
    expected = model.predict([*good, good[0], good[1]])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture at all")
    (tmp_path / "cut.jpg").write_bytes(Path(good[0]).read_bytes()[:300])
    os.mkfifo(tmp_path / "pipe.jpg")
    bad = ["missing.jpg", tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "cut.jpg", tmp_path / "pipe.jpg"]
    bad += [tmp_path, b"\xff.jpg"]
    for workers in (0, 2):
        model = load_run(trained, num_workers=workers)
        found = model.predict([bad[0], good[0], *bad[1:4], good[1], good[2], *bad[4:], good[0], good[1]])
        hits = [one for one in found if one.error is None]
        assert [one.path for one in hits] == [*good, good[0], good[1]]
        for one, other in zip(hits, expected, strict=True):
            assert one.label == other.label
            assert one.probability == pytest.approx(other.probability, rel=0.05)
        failed = [one for one in found if one.error is not None]
        assert [one.path for one in failed] == [os.fsdecode(path) for path in bad]
        assert all(one.top == () and one.label is one.classname is one.probability is None for one in failed)
        reasons = [one.error for one in failed]
        assert reasons[0] == reasons[-1] == "is missing"
        assert reasons[1] == "the file is empty"
        assert reasons[4:6] == ["is a pipe, not an image file", "is a folder"]
        assert not any("check_data" in reason or "bad_images" in reason for reason in reasons)


def test_a_picture_that_becomes_readable_is_not_taken_for_black(trained, home):
    model, paths = load_run(trained), pictures_of(home)[:2]
    pictures = model.pictures(paths)
    model.logits(pictures)
    assert pictures.problems() == {}
    pictures.unreadable[1] = 1
    assert pictures.problems() == {1: "could not be read, and now can; try again"}


def test_outputs_that_are_not_finite_are_problems_of_their_pictures(trained, home, monkeypatch):
    model, paths = load_run(trained), pictures_of(home)[:3]
    plain = type(model)._logits

    def damaged(self, crops):
        logits = plain(self, crops)
        logits[1, 2] = torch.nan
        return logits

    monkeypatch.setattr(type(model), "_logits", damaged)
    found = model.predict(paths)
    assert [one.error is None for one in found] == [True, False, True]
    assert "not finite" in found[1].error


def test_no_pictures(trained):
    assert load_run(trained).predict([]) == []


def test_memory_does_not_grow_with_the_pictures(trained, home, monkeypatch):
    """A batch is read only when it is needed, and only the top classes of earlier ones are stored."""
    model = load_run(trained, batch_size=2, num_workers=0)
    read = []
    plain = type(model)._logits
    monkeypatch.setattr(type(model), "_logits", lambda self, crops: read.append(len(crops)) or plain(self, crops))
    batches = model.stream(model.pictures(pictures_of(home)[:5]), top=1)
    assert [len(found.top) for found in next(batches)] == [1, 1]
    assert read == [2]
    assert [len(batch) for batch in batches] == [2, 1]


# ---- refusals ----


def test_weights_that_moved(copy, home, monkeypatch, tmp_path):
    content = json.loads((copy / "results.json").read_text())
    assert os.path.isabs(content["model"]["weights"])
    content["model"]["weights"] = "gone/away.pt"
    (copy / "results.json").write_text(json.dumps(content))
    with refused(ModelError, kind="moved_weights", path="gone/away.pt", key="weights"):
        load_run(copy)
    assert_same(load_run(copy, weights=home / "weights/random_clip.pt").predict(pictures_of(home)), copy)


def test_other_weights(copy, home, tmp_path):
    state = torch.load(home / "weights/random_clip.pt", weights_only=True)
    shutil.copytree(home / "weights", tmp_path / "weights")
    torch.save({name: value + 0.001 for name, value in state.items()}, tmp_path / "weights/random_clip.pt")
    with refused(CheckpointError, kind="other_identity", key="weights"):
        load_run(copy, weights=str(tmp_path / "weights/random_clip.pt"))


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "", "cpu:x"])
def test_unknown_devices(name, trained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    if name:
        with refused(ConfigError, kind="no_such_device", key="device"):
            load_run(trained, name)
    else:
        assert load_run(trained, None).device == torch.device("cpu")


def test_folders_that_are_not_runs(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "nowhere", copy / "config.yaml", tmp_path / "empty", tmp_path):
        with refused(CheckpointError, kind="no_run", path=place):
            load_run(place)
    os.rename(copy / "checkpoint.safetensors", copy / "progress.safetensors")
    with refused(CheckpointError, kind="unfinished_run", path=copy):
        load_run(copy)


def test_a_damaged_checkpoint(copy):
    content = bytearray((copy / "checkpoint.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "checkpoint.safetensors").write_bytes(content)
    with refused(CheckpointError, kind="damaged_checkpoint", path=copy / "checkpoint.safetensors"):
        load_run(copy)


def test_classes_of_another_number(copy):
    tensors, about = checkpoint.load(copy / "checkpoint.safetensors")
    checkpoint.save(copy / "checkpoint.safetensors", tensors, about | {"classnames": ["one", "two"]})
    with refused(CheckpointError, kind="other_tensors", path=copy / "checkpoint.safetensors"):
        load_run(copy)


JUNK = ("", "{", "[]", "7", "null", '"a"', "{}", "[1: {", "\udcff".encode("utf-8", "surrogateescape").decode("latin1"))


@pytest.mark.parametrize("name", ["results.json", "config.yaml"])
def test_damaged_files_beside_a_checkpoint_are_not_needed(name, copy, home):
    """The checkpoint has all but the path of the weights."""
    junks = JUNK if FULL else JUNK[name == "config.yaml" :: 2]  # half of them in each
    for junk in junks:
        (copy / name).write_text(junk)
        model = load_run(copy, weights=str(home / "weights/random_clip.pt"))
        assert model.classnames == list(CLASSES)
    assert_same(model.predict(pictures_of(home)), copy)


def changes(content, others):
    """Copies of nested dicts, each with a value of another type, or without a key."""
    for key, value in content.items():
        yield from (content | {key: other} for other in others)
        yield {k: v for k, v in content.items() if k != key}
        if isinstance(value, dict):
            yield from (content | {key: inner} for inner in changes(value, others[:2]))


def test_wrong_types_in_the_results_of_an_older_run(copy):
    """Each is read, or leads to an error of one sentence."""
    make_older(copy)
    content = json.loads((copy / "results.json").read_text())
    content = {key: content[key] for key in ("settings", "per_class", "data")}
    kept = ("zero_shot", "backbone", "dataset", "classifier", "mean")
    content["settings"] = {key: content["settings"][key] for key in kept}
    found = []
    for wrong in changes(content, (None, [3], "x", 7, {"y": 1}, [{"name": 5, "train": "x"}])):
        (copy / "results.json").write_text(json.dumps(wrong))
        try:
            found.append(read_run(copy).classnames)
        except CheckpointError as error:
            assert "\n" not in str(error)
    assert found.count(list(CLASSES)) == len(found) > 0


def test_a_repeated_training_leaves_the_complete_run_usable(copy, home):
    RunDir(copy).progress.write_bytes(b"of a training that has begun again")
    assert_same(load_run(copy).predict(pictures_of(home)), copy)
