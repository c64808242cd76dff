"""`-d folder`: your own pictures in each layout; bad input is in bad_folders.yaml."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import assert_one_sentence, photograph, refused
from PIL import Image

import main
from datasets import DATASETS, build_data, load_data
from datasets.images import ImageList
from datasets.own import tables
from datasets.own.folder import EXTENSIONS
from datasets.own.splits import hold_out, thin
from datasets.sets import digits_lt
from utils import config
from utils.config import load_config
from utils.config.schema import SCHEMA
from utils.errors import DataError

LINK = "link to "  # content of a file that is a link
TWO = dict.fromkeys(f"{split}/{name}/{i}.jpg" for split in ("train", "test") for name in ("cat", "dog") for i in (1, 2))
FLAT = dict.fromkeys(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(5))
ROWS = [f"cat/{i}.jpg,cat" for i in range(4)] + [f"dog/{i}.jpg,dog" for i in range(4)]
LISTS = FLAT | {"train.csv": "\n".join(ROWS), "test.csv": "cat/4.jpg,cat\ndog/4.jpg,dog\n"}
NUMBERED = {file: text and text.replace(",cat", ",0").replace(",dog", ",1") for file, text in LISTS.items()}
BOTH = ("train_list", "ROOT/train.csv", "test_list", "ROOT/test.csv")
NFD = unicodedata.normalize("NFD", "Ähre")


def with_line(line, base=LISTS, file="train.csv"):
    """The lists with an additional line: line 9 of the training list."""
    return base | {file: base[file].rstrip("\n") + "\n" + line}


BASES = {"two": TWO, "flat": FLAT, "lists": LISTS, "numbered": NUMBERED}  # of bad_folders.yaml
with open(Path(__file__).with_name("bad_folders.yaml"), encoding="utf-8") as file:
    BAD = {case["case"]: case for case in yaml.safe_load(file)}


@pytest.fixture(scope="module")
def jpegs():
    """Small crops of scikit-learn's two photographs, as JPEG files."""
    files = []
    for i in range(12):
        file = io.BytesIO()
        Image.fromarray(photograph(("china.jpg", "flower.jpg")[i % 2])[16 * i :, 24 * i :][:40, :50]).save(file, "JPEG")
        files.append(file.getvalue())
    return files


@pytest.fixture
def make(tmp_path, jpegs):
    """make({path: content}) -> a folder with these files."""

    def write(files, root=tmp_path / "own pictures"):
        for i, (name, content) in enumerate(files.items()):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(parents=True)
            elif isinstance(content, str) and content.startswith(LINK):
                path.symlink_to(content.removeprefix(LINK))
            elif content is None:
                path.write_bytes(jpegs[i % len(jpegs)])
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        root.mkdir(exist_ok=True)
        return root

    return write


@pytest.fixture
def command(random_clip, tmp_path, monkeypatch, capsys):
    """command(root, options) -> (exit status, stderr) of a run of one epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBUG", raising=False)

    def run(root, *options, data="folder"):
        quick = ("weights", random_clip, "num_epochs", 1, "batch_size", 4, "output_dir", "run", "report", "False")
        options = [str(option).replace("ROOT", str(root)) for option in options]
        if root is not None and "root" not in options:
            options += ["root", str(root)]
        workers = () if "num_workers" in options else ("num_workers", 0)
        status = main.main(["-d", data, "-b", "clip_vit", "-m", "lift+", *map(str, (*quick, *workers)), *options])
        return status, capsys.readouterr().err

    return run


def build(root, *options):
    """The data set of `-d folder root ROOT` with options."""
    options = [str(option).replace("ROOT", str(root)) for option in options]
    root = [] if "root" in options else ["root", str(root)]
    return build_data(load_config("folder", "clip_tiny", "lift+", [*root, *options]))


# ---- bad input ----


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name, make, command, tmp_path):
    """With an error that has these fields; on the command line in one sentence, and without any output files."""
    case = BAD[name]
    files = BASES.get(case.get("base"), {}) | case.get("files", {})
    for file, line in case.get("append", {}).items():
        files = with_line(line.replace("HUGE", f"new.jpg,{5000 * '9'}"), files, file)
    options = [word for option in case.get("options", ()) for word in (BOTH if option == "LISTS" else (option,))]
    root = make(files)
    fields = {
        key: str(value).replace("ROOT", str(root)) if key == "path" else value for key, value in case["error"].items()
    }
    with refused(DataError, **fields):
        build(root, *options)
    status, error = command(root, *options)
    assert status == 2, error
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert not (tmp_path / "output").exists()


BAD_IMAGES = {
    "0 bytes": lambda good: b"",
    "cut after 3 bytes": lambda good: good[:3],
    "cut in its header": lambda good: good[:200],
    "cut in its pixels": lambda good: good[: len(good) // 2],
    "a web page": lambda good: b"<!DOCTYPE html><html>Please log in</html>",
    "a text": lambda good: b"cat\n" * 100,
    "a lost link": None,
}


@pytest.mark.parametrize(("name", "workers"), [*((name, 0) for name in BAD_IMAGES), ("0 bytes", 2), ("a lost link", 2)])
def test_a_bad_image_ends_a_run(name, workers, make, command):
    damage = BAD_IMAGES[name]
    root = make(TWO)
    bad = root / "train/dog/2.jpg"
    if damage:
        bad.write_bytes(damage(bad.read_bytes()))
    else:
        bad.unlink()
        bad.symlink_to("nowhere.jpg")
    status, error = command(root, "num_workers", workers)
    assert status == 2, error
    assert error.startswith(f"error: the image {bad} ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("place", ["train", "train/cat"])
def test_a_folder_without_permission(place, make, monkeypatch):
    """The tests may run as root, who can read everything, so the system's answer is mocked."""
    root = make(TWO)
    scandir = os.scandir

    def refuse(folder):
        if str(folder) == str(root / place):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuse)
    with refused(DataError, kind="unreadable_folder", path=root / place):
        build(root)


def test_a_list_without_permission(make, monkeypatch):
    root = make(LISTS)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tables, "read_limited", refuse)
    with refused(DataError, kind="unreadable_file", path=root / "train.csv"):
        DATASETS["folder"]("folder", str(root), train_list=str(root / "train.csv"), test_fraction=0.2)


@pytest.mark.parametrize("key", ["train_list", "test_list", "test_fraction", "classnames", "imbalance", "outside_root"])
def test_published_sets_refuse_the_keys_of_own_data(key, command):
    value = {"test_fraction": 0.2, "imbalance": 10, "outside_root": True}.get(key, "file.csv")
    with refused(DataError, kind="not_a_folder_data_set", key=key):
        load_data("digits_lt", **{key: value})
    assert command(None, key, value, data="digits_lt")[0] == 2


# ---- folders ----


def labelled(images, data):
    """{path below root: class name} of a split."""
    names = [data.classnames[label] for label in images.labels]
    return dict(zip((os.path.relpath(path, data.root) for path in images.images.paths), names, strict=True))


def test_pictures_in_subfolders_belong_to_the_class(make):
    data = build(make(TWO | {"train/cat/summer/day 1/a.png": None, "train/cat/.hidden/b.png": None}))
    assert labelled(data.train, data)["train/cat/summer/day 1/a.png"] == "cat"
    assert len(data.train) == 5


def test_every_format_is_found_in_any_letters(make):
    names = [f"train/cat/{i}{suffix}" for i, suffix in enumerate(sorted(EXTENSIONS))]
    data = build(
        make(TWO | dict.fromkeys([*names, *(name.upper().replace("TRAIN/CAT", "train/dog") for name in names)]))
    )
    assert data.class_counts.tolist() == [len(EXTENSIONS) + 2] * 2


def test_names_may_be_anything(make, command):
    odd = ["train/my cats/a b.jpg", "train/my cats/ä☃.jpg", "train/my cats/new\nline.jpg", "train/my cats/c\udce9.jpg"]
    odd += [
        "train/dog/,;.jpg",
        'train/dog/"quoted".jpg',
        "train/dog/-.jpg",
        "test/dog/$(x) & ~.jpg",
        "test/my cats/%.jpg",
    ]
    root = make(dict.fromkeys(odd))
    data = build(root)
    assert data.classnames == ["dog", "my cats"]
    assert sorted(labelled(data.train, data)) == sorted(odd[:-2])
    assert command(root) == (0, "")


def test_links_are_followed(make):
    files = {"far/1.jpg": None, "far/sub/2.jpg": None, "far/dogs/3.jpg": None, "pic.jpg": None}
    links = {"train/cat": LINK + "../far", "train/dog/1.jpg": LINK + "../../pic.jpg", "test": LINK + "train"}
    data = build(make(files | links))
    assert data.class_counts.tolist() == [3, 1]
    assert len(data.test) == 4


def test_what_is_not_a_file_is_skipped(make):
    """Reading a pipe would block; a folder may be named like a picture."""
    root = make(TWO | {"train/cat/folder.jpg/": "", "train/cat/full.jpg/3.jpg": None})
    os.mkfifo(root / "train/cat/pipe.jpg")
    data = build(root)
    assert labelled(data.train, data).keys() == {p for p in TWO if p.startswith("train")} | {"train/cat/full.jpg/3.jpg"}


def test_unicode_forms_of_a_name_are_one_class(make):
    root = make(
        {"train/Ähre/1.jpg": None, f"train/{NFD}/2.jpg": None, "train/b/1.jpg": None, f"test/{NFD}/1.jpg": None}
    )
    data = build(root)
    assert data.classnames == ["b", "Ähre"]
    assert data.class_counts.tolist() == [1, 2]
    assert data.test.labels.tolist() == [1]
    assert f"{root}/train: folders with names in two Unicode forms are one class ('Ähre')" in data.notes


def test_what_a_user_should_know_is_told(make, command, tmp_path):
    """Beneath the data line, and in the log."""
    more = {
        "train/Cat/1.jpg": None,
        "train/eel/": "",
        "train/1.jpg": None,
        "train/cat/Thumbs.db": "x",
        "train/ox/1.tif": None,
    }
    root = make(TWO | more | {"val/cat/1.jpg": None})
    data = build(root)
    assert data.notes == (
        f"{root}/train: skipped 1 .jpg outside the class folders",
        f"{root}/train: ignored hidden names and leftovers of systems (1 Thumbs.db)",
        f"{root}/train: no pictures in 1 folders ('eel')",
        "2 of 4 classes: no test images ('Cat', 'ox')",
        "2 of 4 classes: the same name but for upper and lower case ('Cat', 'cat')",
    )
    lines = data.summary().splitlines()
    assert lines[0] == "folder: 6 training and 4 test images, 4 classes of 2 to 1 (0 many, 0 medium, 4 few)"
    assert lines[1:] == list(data.notes)
    assert command(root) == (0, "")
    log = (tmp_path / "output/run/log.txt").read_text()
    assert "\n".join(f"{' ' * 10}{note}" for note in data.notes) in log


def test_a_folder_of_pictures_called_train_is_a_class(make):
    """Someone sorts vehicles."""
    data = build(
        make(dict.fromkeys(f"{name}/{i}.jpg" for name in ("train", "bus") for i in range(4))), "test_fraction", 0.5
    )
    assert data.classnames == ["bus", "train"]
    assert data.class_counts.tolist() == [2, 2]


def test_the_order_of_the_disk_does_not_matter(make, monkeypatch):
    root = make(TWO | {"train/cat/sub/0.jpg": None})
    data, scandir = build(root), os.scandir
    for backwards in (False, True):

        def sorted_scandir(folder, backwards=backwards):
            with scandir(folder) as entries:
                return contextlib.nullcontext(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

        monkeypatch.setattr("os.scandir", sorted_scandir)
        assert build(root).train.fingerprint(str(root)) == data.train.fingerprint(str(root))


# ---- lists ----

PARTED = {
    "comma": "\n".join(ROWS),
    "header": "\n".join(["path,label", *ROWS]),
    "class name": "\n".join(["PATH, ClassName", *ROWS]),
    "more columns": "\n".join(["id,label,day,image_path", *(f"7,{r.split(',')[1]},,{r.split(',')[0]}" for r in ROWS)]),
    "semicolon": "\n".join(ROWS).replace(",", ";"),
    "tab": "\n".join(ROWS).replace(",", "\t"),
    "space": "\n".join(ROWS).replace(",", " "),
    "windows": "\r\n".join(["path,label", *ROWS, ""]),
    "old mac": "\r".join(ROWS),
    "empty lines": "\n\n".join(["", *ROWS, "", ""]),
    "byte order mark": "\ufeff" + "\n".join(["path,label", *ROWS]),
    "mark without header": "\ufeff" + "\r\n".join(ROWS),
    "utf-16": "\n".join(ROWS).encode("utf-16"),
    "quotes": "\n".join('"' + row.replace(",", '","') + '"' for row in ROWS),
    "spaces around": "\n".join(ROWS).replace(",", ", ").replace("\n", " \n"),
    "spaces before quotes": "\n".join(['"label", "path"', *(f'{r[:3]}, "{r.split(",")[0]}"' for r in ROWS)]),
    "backslashes": "\n".join(ROWS).replace("/", "\\"),
    "Excel's first line": "sep=;\r\n" + "\r\n".join(ROWS).replace(",", ";"),
    "Excel's first line and a header": "SEP=,\n"
    + "\n".join(["label,path", *(",".join(r.split(",")[::-1]) for r in ROWS)]),
    "Excel's first line in quotes": '"sep=;"\n' + "\n".join(ROWS).replace(",", ";"),
    "Excel's first line with a tab": "sep=\t\n" + "\n".join(ROWS).replace(",", "\t"),
    "Excel's first line with a bar": "\ufeffsep=|\n" + "\n".join(ROWS).replace(",", "|"),
    "space and quotes": "\n".join(ROWS).replace(",", ' "').replace("\n", '"\n') + '"',
    "dots": "\n".join("./" + row.replace("/", f"/.././{row[:3]}//") for row in ROWS),
}


@pytest.mark.parametrize("form", PARTED)
def test_a_list_may_be_written_in_many_ways(form, make):
    data = build(make(LISTS | {"train.csv": PARTED[form]}), *BOTH)
    assert data.classnames == ["cat", "dog"]
    assert labelled(data.train, data) == dict(row.split(",") for row in ROWS)
    assert labelled(data.test, data) == {"cat/4.jpg": "cat", "dog/4.jpg": "dog"}
    assert data.train.fingerprint(data.root) == build(make(LISTS), *BOTH).train.fingerprint(data.root)


SEPARATORS = {"tab": "\t", "semicolon": ";", "comma": ","}
CLASSES = {  # two classes, and the separators that may be around them without quotes
    "commas": ("big, brown", "small, grey", "\t;"),
    "one comma": ("big, brown", "grey", "\t;"),
    "decimal commas": ("1,5", "2,5", "\t;"),
    "semicolons": ("big; brown", "small; grey", "\t,"),
    "one semicolon": ("brown", "small; grey", "\t,"),
    "both": ("big; brown, old", "grey", "\t"),
}


HEADERS = ["", "path{}label\n", "id{0}path{0}label\n"]
PATHS = ["{}/{}.jpg", "{},a/{}.jpg", "{};b/{},c.jpg", "{} d/{}.JPG", "{}.jpg/x;{}.png"]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("classes", CLASSES)
def test_the_first_rows_choose_the_separator(classes, separator, make):
    """By more than the first line: names and paths may contain other separators."""
    *names, allowed = CLASSES[classes]
    separator = SEPARATORS[separator]
    for path, header in itertools.product(PATHS, HEADERS):
        quotes = "" if separator in allowed and separator not in path else '"'
        rows = {path.format(name.split()[0], i): name for i in range(3) for name in names}
        cells = [[f"{quotes}{cell}{quotes}" for cell in row] for row in rows.items()]
        numbered = [[str(i), *row] if header.startswith("id") else row for i, row in enumerate(cells)]
        text = header.format(separator) + "\n".join(separator.join(row) for row in numbered)
        root = make(dict.fromkeys(rows) | {"list.txt": text})
        data = build(root, "train_list", "ROOT/list.txt", "test_fraction", 0.5)
        assert labelled(data.train, data) | labelled(data.test, data) == rows


def test_several_labels_in_a_cell_are_reported(make):
    root = make(with_line("cat/4.jpg,cat|dog", file="train.csv") | {"test.csv": "dog/4.jpg,dog"})
    (note, *_) = build(root, *BOTH).notes
    assert note.startswith(f"{root}/train.csv: 'cat|dog': combinations of other class names")


def test_marks_of_direction_are_no_part_of_a_class(make):
    """They are invisible, and right-to-left scripts need none."""
    files = {
        "train/cat\u200e/1.jpg": None,
        "train/cat/2.jpg": None,
        "train/חתול\u200f/1.jpg": None,
        "test/cat/1.jpg": None,
    }
    data = build(make(files))
    assert data.classnames == ["cat", "חתול"]
    assert data.class_counts.tolist() == [2, 1]
    lists = LISTS | {"train.csv": "cat/1.jpg,\u202bcat\u202c\ndog/1.jpg,dog\n", "n.txt": "dog\u200e\n\u2067cat\u2069\n"}
    data = build(make(lists), *BOTH, "classnames", "ROOT/n.txt")
    assert data.classnames == ["dog", "cat"]


def test_odd_names_reach_no_terminal_raw(make):
    names = {"train/cat/a\x1b[31m.jpg": None, "train/cat/b\u202egpj.exe": "x", "train/c\u2066at/.\x07": "x"}
    root = make(TWO | names | {"train/dog/\x1b]0;x\x07.txt": "x", "train/.\nx": "x"})
    summary = build(root).summary()
    assert not any(sign in summary for sign in "\x1b\x07\u202e\u2066")
    assert "1 .\\nx" in summary and len(summary.splitlines()) == 4


def test_paths_and_classes_may_hold_anything(make, command):
    odd = {'a, b/"c"; ä.jpg': "cat, tabby", "new\nline.jpg": "dog"}
    quoted = "\n".join('"{}","{}"'.format(path.replace('"', '""'), name) for path, name in odd.items())
    root = make(dict.fromkeys(odd) | {"train.csv": quoted, "1.jpg": None, "test.csv": "1.jpg,dog"})
    data = build(root, *BOTH)
    assert labelled(data.train, data) == odd
    assert command(root, *BOTH) == (0, "")


def test_paths_start_from_the_lists_folder_without_root(make, monkeypatch):
    root = make(LISTS)
    data = build(root, *BOTH, "root", None)
    assert data.root == str(root)
    monkeypatch.chdir(root)
    here = build(root, "train_list", "train.csv", "test_list", "./test.csv", "root", None)
    assert here.train.fingerprint(here.root) == data.train.fingerprint(data.root)


def test_absolute_paths_below_root_are_relative_ones(make):
    root = make(LISTS)
    make({"absolute.csv": "\n".join(f"{root}/{row}" for row in ROWS)})
    data = build(root, "train_list", "ROOT/absolute.csv", "test_list", "ROOT/test.csv")
    assert data.train.fingerprint(data.root) == build(root, *BOTH).train.fingerprint(str(root))


def test_images_outside_root_need_an_option(make, command, tmp_path):
    root = make(LISTS | {"../elsewhere/1.jpg": None})
    make({"more.csv": "\n".join([*ROWS, "../elsewhere/1.jpg,cat", f"{tmp_path}/elsewhere/1.jpg,cat"])})
    options = ("train_list", "ROOT/more.csv", "test_list", "ROOT/test.csv")
    with refused(DataError, kind="outside_root", path=root / "more.csv", line=9, key="root"):
        build(root, *options)
    data = build(root, *options, "outside_root", True)
    assert data.train.images.paths[-1] == str(tmp_path / "elsewhere/1.jpg")
    assert data.class_counts.tolist() == [5, 4]  # the same image twice counts once
    assert command(root, *options, "outside_root", True) == (0, "")


def test_a_repeated_line_counts_once(make):
    root = make(with_line("cat/1.jpg,cat\n./cat/2.jpg,cat"))
    data = build(root, *BOTH)
    assert data.class_counts.tolist() == [4, 4]
    assert data.notes == (f"{root}/train.csv: 2 lines repeat an image; it counts once",)


def test_a_few_missing_images_are_told(make):
    """scripts/check_data.py must accept such a list, and bad_images skip leaves them out."""
    root = make(with_line("cat/77.jpg,cat"))
    note = f"{root}/train.csv: 1 of 9 checked images are missing, one in line 9 ({root}/cat/77.jpg); "
    assert build(root, *BOTH).notes == (note + "scripts/check_data.py lists all",)


def test_numbers_are_labels(make):
    data = build(make(NUMBERED | {"train.csv": "cat/1.jpg,0\ndog/1.jpg,01\ncat/2.jpg,2\n"}), *BOTH)
    assert data.classnames == ["0", "1", "2"]
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.notes == (
        "its classes are named 0, 1, 2, ...; set names that CLIP can read in a classnames file",
        "1 of 3 classes: no test images ('2')",
    )


def test_numbers_are_names_if_the_column_says_so(make):
    text = {
        "train.csv": "path,classname\ncat/1.jpg,1984\ndog/1.jpg,2001\n",
        "test.csv": "path,classname\ncat/4.jpg,2001",
    }
    data = build(make(LISTS | text), *BOTH)
    assert data.classnames == ["1984", "2001"]
    assert data.test.labels.tolist() == [1]


# ---- class names ----


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("n.txt", "dog\ncat"),
        ("n.txt", "\ufeffdog\r\ncat\r\n\r\n"),
        ("n.csv", "dog\ncat"),
        ("n.csv", "name\ndog\ncat"),
        ("n.csv", "dog,\ncat,"),
    ],
)
@pytest.mark.parametrize("files", [TWO, LISTS], ids=["folders", "lists"])
def test_class_names_give_the_order(files, file, names, make):
    data = build(make(files | {file: names}), *(BOTH if files is LISTS else ()), "classnames", f"ROOT/{file}")
    assert data.classnames == ["dog", "cat"]
    assert set(labelled(data.train, data).items()) == {
        (path, re.search("cat|dog", path)[0]) for path in data_paths(data)
    }


def data_paths(data):
    return [os.path.relpath(path, data.root) for path in data.train.images.paths]


@pytest.mark.parametrize("header", ["", "name,prompt name\n", "folder,prompt\n", "class,classname\n"])
@pytest.mark.parametrize("files", [TWO, LISTS], ids=["folders", "lists"])
def test_prompt_names_replace_names(files, header, make):
    names = {"n.csv": header + 'cat,"tabby, a cat"\ndog,hunting dog\neel,European eel\n'}
    data = build(make(files | names), *(BOTH if files is LISTS else ()), "classnames", "ROOT/n.csv")
    assert data.classnames == ["tabby, a cat", "hunting dog", "European eel"]
    assert data.class_counts[2] == 0
    assert data.notes == (
        "1 of 3 classes: no training images ('European eel')",
        "1 of 3 classes: no test images ('European eel')",
    )


def test_labels_are_places_in_the_class_names(make):
    root = make(NUMBERED | {"n.txt": "tench, Tinca tinca\ngoldfish\nshark\nray\n"})
    data = build(root, *BOTH, "classnames", "ROOT/n.txt")
    assert data.classnames == ["tench, Tinca tinca", "goldfish", "shark", "ray"]
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert f"{root}/n.txt: label 0 is 'tench, Tinca tinca', 1 'goldfish'" in data.notes
    make({"n.csv": "1,goldfish\n0,tench\n"})  # numbers as names: their rows may be in any order
    data = build(root, *BOTH, "classnames", "ROOT/n.csv")
    assert data.classnames == ["goldfish", "tench"]
    assert data.train.labels.tolist() == [1] * 4 + [0] * 4
    assert f"{root}/n.csv: label 0 is 'tench', 1 'goldfish'" in data.notes


def test_numbered_folders_are_places_in_the_class_names(make):
    """Text would sort 10 before 2."""
    files = dict.fromkeys(f"{c}/{i}.jpg" for c in range(11) for i in range(2))
    root = make(files | {"n.txt": "zero one two three four five six seven eight nine ten".replace(" ", "\n")})
    data = build(root, "test_fraction", 0.5, "classnames", "ROOT/n.txt")
    assert labelled(data.train, data) | labelled(data.test, data) == {
        path: data.classnames[int(path.split("/")[0])] for path in files
    }
    assert f"{root}/n.txt: label 0 is 'zero', ..., 10 'ten'" in data.notes
    assert build(root, "test_fraction", 0.5).classnames[:3] == ["0", "1", "10"]


def test_a_class_without_training_images_is_recognised(make, command, tmp_path):
    """Its name suffices for a semantic head; the mean of its features does not exist."""
    root = make(TWO | {"test/eel/1.jpg": None, "n.txt": "cat\ndog\neel\n"})
    for loss in ("LA", "CE", "LDAM", "CB", "GRW", "LADE"):
        assert command(root, "classnames", "ROOT/n.txt", "loss_type", loss, "output_dir", loss) == (0, "")
        results = json.loads((tmp_path / f"output/{loss}/results.json").read_text())
        assert [(row["name"], row["train"], row["test"]) for row in results["per_class"]][2] == ("eel", 0, 1)
    status, error = command(root, "classnames", "ROOT/n.txt", "classifier_init", "class_mean")
    assert status == 2
    assert_one_sentence(error)


# ---- held-out tests, synthetic long tails, thresholds ----


def pictures_of(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return ImageList.of_paths([f"/data/{c}/{i:06}.jpg" for i, c in enumerate(labels)], labels)


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.999])
def test_every_class_is_split_by_the_fraction(fraction):
    counts = [1, 2, 3, 10, 11, 200, 0, 7]
    images = pictures_of(*counts)
    train, test = hold_out(images, fraction, "/data")
    assert sorted(train.images.paths + test.images.paths) == images.images.paths
    for part in (train, test):
        assert part.images.paths == sorted(part.images.paths)  # in the order of the list
        assert all(
            path.startswith(f"/data/{label}/") for path, label in zip(part.images.paths, part.labels, strict=True)
        )
    expected = [min(max(int(n * fraction + 0.5), 1), n - 1) if n > 1 else 0 for n in counts]
    assert np.bincount(test.labels, minlength=len(counts)).tolist() == expected


def test_the_split_is_no_matter_of_seed_place_or_neighbours(make, tmp_path):
    files = dict.fromkeys(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(20))
    root = make(files)
    data = build(root, "test_fraction", 0.3)
    tested = set(labelled(data.test, data))
    assert len(tested) == 12
    for other in (
        build(root, "test_fraction", 0.3, "seed", 5),
        build(make(files, tmp_path / "b"), "test_fraction", 0.3),
    ):
        assert set(labelled(other.test, other)) == tested
        assert other.train.fingerprint(other.root) == data.train.fingerprint(data.root)
    data = build(make({"ant/1.jpg": None, "ant/2.jpg": None, "cat/new.jpg": None}), "test_fraction", 0.3)
    kept = set(labelled(data.test, data)) & tested
    assert len(kept) >= 11
    assert {path for path in tested if path.startswith("dog")} <= kept


def test_training_pictures_alone_are_split_too(make):
    data = build(make({path: None for path in TWO if path.startswith("train")}), "test_fraction", 0.5)
    assert data.class_counts.tolist() == [1, 1]
    data = build(make(LISTS), *BOTH[:2], "test_fraction", 0.25)
    assert data.class_counts.tolist() == [3, 3]
    assert len(data.test) == 2


@pytest.mark.parametrize(
    ("counts", "imbalance"), [([40] * 5, 20), ([100] * 10, 100), ([50, 50], 1), ([60, 7, 60, 60], 10)]
)
def test_imbalance_thins_as_cifar_is_thinned(counts, imbalance):
    """Against the papers' procedure with numpy's global generator."""
    images = pictures_of(*counts)
    num_classes = len(counts)
    state = np.random.get_state()
    np.random.seed(0)
    expected = []
    for c in range(num_classes):
        indices = np.flatnonzero(images.labels == c)
        np.random.shuffle(indices)
        expected += indices[: int(max(counts) * (1 / imbalance) ** (c / (num_classes - 1)))].tolist()
    np.random.set_state(state)
    wanted = np.array([int(max(counts) * (1 / imbalance) ** (c / (num_classes - 1))) for c in range(num_classes)])
    thinned = thin(images, wanted)
    assert thinned.images.paths == [images.images.path(i) for i in sorted(expected)]
    assert thinned.labels.tolist() == images.labels[sorted(expected)].tolist()


def test_imbalance_of_a_folder(make):
    files = dict.fromkeys(
        f"{split}/{c}/{i}.jpg" for split, n in (("train", 12), ("test", 2)) for c in "abc" for i in range(n)
    )
    root = make({path: None for path in files if path not in ("train/b/1.jpg",)})
    data = build(root, "imbalance", 6)
    assert data.class_counts.tolist() == [12, 4, 2]
    assert len(data.test) == 6
    assert data.notes == ()
    for i in range(3, 12):
        (root / f"train/b/{i}.jpg").unlink()
    data = build(root, "imbalance", 6)
    assert data.class_counts.tolist() == [12, 2, 2]
    assert data.notes == ("1 of 3 classes: fewer training images than imbalance 6 needs, so all are used ('b')",)
    assert build(root, "imbalance", 100).class_counts.tolist() == [12, 1, 1]  # none loses its last image


def test_thresholds_make_the_groups(make, command, tmp_path):
    root = make(
        dict.fromkeys(f"{split}/{c}/{i}.jpg" for split in ("train", "test") for c in range(3) for i in range(2 * c + 1))
    )
    data = build(root, "many_threshold", 3, "few_threshold", 2)
    assert {name: mask.tolist() for name, mask in data.groups.items()} == {
        "many": [False, False, True],
        "medium": [False, True, False],
        "few": [True, False, False],
    }
    assert "(1 many, 1 medium, 1 few; many: above 3, few: below 2)" in data.summary()
    assert command(root, "many_threshold", 3, "few_threshold", 2) == (0, "")
    accuracy = json.loads((tmp_path / "output/run/results.json").read_text())["accuracy"]
    assert None not in accuracy.values()
    command(root, "many_threshold", 5, "few_threshold", 5, "test_only", True)  # the run is found again
    accuracy = json.loads((tmp_path / "output/run/results_test.json").read_text())["accuracy"]
    assert [accuracy[name] is None for name in ("many", "medium", "few")] == [True, False, False]


def test_published_sets_take_thresholds():
    data = build_data(load_config("digits_lt", "clip_tiny", "lift+", ["many_threshold", "50", "few_threshold", "10"]))
    assert [int(mask.sum()) for mask in data.groups.values()] == [3, 3, 4]


def test_every_key_reaches_the_builder(make):
    """With another value than the default, each changes the data set."""
    keys = {
        "train_list": "t",
        "test_list": "t",
        "classnames": "n",
        "test_fraction": 0.5,
        "imbalance": 3,
        "outside_root": True,
    }
    seen = {}
    cfg = load_config("folder", "clip_tiny", "lift+", [str(x) for pair in keys.items() for x in pair])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "folder", lambda name, root, **own: seen.update(own) or digits_lt.build(name))
        build_data(cfg)
    assert seen == keys


# ---- every layout from the command line ----

MANY = [f"{name}/{i}.jpg" for name in ("bus", "bicycle", "tram") for i in range(6)]
LAYOUTS = {
    "train and test": ({f"{'test' if i % 6 < 2 else 'train'}/{path}": None for i, path in enumerate(MANY)}, ()),
    "train and val": ({f"{'val' if i % 6 < 2 else 'train'}/{path}": None for i, path in enumerate(MANY)}, ()),
    "one folder": (dict.fromkeys(MANY), ("test_fraction", 0.34)),
    "lists of names": (
        dict.fromkeys(MANY)
        | {
            "train.csv": "path,classname\n"
            + "".join(f"{p},{p.split('/')[0]}\n" for i, p in enumerate(MANY) if i % 6 > 1),
            "test.csv": "path,classname\n"
            + "".join(f"{p},{p.split('/')[0]}\n" for i, p in enumerate(MANY) if i % 6 < 2),
        },
        BOTH,
    ),
    "one list of labels": (
        {path.replace("/", "_"): None for path in MANY}
        | {
            "all.tsv": "".join(f"{p.replace('/', '_')}\t{i // 6}\n" for i, p in enumerate(MANY)),
            "names.csv": "name,prompt name\n0,city bus\n1,bicycle\n2,tram\n",
        },
        ("train_list", "ROOT/all.tsv", "test_fraction", 0.34, "classnames", "ROOT/names.csv"),
    ),
    "long tail": (dict.fromkeys(MANY), ("test_fraction", 0.34, "imbalance", 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_and_tests(layout, make, command, tmp_path):
    files, options = LAYOUTS[layout]
    root = make(files)
    assert command(root, *options) == (0, "")
    results = json.loads((tmp_path / "output/run/results.json").read_text())
    per_class = {row["name"]: (row["train"], row["test"]) for row in results["per_class"]}
    names = {"city bus", "bicycle", "tram"} if layout == "one list of labels" else {"bus", "bicycle", "tram"}
    assert per_class.keys() == names
    assert sorted(per_class.values()) == ([(1, 2), (2, 2), (4, 2)] if layout == "long tail" else [(4, 2)] * 3)
    assert command(root, *options, "test_only", True) == (0, "")
    tested = json.loads((tmp_path / "output/run/results_test.json").read_text())
    assert tested["accuracy"] == results["accuracy"]
    assert tested["data"]["fingerprint"] == results["data"]["fingerprint"]


def test_another_test_list_is_tested_with_the_same_run(make, command, tmp_path):
    root = make(LISTS | {"other.csv": "dog/4.jpg,dog\n"})
    assert command(root, *BOTH, "output_dir", None) == (0, "")
    other = ("train_list", "ROOT/train.csv", "test_list", "ROOT/other.csv", "output_dir", None, "test_only", True)
    assert command(root, *other) == (0, "")
    (run,) = (tmp_path / "output").iterdir()
    assert "_train_list_train" in run.name
    assert sum(row["test"] for row in json.loads((run / "results_test_other.json").read_text())["per_class"]) == 1
    assert not (run / "results_test.json").exists()


def test_a_run_of_other_lists_is_not_replaced(make, command):
    """Two lists with one file name: their content counts."""
    root = make(LISTS)
    assert command(root, *BOTH) == (0, "")
    (root / "train.csv").write_text("\n".join(ROWS[1:]))
    status, error = command(root, *BOTH)
    assert status == 2
    assert_one_sentence(error)


def test_data_sets_without_options_are_built_as_ever():
    data = build_data(load_config("digits_lt", "clip_tiny", "lift+", []))
    assert data.train.fingerprint() == DATASETS["digits_lt"]("digits_lt", None).train.fingerprint()
    assert data.notes == ()


# ---- docs/data.md ----

DOCS = main.__file__.replace("main.py", "docs/data.md")


def documented_commands():
    with open(DOCS, encoding="utf-8") as file:
        return [line.split()[2:] for line in file if line.startswith("    python main.py ")]


def test_the_documented_commands_are_understood():
    commands = documented_commands()
    assert len(commands) >= 6
    for words in commands:
        args = main.parse(words)
        load_config(args.data, args.backbone, args.method, args.options)


def test_the_documented_keys_are_all():
    with open(DOCS, encoding="utf-8") as file:
        text = file.read()
    assert all(f"`{key}" in text for key in SCHEMA["Data"] if key != "bad_images")
    assert all(f"`{suffix}" in text or f" {suffix}" in text for suffix in EXTENSIONS)
    assert all(re.search(rf"(`|-d ){name}\b|`_{name.rpartition('_')[2]}`", text) for name in DATASETS)


def test_a_name_for_an_own_data_set(make, command, monkeypatch, tmp_path):
    """A YAML file in configs/data is a name for -d."""
    root = make(FLAT)
    configs = tmp_path / "configs"
    shutil.copytree(config.files.CONFIGS, configs)
    (configs / "data/pets.yaml").write_text(f"dataset: folder\nroot: {root}\ntest_fraction: 0.2\nfew_threshold: 5\n")
    monkeypatch.setattr(config.files, "CONFIGS", configs)
    assert command(None, "output_dir", None, data="pets") == (0, "")
    assert next((tmp_path / "output").iterdir()).name.startswith("pets_clip_vit_lift+")


def test_a_table_has_lines(tmp_path, monkeypatch):
    """A file of one endless line is an error before it is parsed."""
    monkeypatch.setattr("datasets.own.tables.LINE_LETTERS", 20)
    path = tmp_path / "list.csv"
    path.write_text("a.jpg,cat\n" + "b" * 21)
    with refused(DataError, kind="long_line", path=path, line=2):
        build_data(load_config("folder", "clip_tiny", "lift+", ["train_list", str(path), "test_fraction", "0.5"]))
