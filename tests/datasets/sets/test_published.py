"""ImageNet-LT, Places-LT and iNaturalist 2018: lists that are downloaded, verified and cached, and image folders.

The lists are synthetic and served on 127.0.0.1; the images are crops of scikit-learn's two photographs.
"""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import fork_server
import numpy as np
import pytest
from helpers import assert_one_sentence, photograph, refused, said, web_server
from PIL import Image

import main
from datasets import DATASETS
from datasets.base import ImageList
from datasets.sets import imagenet_lt, inat2018, places_lt, published
from utils import config
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
WNIDS = ("n01440764", "n01443537", "n01484850")
SCENES = ("airfield", "apartment_building-outdoor", "beer_hall")
# the names are not in the order of the ids, and one genus is in two families
CATEGORIES = [
    {"id": i, "kingdom": k, "phylum": p, "class": c, "order": o, "family": f, "genus": g, "name": n}
    for i, (k, p, c, o, f, g, n) in enumerate(
        (
            ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Rosaceae", "Rubus", "Rubus idaeus"),
            ("Animalia", "Chordata", "Aves", "Piciformes", "Picidae", "Morus", "Morus bassanus"),
            ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "Morus alba"),
            ("Animalia", "Chordata", "Mammalia", "Carnivora", "Felidae", "Lynx", "Lynx rufus"),
        )
    )
]


def lines_of(*rows):
    return "".join(f"{path} {label}\n" for path, label in rows).encode()


INAT = {
    part: [
        (f"train_val2018/{CATEGORIES[c]['kingdom']}/{c}/{part}{i}.jpg", c) for c in (3, 1, 0, 2) for i in range(n + c)
    ]
    for part, n in (("train", 2), ("val", 1))
}
CONTENTS = {
    "ImageNet_LT_train.txt": lines_of(*((f"train/{w}/{w}_{i}.JPEG", c) for c, w in enumerate(WNIDS) for i in range(4))),
    "ImageNet_LT_test.txt": lines_of(*((f"val/ILSVRC2012_val_{i:08}.JPEG", i % 3) for i in range(1, 7))),
    "Places_LT_train.txt": lines_of(*((f"train/{s}/{i:08}.jpg", c) for c, s in enumerate(SCENES) for i in range(3))),
    "Places_LT_test.txt": lines_of(
        *((f"val/{s}/Places365_val_{10 * c + i:08}.jpg", c) for c, s in enumerate(SCENES) for i in range(2))
    ),
    "iNaturalist18_train.txt": lines_of(*INAT["train"]),
    "iNaturalist18_val.txt": lines_of(*INAT["val"]),
    "categories.json": json.dumps(CATEGORIES).encode(),
}
USED = {
    "imagenet_lt": ("ImageNet_LT_train.txt", "ImageNet_LT_test.txt"),
    "places_lt": ("Places_LT_train.txt", "Places_LT_test.txt"),
    **dict.fromkeys(inat2018.RANKS, ("iNaturalist18_train.txt", "iNaturalist18_val.txt", "categories.json")),
}
PLACES = USED["places_lt"]
SETS = (imagenet_lt, places_lt, inat2018)  # which have published lists


def published_file(name):
    """The file of that name among the lists of all sets."""
    (file,) = (file for of_set in SETS for file in of_set.LISTS.values() if file.name == name)
    return file


def read_files(names, root):
    return published.read_files([published_file(name) for name in names], str(root))


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """Replaces the published lists by synthetic ones, with an empty cache and no server; returns the cache's folder."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies of its first use
    monkeypatch.setattr(published, "ADDRESS", "http://127.0.0.1:9")  # the port where nobody listens
    monkeypatch.setattr(published, "PAUSE_SECONDS", 0)
    publish(monkeypatch, CONTENTS)
    return tmp_path / "cache/lift_plus/lists"


def publish(monkeypatch, contents):
    """Makes the contents the published ones of their names."""
    for of_set in SETS:
        for key, file in of_set.LISTS.items():
            if file.name in contents:
                verified = file._replace(blob_id=published.blob_id(contents[file.name]))
                monkeypatch.setitem(of_set.LISTS, key, verified)


def served(contents=CONTENTS):
    return {f"/{published_file(name).path}": content for name, content in contents.items()}


@pytest.fixture
def server(lists, monkeypatch):
    """Serves the lists; returns the requested paths."""
    with web_server(served()) as (address, asked):
        monkeypatch.setattr(published, "ADDRESS", address)
        yield asked


@pytest.fixture(scope="session")
def jpegs():
    """Small crops of real photographs, as JPEG files."""
    photographs = [photograph(name) for name in ("china.jpg", "flower.jpg")]
    files = []
    for i in range(24):
        file = io.BytesIO()
        top, left = 16 * i, 24 * i
        Image.fromarray(photographs[i % 2][top : top + 40, left : left + 50]).save(file, "JPEG")
        files.append(file.getvalue())
    return files


@pytest.fixture
def images(jpegs, tmp_path):
    """images(name) -> a folder with every image of the lists of that data set."""

    def make(name, folder="images"):
        root = tmp_path / folder
        for file in USED[name][:2]:
            for i, line in enumerate(CONTENTS[file].decode().splitlines()):
                path = root / line.rpartition(" ")[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpegs[i % len(jpegs)])
        return root

    return make


def build(name, root):
    return DATASETS[name](name, root and str(root))


def refusal(name, root, **fields):
    """The message of an error with these fields."""
    with refused(DataError, **fields) as caught:
        build(name, root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


NOT_FETCHED = {"kind": "list_not_fetched", "path": PLACES[0], "key": "root"}


# ---- files: downloaded, verified, cached ----


@pytest.mark.parametrize(
    ("content", "git"),  # as git hash-object --stdin prints them
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"hello world\n", "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"),
        (b"\xff\r\n" * 1000, "76d2b6b693b814507b28fb9a1e061c5daf59822a"),
    ],
)
def test_blob_id_is_gits(content, git):
    assert published.blob_id(content) == git


def test_the_published_files_are_named_as_their_addresses():
    files = [file for of_set in SETS for file in of_set.LISTS.values()]
    assert {file.name for file in files} > set(CONTENTS)
    for file in files:
        assert file.address == f"https://raw.githubusercontent.com/{file.path}" and file.path.endswith(f"/{file.name}")
        assert re.fullmatch("[0-9a-f]{40}", file.blob_id)
    for distinct in ({file.name for file in files}, {file.blob_id for file in files}):
        assert len(distinct) == len(files) == 9
    elsewhere = published.PublishedFile("https://example.org/a/list.txt", "0" * 40)
    assert (elsewhere.name, elsewhere.address) == ("list.txt", "https://example.org/a/list.txt")


def test_a_list_is_fetched_once(server, lists, tmp_path, capsys):
    for _ in range(2):
        assert read_files(PLACES, str(tmp_path)) == [CONTENTS[name] for name in PLACES]
    assert server == [f"/{published_file(name).path}" for name in PLACES]
    assert sorted(path.name for path in lists.iterdir()) == sorted(PLACES)  # and no partial file
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["root", "cache"])
def test_a_list_put_there_by_hand_is_taken(place, server, lists, tmp_path):
    folder = {"root": tmp_path / "root", "cache": lists}[place]
    folder.mkdir(parents=True)
    for name in PLACES:
        (folder / name).write_bytes(CONTENTS[name])
    assert read_files(PLACES, str(tmp_path / "root")) == [CONTENTS[name] for name in PLACES]
    assert not server


DAMAGES = {
    "cut": lambda content: content[:-10],
    "one byte": lambda content: b"T" + content[1:],
    "longer": lambda content: content + b"\n",
    "windows lines": lambda content: content.replace(b"\n", b"\r\n"),
    "web page": lambda content: b"<!DOCTYPE html><html>Please log in</html>",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("place", ["root", "cache"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_list_is_named_and_fetched_again(damage, place, server, lists, tmp_path, capsys):
    (tmp_path / "root").mkdir()
    lists.mkdir(parents=True)
    bad = {"root": tmp_path / "root", "cache": lists}[place] / PLACES[0]
    bad.write_bytes(DAMAGES[damage](CONTENTS[PLACES[0]]))
    found_id = published.blob_id(bad.read_bytes())
    assert read_files(PLACES[:1], str(tmp_path / "root")) == [CONTENTS[PLACES[0]]]
    assert len(server) == 1
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {bad} is damaged or not the published file")
    assert found_id in warning and published_file(PLACES[0]).blob_id in warning
    assert len(warning.splitlines()) == 1
    assert (lists / PLACES[0]).read_bytes() == CONTENTS[PLACES[0]]
    read_files(PLACES[:1], str(tmp_path / "root"))
    assert len(server) == 1
    assert bool(capsys.readouterr().err) == (place == "root")  # a file of the user's stays, and is named again


def test_a_damaged_list_is_not_used_offline_either(lists, tmp_path, capsys):
    for name in PLACES:
        (tmp_path / name).write_bytes(CONTENTS[name][:-10])
    refusal("places_lt", tmp_path, **NOT_FETCHED)
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_answer_is_never_used(damage, lists, tmp_path, monkeypatch):
    with web_server(served({n: DAMAGES[damage](content) for n, content in CONTENTS.items()})) as (address, asked):
        monkeypatch.setattr(published, "ADDRESS", address)
        refusal("places_lt", tmp_path, **NOT_FETCHED)
    assert len(asked) == published.ATTEMPTS
    assert not lists.exists()


def test_a_connection_that_breaks_off(lists, tmp_path, monkeypatch):
    """The server promises the whole file and sends half."""
    content = CONTENTS[PLACES[0]]
    half = served({PLACES[0]: content[: len(content) // 2]})
    with web_server(half, {"Content-Length": str(len(content))}) as (address, asked):
        monkeypatch.setattr(published, "ADDRESS", address)
        refusal("places_lt", tmp_path, **NOT_FETCHED)
    assert len(asked) == published.ATTEMPTS
    assert not lists.exists()


def test_a_connection_that_breaks_off_once(lists, tmp_path, monkeypatch):
    class Tired(dict):
        """Sends half a file the first time."""

        given = 0

        def get(self, path, default):
            self.given += 1
            return self[path][: None if self.given > 1 else 50]

    with web_server(Tired(served())) as (address, asked):
        monkeypatch.setattr(published, "ADDRESS", address)
        assert read_files(PLACES[:1], str(tmp_path)) == [CONTENTS[PLACES[0]]]
    assert len(asked) == 2


def test_a_server_that_does_not_have_it(lists, tmp_path, monkeypatch):
    with web_server({}) as (address, asked):
        monkeypatch.setattr(published, "ADDRESS", address)
        refusal("places_lt", tmp_path, **NOT_FETCHED)
    assert len(asked) == 1


@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (429, 3), (403, 1), (407, 1)])
def test_a_busy_server_is_asked_again(status, attempts, lists, tmp_path, monkeypatch):
    asked = []

    def answer(address, timeout):
        asked.append(address)
        raise urllib.error.HTTPError(address, status, "no", None, io.BytesIO())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    refusal("places_lt", tmp_path, **NOT_FETCHED)
    assert len(asked) == attempts


def test_a_server_that_says_nothing(lists, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts the connection and never answers
        monkeypatch.setattr(published, "ADDRESS", f"http://127.0.0.1:{silent.getsockname()[1]}")
        waited, urlopen = [], urllib.request.urlopen
        monkeypatch.setattr(
            "urllib.request.urlopen", lambda *args, timeout: waited.append(timeout) or urlopen(*args, timeout=timeout)
        )
        refusal("places_lt", tmp_path, **NOT_FETCHED)
    assert set(waited) == {0.1}


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt", "inat2018", "inat2018_g"])
def test_offline_says_which_files_to_put_where(name, lists, tmp_path):
    message = refusal(name, tmp_path, **NOT_FETCHED | {"path": USED[name][0]})
    for file in map(published_file, USED[name]):
        assert file.address in message and file.blob_id in message


def test_offline_names_only_what_is_missing(lists, tmp_path):
    (tmp_path / PLACES[0]).write_bytes(CONTENTS[PLACES[0]])
    assert PLACES[0] not in refusal("places_lt", tmp_path, **NOT_FETCHED | {"path": PLACES[1]})


def test_a_proxy_is_asked(lists, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ADDRESS", "http://lists.invalid")
    with web_server({f"http://lists.invalid{path}": content for path, content in served().items()}) as (address, asked):
        monkeypatch.setenv("http_proxy", address)
        read_files(PLACES, str(tmp_path))
    assert len(asked) == 2


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://user:secret@127.0.0.1:9", "http://127.0.0.1:port"])
def test_a_proxy_that_fails_is_named(proxy, lists, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ADDRESS", "http://lists.invalid")
    monkeypatch.setenv("http_proxy", proxy)
    assert "secret" not in refusal("places_lt", tmp_path, **NOT_FETCHED)


@pytest.mark.slow
def test_two_processes_at_once(lists, tmp_path, monkeypatch):
    big = {PLACES[0]: CONTENTS["Places_LT_train.txt"] * 20_000}
    publish(monkeypatch, big)
    with web_server(served(big)) as (address, _):
        code = (
            "from datasets.sets import published as p\n"
            f"p.ADDRESS = '{address}'\n"
            f"print(len(p.read_files([p.{published_file(PLACES[0])}], '{tmp_path}')[0]))"
        )
        outputs = [tmp_path / f"output_{number}" for number in range(3)]
        runs = []
        for output in outputs:
            with open(output, "w") as file:
                runs.append(fork_server.start(["-c", code], cwd=ROOT, stdout=file))
        assert [run.wait() for run in runs] == [0, 0, 0]
        assert [int(output.read_text()) for output in outputs] == [len(big[PLACES[0]])] * 3
    assert [path.name for path in lists.iterdir()] == [PLACES[0]]
    assert (lists / PLACES[0]).read_bytes() == big[PLACES[0]]


@pytest.mark.parametrize("killed", [False, True])
def test_a_list_enters_the_cache_whole_or_not_at_all(killed, server, lists, tmp_path, monkeypatch):
    replace, seen = os.replace, []

    def watch(partial, path):
        seen.append(path)
        assert Path(partial).read_bytes() == CONTENTS[PLACES[0]]
        assert Path(partial).parent == lists and not Path(path).exists()
        if killed:
            raise KeyboardInterrupt
        replace(partial, path)

    monkeypatch.setattr("os.replace", watch)
    with pytest.raises(KeyboardInterrupt) if killed else contextlib.nullcontext():
        read_files(PLACES[:1], str(tmp_path))
    assert seen == [lists / PLACES[0]]
    assert list(lists.iterdir()) == ([] if killed else seen)


def test_a_cache_that_cannot_be_written_costs_only_the_next_fetch(server, tmp_path, capsys):
    (tmp_path / "cache").write_text("in the way")
    for _ in range(2):
        assert read_files(PLACES[:1], str(tmp_path)) == [CONTENTS[PLACES[0]]]
        said(capsys.readouterr().err.rstrip())
    assert len(server) == 2


def test_a_list_that_cannot_be_read_is_passed_over(server, tmp_path, monkeypatch, capsys):
    (tmp_path / PLACES[0]).write_bytes(CONTENTS[PLACES[0]])
    read = published.read_limited

    def refuse(path, limit):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return read(path, limit)

    monkeypatch.setattr(published, "read_limited", refuse)
    assert read_files(PLACES[:1], str(tmp_path)) == [CONTENTS[PLACES[0]]]
    said(capsys.readouterr().err.rstrip())


@pytest.mark.parametrize(
    ("variable", "folder"), [("/some/cache", "/some/cache"), ("", "/home/me/.cache"), ("here", "/home/me/.cache")]
)
def test_the_cache_is_the_users(variable, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert published.cache() == Path(folder) / "lift_plus/lists"


def test_a_bar_shows_the_bytes(server, tmp_path, monkeypatch):
    shown = {}

    class Bar:
        def __init__(self, total, desc, disable, **_):
            shown[desc] = [total, 0]
            self.desc = desc
            assert disable is None  # shown on a terminal only

        def update(self, count):
            shown[self.desc][1] += count

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(published, "tqdm", Bar)
    read_files(PLACES, str(tmp_path))
    assert shown == {f"fetching {name}": [len(CONTENTS[name])] * 2 for name in PLACES}


# ---- lists ----


def test_a_line_is_split_at_the_last_space():
    paths, labels = published.parse_list("a b/c  d.jpg 12\nä/ö.jpg 0".encode(), "list")
    assert paths == ["a b/c  d.jpg", "ä/ö.jpg"]
    assert labels.tolist() == [12, 0]
    assert labels.dtype == np.int64


def test_a_name_that_is_no_utf8_reaches_the_file(tmp_path):
    (path,), _ = published.parse_list(b"caf\xe9.jpg 0\n", "list")
    (tmp_path / path).write_bytes(b"")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.jpg"]


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg one", "a.jpg 1.5", "a.jpg -1", " 3", "a.jpg ", "", "a.jpg\t3"])
def test_a_bad_line_is_named(line):
    with refused(DataError, kind="bad_line", path="some_list.txt", line=2):
        published.parse_list(f"a.jpg 0\n{line}\nb.jpg 1\n".encode(), "some_list.txt")


def test_an_empty_list_is_refused(tmp_path):
    with refused(DataError, kind="bad_line", path="some_list.txt", line=1):
        published.parse_list(b"", "some_list.txt")
    with refused(DataError, kind="empty_list", path="some.json"):
        published.image_list([], np.zeros(0, np.int64), str(tmp_path), "some.json")


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.jpg", "train/../../secret.jpg", "train/..", "//host/a.jpg"])
def test_a_list_cannot_lead_outside_root(path, lists, tmp_path, monkeypatch):
    bad = CONTENTS["Places_LT_train.txt"] + lines_of((path, 0))
    publish(monkeypatch, {"Places_LT_train.txt": bad})
    for name, content in (CONTENTS | {"Places_LT_train.txt": bad}).items():
        (tmp_path / name).write_bytes(content)
    refusal("places_lt", tmp_path, kind="outside_root", path="Places_LT_train.txt", key="root")


def test_dots_in_a_name_are_harmless():
    images = published.image_list(["a..b/..c.jpg", "...jpg"], np.zeros(2, np.int64), "/top", "list").images.paths
    assert images == ["/top/a..b/..c.jpg", "/top/...jpg"]


# ---- the data sets ----


@pytest.mark.parametrize("name", USED)
def test_every_published_set_keeps_the_contract(name, server, images):
    root = images(name)
    data = build(name, root)
    assert (data.name, data.root) == (name, str(root))
    assert data.class_counts.shape == (len(data.classnames),)
    assert data.class_counts.sum() == len(data.train)
    for part, file in ((data.train, USED[name][0]), (data.test, USED[name][1])):
        listed = [line.rpartition(" ")[0] for line in CONTENTS[file].decode().splitlines()]
        assert part.images.paths == [f"{root}/{path}" for path in listed]
        assert all(os.path.isfile(path) for path in part.images.paths)
        assert part.labels.dtype == np.int64
        assert part.labels.min() >= 0 and part.labels.max() < len(data.classnames)
    assert len(server) == len(USED[name])


def test_imagenets_classes(server, images):
    data = build("imagenet_lt", images("imagenet_lt"))
    assert len(data.classnames) == 1000
    assert data.classnames[:3] == ["tench", "goldfish", "great white shark"]  # n01440764, n01443537, n01484850
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.class_counts[:4].tolist() == [4, 4, 4, 0]


@pytest.mark.parametrize("listed", ["flat", "in folders"])
@pytest.mark.parametrize("on_disk", ["flat", "in folders"])
def test_imagenets_test_images_lie_flat_or_in_folders(on_disk, listed, server, images, monkeypatch, lists):
    root = images("imagenet_lt")
    rows = [line.rpartition(" ") for line in CONTENTS["ImageNet_LT_test.txt"].decode().splitlines()]
    in_folders = [path.replace("val/", f"val/{WNIDS[int(label)]}/") for path, _, label in rows]
    if on_disk == "in folders":
        for (path, _, _), new in zip(rows, in_folders, strict=True):
            (root / new).parent.mkdir(exist_ok=True)
            (root / path).rename(root / new)
    if listed == "in folders":
        content = lines_of(*((path, label) for path, (_, _, label) in zip(in_folders, rows, strict=True)))
        publish(monkeypatch, {"ImageNet_LT_test.txt": content})
        (root / "ImageNet_LT_test.txt").write_bytes(content)
    test = build("imagenet_lt", root).test
    expected = in_folders if on_disk == "in folders" else [path for path, _, _ in rows]
    assert test.images.paths == [f"{root}/{path}" for path in expected]
    assert test.labels.tolist() == [int(label) for _, _, label in rows]


def test_places_are_called_as_their_folders(server, images):
    assert build("places_lt", images("places_lt")).classnames == list(SCENES)


EXPECTED_CLASSES = {
    "inat2018": ["Lynx rufus", "Morus alba", "Morus bassanus", "Rubus idaeus"],
    "inat2018_k": ["Animalia", "Plantae"],
    "inat2018_p": ["Chordata", "Tracheophyta"],
    "inat2018_c": ["Aves", "Magnoliopsida", "Mammalia"],
    "inat2018_o": ["Carnivora", "Piciformes", "Rosales"],
    "inat2018_f": ["Felidae", "Moraceae", "Picidae", "Rosaceae"],
    "inat2018_g": ["Lynx", "Morus", "Rubus"],  # a bird and a tree
    "inat2018_s": ["Lynx rufus", "Morus alba", "Morus bassanus", "Rubus idaeus"],
}


def official(root, hide=False, shuffle=False):
    """Writes the competition's own JSON files into `root`."""
    for part, rows in INAT.items():
        photos = [{"id": 100 + i, "file_name": path, "height": 40} for i, (path, _) in enumerate(rows)]
        notes = [{"id": i, "image_id": 100 + i, "category_id": c} for i, (_, c) in enumerate(rows)]
        categories = [{"id": c["id"], "name": str(c["id"])} for c in CATEGORIES] if hide else CATEGORIES
        content = {"images": photos[::-1] if shuffle else photos, "annotations": notes, "categories": categories}
        (root / f"{part}2018.json").write_text(json.dumps(content))


@pytest.mark.parametrize("source", ["lists", "official", "official, shuffled"])
@pytest.mark.parametrize("name", EXPECTED_CLASSES)
def test_the_ranks_of_inaturalist(name, source, lists, images):
    root = images(name)
    if source == "lists":
        for file in USED[name]:
            (root / file).write_bytes(CONTENTS[file])
    else:
        official(root, shuffle="shuffled" in source)
    data = build(name, root)
    assert data.classnames == EXPECTED_CLASSES[name]
    for part, rows in ((data.train, INAT["train"]), (data.test, INAT["val"])):
        found = {path: data.classnames[label] for path, label in zip(part.images.paths, part.labels, strict=True)}
        assert found == {f"{root}/{path}": CATEGORIES[c][inat2018.RANKS[name]] for path, c in rows}
        assert part.images.paths == [f"{root}/{path}" for path, _ in rows]


def test_hidden_names_come_from_the_published_categories(server, images):
    """During the competition the official files had no names."""
    root = images("inat2018_f")
    official(root, hide=True)
    assert build("inat2018_f", root).classnames == EXPECTED_CLASSES["inat2018_f"]
    assert server == [f"/{published_file('categories.json').path}"]


BAD_JSON = {
    "cut": lambda text: text[:-30],
    "a list": lambda text: "[]",
    "no annotations": lambda text: json.dumps({**json.loads(text), "annotations": None}),
    "another task": lambda text: json.dumps({"images": [], "info": {}}),
    "unknown image": lambda text: text.replace('"image_id": 100', '"image_id": 7'),
    "binary": lambda text: "\0\1",
}


@pytest.mark.parametrize("damage", BAD_JSON)
def test_damaged_official_files_are_named(damage, lists, images):
    root = images("inat2018")
    official(root)
    bad = root / "val2018.json"
    bad.write_text(BAD_JSON[damage](bad.read_text()))
    refusal("inat2018", root, kind="damaged_official_file", path=bad)


def test_official_files_cannot_lead_outside_root_or_the_categories(lists, images):
    root = images("inat2018")
    official(root)
    bad = root / "train2018.json"
    text = bad.read_text()
    bad.write_text(text.replace(INAT["train"][3][0], "../../x.jpg"))
    refusal("inat2018", root, kind="outside_root", path=bad, key="root")
    bad.write_text(text.replace('"category_id": 2', '"category_id": 77'))
    first = next(path for path, label in INAT["train"] if label == 2)
    refusal("inat2018", root, kind="unknown_category", path=root / first)


# ---- folders ----


@pytest.mark.parametrize("name", USED)
def test_root_must_be_given_and_be_a_folder(name, lists, tmp_path):
    refusal(name, None, kind="no_root", key="root")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        refusal(name, path, kind="not_a_folder", path=path, key="root")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("imagenet_lt", "train/n01440764/n01440764_0.JPEG"),
        ("places_lt", "train/airfield/00000000.jpg"),
        ("inat2018_k", "train_val2018/Animalia/3/train0.jpg"),
    ],
)
def test_a_wrong_folder_shows_what_was_expected_and_what_is_there(name, first, server, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    wrong = {"kind": "wrong_layout", "path": root / first, "key": "root"}
    refusal(name, root, **wrong)
    for i in range(7):
        (root / f"something_{i}").mkdir()
    refusal(name, root, **wrong)
    (root / first).parent.mkdir(parents=True)
    (root / first).with_name("other.txt").write_text("")
    refusal(name, root, **wrong)


@pytest.mark.parametrize("lost", ["val", "train/n01484850"])
def test_half_a_data_set_is_recognised(lost, server, images):
    root = images("imagenet_lt")
    (root / lost).rename(root / "lost")
    assert f"{root}/{lost}" in refusal("imagenet_lt", root, kind="wrong_layout", key="root")


def test_a_single_image_that_is_missing_is_left_to_the_loader(server, images):
    root = images("imagenet_lt")
    (root / "val/ILSVRC2012_val_00000006.JPEG").unlink()
    assert len(build("imagenet_lt", root).test)


def test_a_folder_with_half_of_the_images_is_no_better_root(server, images):
    root = images("places_lt")
    (root / "other").mkdir()
    (root / "val").rename(root / "other/val")
    refusal("places_lt", root, kind="wrong_layout", key="root")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("imagenet_lt", "inside/train"),
        ("imagenet_lt", "."),
        ("imagenet_lt", "ILSVRC/../"),
        ("places_lt", "inside/val"),
        ("places_lt", "."),
        ("inat2018", "inside/train_val2018"),
        ("inat2018", "."),
    ],
)
def test_the_right_root_nearby_is_named(name, given, server, images, tmp_path):
    """The folder above, one of the folders below, or where Kaggle's archive has ImageNet."""
    top = tmp_path / "my pictures"
    inside = "ILSVRC/Data/CLS-LOC" if given.startswith("ILSVRC") else "inside"
    images(name, f"my pictures/{inside}")
    message = refusal(name, os.path.normpath(top / given), kind="wrong_layout", key="root")
    suggested = re.search(r"set root '(.*)'$", message).group(1)
    assert Path(suggested) == top / inside
    assert len(build(name, suggested).train)


def pack(archive, folder, members):
    """A tar of {name in the archive: path below folder}."""
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as tar:
        for name, path in members.items():
            tar.add(folder / path, name)


def pack_imagenet(source, root):
    """The two archives of ILSVRC 2012: a tar of a tar for each class, and a flat tar."""
    for wnid in WNIDS:
        pack(source / f"{wnid}.tar", source, {path.name: path for path in (source / "train" / wnid).iterdir()})
    pack(root / "ILSVRC2012_img_train.tar", source, {f"{wnid}.tar": f"{wnid}.tar" for wnid in WNIDS})
    pack(root / "ILSVRC2012_img_val.tar", source, {path.name: path for path in (source / "val").iterdir()})


def pack_imagenet_half_way(source, root):
    """The outer tar has been unpacked, the inner ones have not."""
    pack_imagenet(source, root)
    (root / "train").mkdir()
    subprocess.run(["tar", "-xf", root / "ILSVRC2012_img_train.tar", "-C", root / "train"], check=True)
    (root / "ILSVRC2012_img_train.tar").unlink()


ARCHIVES = {
    "imagenet_lt": (pack_imagenet, 2),
    "imagenet_lt, half way": (pack_imagenet_half_way, 2),
    "places_lt": (lambda a, b: pack(b / "places365standard_easyformat.tar", a, {"places365_standard": "."}), 1),
    "inat2018": (lambda a, b: pack(b / "train_val2018.tar.gz", a, {"train_val2018": "train_val2018"}), 1),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_the_command_that_fixes_it_does(case, server, images, tmp_path):
    """The published archives are in root; the commands of the messages unpack them."""
    name, (make, commands) = case.partition(",")[0], ARCHIVES[case]
    root = tmp_path / "my $HOME pictures"
    root.mkdir()
    make(images(name), root)
    for _ in range(commands):
        command = refusal(name, root, kind="wrong_layout", key="root").partition("fix it with: ")[2]
        subprocess.run(["bash", "-euc", command], check=True)
    data = build(name, root)
    assert all(os.path.isfile(path) for path in (*data.train.images.paths, *data.test.images.paths))


def test_another_layout_of_places(server, tmp_path):
    (tmp_path / "data_256/a/airfield").mkdir(parents=True)
    refusal("places_lt", tmp_path, kind="wrong_layout", key="root")


# ---- a new set ----

NEW_SET = '''"""Birds-LT: made up."""

from datasets.base import DataSet
from datasets.sets.layout import class_folders, require_images, require_root
from datasets.sets.published import PublishedFile, read_lists

LISTS = {
    "train": PublishedFile("ADDRESS/birds_train.txt", "TRAIN_ID"),
    "test": PublishedFile("ADDRESS/birds_test.txt", "TEST_ID"),
}
LAYOUT = "images/CLASS/*.jpg"


def build(name, root):
    root = require_root(root, "Birds-LT", LAYOUT)
    train, test = read_lists((LISTS["train"], LISTS["test"]), root)
    require_images((train, test), root, LAYOUT)
    folders = class_folders(train)
    return DataSet(name, [folders[label] for label in sorted(folders)], train, test, root)
'''


def test_a_new_set_is_one_file_one_row_and_one_yaml_file(lists, jpegs, random_clip, tmp_path, monkeypatch):
    """The file is run as it is; the command line then finds the set."""
    contents = {
        "/birds_train.txt": lines_of(*((f"images/{bird}/{i}.jpg", c) for c, bird in enumerate("ab") for i in range(3))),
        "/birds_test.txt": lines_of(("images/a/9.jpg", 0), ("images/b/9.jpg", 1)),
    }
    for bird in "ab":
        (tmp_path / "birds/images" / bird).mkdir(parents=True)
        for i in (0, 1, 2, 9):
            (tmp_path / "birds/images" / bird / f"{i}.jpg").write_bytes(jpegs[i])
    with web_server(contents) as (address, _):
        source, birds_lt = NEW_SET.replace("ADDRESS", address), {}
        for key, content in zip(("TRAIN_ID", "TEST_ID"), contents.values(), strict=True):
            source = source.replace(key, published.blob_id(content))
        exec(source, birds_lt)
        monkeypatch.setitem(DATASETS, "birds_lt", birds_lt["build"])
        shutil.copytree(config.files.CONFIGS, tmp_path / "configs")
        (tmp_path / "configs/data/birds_lt.yaml").write_text("dataset: birds_lt\n")
        monkeypatch.setattr(config.files, "CONFIGS", tmp_path / "configs")
        monkeypatch.chdir(tmp_path)
        command = "-d birds_lt -b clip_vit -m lift+ root birds num_epochs 1 num_workers 0 output_dir run weights"
        assert main.main([*command.split(), str(random_clip)]) == 0
    results = json.loads((tmp_path / "output/run/results.json").read_text())
    assert [(row["name"], row["train"], row["test"]) for row in results["per_class"]] == [("a", 3, 1), ("b", 3, 1)]


# ---- fingerprints ----


@pytest.mark.parametrize("root", ["/some/root", "/some/root/", "/", "pictures", "."])
def test_a_fingerprint_counts_relative_paths_only(root, tmp_path):
    """As computed by pathlib, which takes twenty times as long."""
    import hashlib

    relative = ["train/a b/1.jpg", "train/ä/2.jpg", "train/caf\udce9.jpg"]
    labels = np.array([2, 0, 1])
    expected = hashlib.sha256(labels.astype(np.int64).tobytes() + b"".join(os.fsencode(p) + b"\0" for p in relative))
    for images in ([os.path.join(root, p) for p in relative], [str(Path(root, p)) for p in relative]):
        assert ImageList.of_paths(images, labels).fingerprint(root).partition("-")[0] == expected.hexdigest()[:16]
    with pytest.raises(ValueError):
        ImageList.of_paths(["/elsewhere/1.jpg"], labels[:1]).fingerprint("/some/root")


# ---- from the command line ----


@pytest.mark.parametrize("name", USED)
def test_the_command_of_each_set_runs(name, server, images, random_clip, tmp_path, monkeypatch):
    """As on a machine with internet, except that lists and weights are local."""
    monkeypatch.chdir(tmp_path)
    root = images(name)
    command = f"-d {name} -b clip_vit -m lift+ num_epochs 1 batch_size 4 num_workers 0 v.adaptformer_dim 2"
    assert main.main([*command.split(), "root", str(root), "weights", str(random_clip), "output_dir", "run"]) == 0
    results = json.loads((tmp_path / "output/run/results.json").read_text())
    assert results["data"]["name"] == name
    assert results["data"]["fingerprint"]["train"] == build(name, root).train.fingerprint(str(root))
    tested = len(CONTENTS[USED[name][1]].splitlines())
    assert sum(row["test"] for row in results["per_class"]) == tested


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt", "inat2018", "inat2018_o"])
def test_the_command_without_a_root_says_how_to_set_it(name, lists, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBUG", raising=False)
    assert main.main(["-d", name, "-b", "clip_tiny", "-m", "lift+"]) == 2
    assert_one_sentence(capsys.readouterr().err)
    assert not (tmp_path / "output").exists()
