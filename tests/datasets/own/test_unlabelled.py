"""Pictures without labels: the files from folders, lists and the standard input, and their order."""

import os

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from datasets.own import folder, unlabelled
from datasets.own.unlabelled import find_pictures, split_paths
from utils.errors import DataError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*paths):
    for path in map(os.fsencode, paths):
        os.makedirs(os.path.dirname(path) or b".", exist_ok=True)
        open(path, "w").close()


def find(*arguments, given=b""):
    """The pictures, and the notes."""
    notes = []
    return find_pictures(arguments, lambda: given, notes.append), notes


# ---- folders ----


def test_a_folder_has_the_order_of_a_test(tmp_path):
    """'a b' is before 'a' by path, as ' ' sorts before '/', but after it by name."""
    for split in ("train", "test"):
        for name in ("a", "a b", "b"):
            (tmp_path / "root" / split / name / "inner").mkdir(parents=True)
            for file in ("2.jpg", "inner/10.png", "inner/9.png", "1.JPG"):
                Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(
                    tmp_path / "root" / split / name / file, format="png"
                )
    data = folder.build("folder", "root")
    assert find("root/test") == (data.test.images.paths, [])
    assert len(data.test) == 12


def test_pictures_beside_the_folders_are_read_too():
    touch("top/z.jpg", "top/class/1.jpg", "top/a.webp")
    assert find("top")[0] == ["top/a.webp", "top/class/1.jpg", "top/z.jpg"]


def test_hidden_names_leftovers_and_other_files_are_counted(tmp_path):
    touch("top/a.jpg", "top/.hidden.jpg", "top/sub/@eaDir/a.jpg", "top/sub/notes.txt", "top/Thumbs.db", "top/b.mp4")
    os.mkfifo("top/pipe.jpg")
    os.symlink("nowhere.jpg", "top/link.jpg")
    paths, (skipped, passed) = find("top")
    assert paths == ["top/a.jpg", "top/link.jpg"]
    assert sorted(skipped.removeprefix("top: skipped ").split(", ")) == ["1 .jpg", "1 .mp4", "1 .txt"]
    assert all(name in passed for name in (".hidden.jpg", "@eaDir", "Thumbs.db"))


def test_names_of_any_bytes():
    touch(b"top/\xff.jpg", b"top/new\nline.jpg", b"top/\x1b[31m.jpg")
    assert [os.fsencode(path) for path in find("top")[0]] == [
        b"top/\x1b[31m.jpg",
        b"top/new\nline.jpg",
        b"top/\xff.jpg",
    ]


def test_a_circle_of_links_is_refused():
    touch("top/class/a.jpg")
    os.symlink("..", "top/class/up")
    with refused(DataError, kind="circular_link"):
        find("top")


# ---- files, repeated and missing ones ----


def test_files_are_taken_as_they_are_and_as_often():
    touch("a.jpg", "b.raw", "f/c.jpg")
    assert find("missing.jpg", "b.raw", "a.jpg", "f", "a.jpg")[0] == [
        "missing.jpg",
        "b.raw",
        "a.jpg",
        "f/c.jpg",
        "a.jpg",
    ]


@pytest.mark.parametrize(
    "arguments, given", [(["empty"], b""), (["-"], b""), (["-"], b"\n\r\n"), (["empty", "empty"], b"")]
)
def test_no_pictures(arguments, given):
    os.mkdir("empty")
    with refused(DataError, kind="no_pictures"):
        find(*arguments, given=given)


def test_an_empty_folder_beside_others_is_noted():
    os.mkdir("empty")
    assert find("empty", "a.jpg") == (["a.jpg"], ["empty: no pictures"])


# ---- lists ----


LISTS = {
    "lines.txt": b"a.jpg\r\nwith space,comma.jpg\n\nsub/c.jpg",
    "marked.txt": "\ufeffa.jpg\nwith space,comma.jpg\nsub/c.jpg\n".encode(),
    "sixteen.txt": "a.jpg\nwith space,comma.jpg\nsub/c.jpg\n".encode("utf-16"),
    "column.csv": b'path\na.jpg\n"with space,comma.jpg"\nsub/c.jpg\n',
    "no_header.csv": b'a.jpg,1\n"with space,comma.jpg",2\nsub/c.jpg,3\n',
    "other_column.csv": b'label,File_Path\n1,a.jpg\n2,"with space,comma.jpg"\n3,sub/c.jpg\n',
    "semicolons.csv": b"label;path\r\n1;a.jpg\r\n2;with space,comma.jpg\r\n3;sub/c.jpg\r\n",
    "tabs.tsv": b"path\tscore\na.jpg\t1,5\nwith space,comma.jpg\t2\nsub/c.jpg\t3\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(name, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / name).write_bytes(LISTS[name])
    names = ["a.jpg", "with space,comma.jpg", "sub/c.jpg"]
    assert find(f"lists/{name}")[0] == [f"lists/{path}" for path in names]  # missing: reported later
    touch(*names)
    assert find(f"lists/{name}")[0] == names  # from the working directory
    touch("lists/sub/c.jpg")
    assert find(f"lists/{name}")[0] == [*names[:2], "lists/sub/c.jpg"]


def test_absolute_paths_in_a_list(tmp_path):
    (tmp_path / "l.txt").write_text(f"{tmp_path}/a.jpg\n")
    assert find("l.txt")[0] == [f"{tmp_path}/a.jpg"]


@pytest.mark.parametrize("name", ["l.txt", "l.csv"])
def test_names_of_any_bytes_in_a_list(name, tmp_path):
    (tmp_path / name).write_bytes(b"path\ncaf\xe9.jpg\n")
    assert os.fsencode(find(name)[0][-1]) == b"caf\xe9.jpg"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xd8\xff\xe0 a JPEG", b"PK\x03\x04", b"a\0b\n"])
def test_files_that_are_not_lists(content, tmp_path):
    if content is not None:
        (tmp_path / "l.txt").write_bytes(content)
    kinds = {None: "missing_file", b"": "empty_file"}
    with refused(DataError, kind=kinds.get(content, "not_text"), path="l.txt"):
        find("l.txt")


# ---- standard input ----


def test_standard_input():
    assert find("a.jpg", "-", given=b"b.jpg\r\nsp ace.jpg\n\nc\xff.jpg")[0] == [
        "a.jpg",
        "b.jpg",
        "sp ace.jpg",
        "c\udcff.jpg",
    ]
    assert find("-", given=b"b.jpg\0new\nline.jpg\0")[0] == ["b.jpg", "new\nline.jpg"]
    many = [f"{number}.jpg" for number in range(10_000)]
    assert find("-", given="\n".join(many).encode())[0] == many


def test_too_much_of_it(monkeypatch):
    monkeypatch.setattr(unlabelled, "LIST_BYTES", 10)
    assert split_paths(b"123456.jpg") == ["123456.jpg"]
    with refused(DataError, kind="long_input"):
        split_paths(b"1234567.jpg")
