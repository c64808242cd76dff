"""The data sets: images, labels and their order; and the errors if they are not available."""

import collections
import gzip
import hashlib
import io
import json
import pickle
import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import refused, web_server
from PIL import Image
from sklearn.datasets import load_digits

from datasets import DATASETS, build_data
from datasets.images import ImageList
from datasets.long_tail import long_tail_counts
from datasets.sets import cifar100_lt
from utils.config import load_config
from utils.errors import DataError

LONG_TAILS = {"cifar100_ir100": (0.01, 10_847), "cifar100_ir50": (0.02, 12_608), "cifar100_ir10": (0.1, 19_573)}


# ---- digits_lt ----


@pytest.fixture(scope="module")
def digits():
    return DATASETS["digits_lt"]("digits_lt", None)


def test_digits_have_their_counts(digits):
    """124 falling by the factor 50 in ten steps; 50 test images a class."""
    assert digits.class_counts.tolist() == [124, 80, 51, 33, 21, 14, 9, 5, 3, 2]
    assert digits.class_counts.tolist() == [int(124 * 0.02 ** (c / 9)) for c in range(10)]
    assert np.bincount(digits.test.labels).tolist() == [50] * 10
    names = "zero one two three four five six seven eight nine"
    assert digits.classnames == names.split()


def test_digits_are_scikit_learns_and_none_is_in_both_parts(digits):
    """Ink 0..16 as grey 0..255; counted by pixels and label, as a few digits occur twice."""
    ink, labels = load_digits(return_X_y=True)
    there = collections.Counter(
        (np.rint(row * 255 / 16).tobytes(), int(label)) for row, label in zip(ink, labels, strict=True)
    )
    taken = collections.Counter()
    for part in (digits.train, digits.test):
        assert part.images.pixels.dtype == np.uint8 and part.images.pixels.shape == (len(part), 8, 8, 3)
        assert (part.images.pixels == part.images.pixels[..., :1]).all()
        grey = part.images.pixels[..., 0].reshape(-1, 64).astype(float)
        taken.update((row.tobytes(), int(label)) for row, label in zip(grey, part.labels, strict=True))
    assert taken.total() == 342 + 500
    assert not taken - there


def test_digits_are_always_the_same(digits):
    np.random.seed(1)
    again = DATASETS["digits_lt"]("digits_lt", None)
    with refused(DataError, kind="needless_root", path="pictures", key="root"):
        DATASETS["digits_lt"]("digits_lt", "pictures")
    for data in (digits, again):
        assert data.train.fingerprint() == "c3ba10f62ab6f65a"
        assert data.test.fingerprint() == "d42be6d6bd46c395"


# ---- CIFAR-100 ----


def numbered_images(count):
    """Images [count, 1, 1, 3] whose pixel is their index."""
    index = np.arange(count)
    return np.stack([index >> 16, index >> 8 & 255, index & 255], axis=1).astype(np.uint8)[:, None, None]


@pytest.mark.parametrize("name", LONG_TAILS)
def test_long_tail_takes_the_published_images(name, monkeypatch):
    """Against the procedure of the papers: numpy's global generator, seeded 0, shuffles one class after the other."""
    factor, total = LONG_TAILS[name]
    labels = np.random.default_rng(0).permutation(np.arange(50_000) % 100)
    state = np.random.get_state()
    np.random.seed(0)
    expected = []
    for c in range(100):
        indices = np.where(labels == c)[0]
        np.random.shuffle(indices)
        expected += indices[: int(500 * factor ** (c / 99.0))].tolist()
    np.random.set_state(state)

    def cifar(root, train, download):
        targets = labels.tolist() if train else [0] * 10
        return SimpleNamespace(
            data=numbered_images(len(targets)), targets=targets, classes=[str(c) for c in range(100)]
        )

    monkeypatch.setattr("torchvision.datasets.CIFAR100", cifar)
    data = DATASETS[name](name, "root")
    pixels = data.train.images.pixels[:, 0, 0].astype(int)
    found = pixels @ [65536, 256, 1]
    assert found.tolist() == expected
    assert data.train.labels.tolist() == labels[expected].tolist()
    assert len(data.train) == total
    assert data.class_counts[[0, -1]].tolist() == [500, int(500 * factor)]
    assert len(data.test) == 10


@pytest.mark.parametrize("largest, classes, factor", [(500, 100, 0.01), (124, 10, 0.02), (50, 2, 0.1), (5, 3, 1)])
def test_long_tail_counts(largest, classes, factor):
    """From the largest down to largest * IF, each by the same ratio."""
    counts = long_tail_counts(largest, classes, factor)
    assert counts == [int(largest * factor ** (c / (classes - 1))) for c in range(classes)]
    assert counts[0] == largest
    assert counts == sorted(counts, reverse=True)


class Cifar:
    """A CIFAR-100 in the published format, with 20 training and 2 test images per class; torchvision expects it."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.names = [f"class_{c}" for c in range(100)]
        self.labels = {"train": rng.permutation(np.arange(2000) % 100), "test": rng.permutation(np.arange(200) % 100)}
        self.pixels = {part: rng.integers(0, 256, (len(y), 3072), np.uint8) for part, y in self.labels.items()}
        files = {
            part: {"data": self.pixels[part], "fine_labels": self.labels[part].tolist(), "coarse_labels": []}
            for part in ("train", "test")
        }
        files = {
            name: pickle.dumps(file) for name, file in (files | {"meta": {"fine_label_names": self.names}}).items()
        }
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(f"cifar-100-python/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        self.archive = gzip.compress(data.getvalue(), compresslevel=1)
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
        self.there = {
            "tgz_md5": hashlib.md5(self.archive).hexdigest(),
            "train_list": [["train", md5["train"]]],
            "test_list": [["test", md5["test"]]],
            "meta": {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]},
        }

    def tell_torchvision(self, monkeypatch, address):
        for name, value in (self.there | {"url": f"{address}/cifar-100-python.tar.gz"}).items():
            monkeypatch.setattr(f"torchvision.datasets.CIFAR100.{name}", value)
        monkeypatch.setattr(cifar100_lt, "PER_CLASS", 20)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def published():
    return Cifar()


@pytest.fixture
def cifar(published, tmp_path, monkeypatch):
    """The synthetic CIFAR-100 with its archive in tmp_path/data, and no server."""
    published.tell_torchvision(monkeypatch, "http://127.0.0.1:9")  # the port where nobody listens
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar-100-python.tar.gz").write_bytes(published.archive)
    return published


def assert_is_cifar(data, published):
    """Whole and balanced: channels first in the file, last in memory."""
    for part, found in (("train", data.train), ("test", data.test)):
        assert np.array_equal(found.images.pixels, published.pixels[part].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert np.array_equal(found.labels, published.labels[part])
    assert data.classnames == published.names


def test_cifar_downloads_itself_once(published, tmp_path, monkeypatch):
    with web_server({"/cifar-100-python.tar.gz": published.archive}) as (address, asked):
        published.tell_torchvision(monkeypatch, address)
        assert_is_cifar(DATASETS["cifar100"]("cifar100", str(tmp_path / "new/data")), published)
        assert asked
    assert_is_cifar(DATASETS["cifar100"]("cifar100", str(tmp_path / "new/data")), published)  # the server is off


def test_cifar_takes_an_archive_put_there_by_hand(cifar, tmp_path):
    assert_is_cifar(DATASETS["cifar100"]("cifar100", str(tmp_path / "data")), cifar)


@pytest.mark.parametrize("name", LONG_TAILS)
def test_long_tail_keeps_images_with_their_labels(name, cifar, tmp_path):
    data = DATASETS[name](name, str(tmp_path / "data"))
    factor = LONG_TAILS[name][0]
    assert data.class_counts.tolist() == [int(20 * factor ** (c / 99)) for c in range(100)]
    label_of = dict(zip(map(bytes, cifar.pixels["train"]), cifar.labels["train"].tolist(), strict=True))
    found = [label_of[image.transpose(2, 0, 1).tobytes()] for image in data.train.images.pixels]
    assert found == data.train.labels.tolist()
    assert found == sorted(found)  # in label order
    assert len(data.test) == 200


def test_damaged_cifar_is_fetched_again(published, tmp_path, monkeypatch):
    with web_server({"/cifar-100-python.tar.gz": published.archive}) as (address, asked):
        published.tell_torchvision(monkeypatch, address)
        (tmp_path / "cifar-100-python.tar.gz").write_bytes(published.archive[:1000])
        assert_is_cifar(DATASETS["cifar100"]("cifar100", str(tmp_path)), published)
        assert asked


@pytest.mark.parametrize("served", ["nothing there", "half of it", "another file"])
def test_cifar_that_cannot_be_fetched_says_what_to_do(served, published, tmp_path, monkeypatch):
    archive = published.archive
    contents = {
        "nothing there": {},
        "half of it": {"/cifar-100-python.tar.gz": archive[: len(archive) // 2]},
        "another file": {"/cifar-100-python.tar.gz": b"<html>Please log in</html>"},
    }
    with web_server(contents[served]) as (address, _):
        published.tell_torchvision(monkeypatch, address)
        with refused(DataError, kind="not_fetched", path=tmp_path / "data", key="root"):
            DATASETS["cifar100"]("cifar100", str(tmp_path / "data"))


@pytest.mark.parametrize("damage", ["gone", "cut", "text", "extracted cut"])
def test_cifar_offline_says_what_to_do(damage, cifar, tmp_path):
    archive = tmp_path / "data/cifar-100-python.tar.gz"
    if damage == "extracted cut":
        DATASETS["cifar100"]("cifar100", str(tmp_path / "data"))
        (tmp_path / "data/cifar-100-python/train").write_bytes(b"")
    if damage == "cut":
        archive.write_bytes(cifar.archive[:1000])
    elif damage == "text":
        archive.write_text("hello")
    else:
        archive.unlink()
    with refused(DataError, kind="not_fetched", path=tmp_path / "data", key="root"):
        DATASETS["cifar100"]("cifar100", str(tmp_path / "data"))


def test_cifar_without_a_folder_says_what_to_do(cifar, tmp_path):
    (tmp_path / "file").write_text("")
    with refused(DataError, kind="no_root", key="root"):
        DATASETS["cifar100"]("cifar100", None)
    with refused(DataError, kind="not_a_folder", path=tmp_path / "file", key="root"):
        DATASETS["cifar100"]("cifar100", str(tmp_path / "file"))
    with refused(DataError, kind="not_fetched", path=tmp_path / "file/data", key="root"):
        DATASETS["cifar100"]("cifar100", str(tmp_path / "file/data"))


# ---- folder ----


@pytest.fixture
def pictures(tmp_path):
    """pictures("train/cat/1.jpg", ...) -> a folder with these files."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(tmp_path / path, format="PNG")
        return tmp_path

    return make


def build_folder(root):
    return DATASETS["folder"]("folder", str(root))


TWO = ("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "test/cat/3.jpg", "test/dog/2.jpg", "test/dog/3.jpg")


def test_folder_names_its_classes_by_their_folders(pictures):
    root = pictures(*TWO, "train/Ähre 7/b.PNG", "train/Ähre 7/a.webp", "train/cat/10.jpeg")
    data = build_folder(root)
    assert data.classnames == ["cat", "dog", "Ähre 7"]
    assert data.class_counts.tolist() == [3, 1, 2]
    names = ["cat/1.jpg", "cat/10.jpeg", "cat/2.jpg", "dog/1.jpg", "Ähre 7/a.webp", "Ähre 7/b.PNG"]
    assert data.train.images.paths == [str(root / "train" / name) for name in names]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert data.test.images.paths == [str(root / "test" / name) for name in ("cat/3.jpg", "dog/2.jpg", "dog/3.jpg")]
    assert data.test.labels.tolist() == [0, 1, 1]


def test_folder_takes_val_where_there_is_no_test(pictures):
    root = pictures(*(path.replace("test", "val") for path in TWO))
    assert build_folder(root).test.images.paths[0] == str(root / "val/cat/3.jpg")
    pictures("test/cat/9.jpg")
    assert build_folder(root).test.images.paths == [str(root / "test/cat/9.jpg")]


JUNK = [
    "train/.DS_Store",
    "train/notes.txt",
    "train/picture.jpg",
    "train/cat/Thumbs.db",
    "train/cat/.DS_Store",
    "train/cat/._1.jpg",
    "train/cat/readme",
    "train/.ipynb_checkpoints/1.jpg",
    "test/.ipynb_checkpoints/1.jpg",
    "test/dog/._2.jpg",
]


@pytest.mark.parametrize("junk", JUNK)
def test_folder_passes_over_what_is_no_picture_of_a_class(junk, pictures):
    """Hidden files and folders, and other files next to the pictures."""
    clean = build_folder(pictures(*TWO))
    (pictures().joinpath(junk)).parent.mkdir(parents=True, exist_ok=True)
    pictures().joinpath(junk).write_bytes(b"")
    found = build_folder(pictures())
    assert (found.classnames, found.train.images.paths, found.test.images.paths) == (
        clean.classnames,
        clean.train.images.paths,
        clean.test.images.paths,
    )


def test_folder_class_without_test_pictures_is_kept(pictures):
    data = build_folder(pictures(*TWO, "train/eel/1.jpg"))
    assert data.classnames == ["cat", "dog", "eel"]
    assert 2 not in data.test.labels


# ---- every data set ----


def test_fingerprint_tells_lists_apart_and_survives_a_move(pictures):
    data = build_folder(pictures(*TWO))
    train, root = data.train, data.root
    first = train.fingerprint(root)
    assert first == build_folder(root).train.fingerprint(root)
    swapped = train.subset(slice(None, None, -1)).with_labels(train.labels)
    relabelled = train.with_labels(train.labels[::-1].copy())
    assert len({first, swapped.fingerprint(root), relabelled.fingerprint(root), data.test.fingerprint(root)}) == 4
    moved = pictures() / "moved"
    for split in ("train", "test"):
        shutil.copytree(pictures() / split, moved / split)
    assert build_folder(moved).train.fingerprint(str(moved)) == first
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    other = pixels.copy()
    other[1, 3, 3, 2] = 1
    labels = np.array([0, 1])
    assert ImageList.of_pixels(pixels, labels).fingerprint() != ImageList.of_pixels(other, labels).fingerprint()


PUBLISHED = ("imagenet", "places", "inat")  # these want lists: test_published.py


@pytest.mark.parametrize("name", [name for name in DATASETS if not name.startswith(PUBLISHED)])
def test_every_data_set_keeps_the_contract(name, cifar, pictures, tmp_path):
    """Labels in 0..C-1, int64, a count for every class, images by list or by array."""
    pictures(*TWO)
    roots = {"digits_lt": None, "folder": str(tmp_path)}
    data = DATASETS[name](name, roots.get(name, str(tmp_path / "data")))
    classes = len(data.classnames)
    assert data.name == name
    assert len(set(data.classnames)) == classes
    assert data.class_counts.shape == (classes,)
    assert data.class_counts.sum() == len(data.train)
    for part in (data.train, data.test):
        assert len(part) == len(part.images) == len(part.labels) > 0
        assert part.labels.dtype == np.int64
        assert part.labels.min() >= 0 and part.labels.max() < classes
        pixels = part.images.read(len(part) - 1)
        assert pixels.dtype == torch.uint8 and pixels.shape[0] == 3


@pytest.mark.slow
def test_the_command_for_cifar_runs(cifar, random_clip, tmp_path, monkeypatch):
    """As on a machine with internet, except that the archive and the weights are local files."""
    import main

    monkeypatch.chdir(tmp_path)
    command = "-d cifar100_ir100 -b clip_vit -m lift+ num_epochs 1 num_workers 0 weights"
    assert main.main([*command.split(), str(random_clip)]) == 0
    results = json.loads((tmp_path / "output/cifar100_ir100_clip_vit_lift+_num_epochs_1/results.json").read_text())
    assert len(results["per_class"]) == 100
    assert sum(row["test"] for row in results["per_class"]) == 200


# ---- LIFT's groups ----


def counts_of(data):
    return {group: int(mask.sum()) for group, mask in data.groups.items()}


@pytest.mark.parametrize("name", ["cifar100_ir100", "cifar100_ir50", "cifar100_ir10"])
def test_lifts_groups_are_those_of_imbalance_100(name, monkeypatch):
    pixels, classnames = np.zeros((50_000, 1, 1, 3), np.uint8), [f"class {c}" for c in range(100)]
    whole = ImageList.of_pixels(pixels, np.repeat(np.arange(100), 500))
    monkeypatch.setattr(cifar100_lt, "_load", lambda root, train: (whole, classnames))
    ir100 = [int(500 * 0.01 ** (c / 99)) for c in range(100)]
    expected = {"many": sum(n > 100 for n in ir100), "medium": sum(20 <= n <= 100 for n in ir100)}
    lift = build_data(load_config(name, None, "clip_vit_b16", []))
    assert counts_of(lift) == expected | {"few": 100 - sum(expected.values())} == {"many": 35, "medium": 35, "few": 30}
    own = build_data(load_config(name, "clip_vit_b16", "lift+", []))
    assert (counts_of(own) == counts_of(lift)) == (name == "cifar100_ir100")
    assert ("imbalance 100" in lift.summary()) == (name != "cifar100_ir100")
