"""Files of class names: every form gives the same classes, and what could shift them is refused."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from datasets import build_data
from datasets.base import DataError
from datasets.name_files import read_classnames
from utils.config import load_config

NAMES = ["tench", "goldfish", "great white shark"]
CODES = ["n01440764", "n01443537", "n01484850"]
LABELS = ["0", "1", "2"]  # what lists of numbers call the classes
LINES = "\n".join(NAMES)


def read(tmp_path, name, content, used):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_classnames(str(path), used)


def refusal(tmp_path, name, content, used):
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content, used)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and len(message.splitlines()) == 1
    return message.removeprefix(str(tmp_path / name))


# Each form of the three names in the order of their labels: file name, content.
FORMS = {
    "lines": ("n.txt", LINES),
    "no suffix": ("names", LINES),
    "darknet's": ("coco.names", LINES + "\n"),
    "labels": ("n.labels", LINES),
    "Windows": ("n.txt", LINES.replace("\n", "\r\n") + "\r\n\r\n"),
    "a byte order mark": ("n.txt", "\ufeff" + LINES),
    "UTF-16": ("n.txt", LINES.encode("utf-16")),
    "empty lines at the end": ("n.txt", LINES + "\n\n \n"),
    "header name": ("n.txt", "name\n" + LINES),
    "header classname": ("n.txt", "classname\n" + LINES),
    "header Class": ("n.txt", "Class\n" + LINES),
    "header label": ("n.labels", "label\n" + LINES),
    "a comment": ("n.txt", "# my classes\n" + LINES),
    "comments between": ("n.txt", "tench\n# carps\ngoldfish\n## sharks\ngreat white shark"),
    "a comment and a header": ("n.txt", "# my classes\nname\n" + LINES),
    "quotes": ("n.txt", '"tench"\n"goldfish"\n"great white shark"'),
    "quotes and commas": ("n.txt", "'tench',\n'goldfish',\n'great white shark'"),
    "quotes and a header": ("n.txt", '"name"\n"tench"\n"goldfish"\n"great white shark"'),
    "quoted table as text": ("n.txt", '"0","tench"\n"1","goldfish"\n"2","great white shark"'),
    "a comment with a semicolon": ("n.csv", "# classes; by me\n0,tench\n1,goldfish\n2,great white shark"),
    "bullets": ("n.txt", "- tench\n- goldfish\n- great white shark"),
    "stars": ("n.txt", "* tench\n* goldfish\n* great white shark"),
    "numbered by commas": ("n.txt", "0,tench\n1,goldfish\n2,great white shark"),
    "numbered by spaces": ("n.txt", "0 tench\n1 goldfish\n2 great white shark"),
    "numbered by colons": ("n.txt", "0: tench\n1: goldfish\n2: great white shark"),
    "numbered by tabs": ("n.txt", "0\ttench\n1\tgoldfish\n2\tgreat white shark"),
    "numbered by points": ("n.txt", "0. tench\n1. goldfish\n2. great white shark"),
    "numbered in another order": ("n.txt", "2 great white shark\n0 tench\n1 goldfish"),
    "numbered with a header": ("n.txt", "id name\n0 tench\n1 goldfish\n2 great white shark"),
    "numbered with a header and tabs": ("n.tsv", "id\tname\n0\ttench\n1\tgoldfish\n2\tgreat white shark"),
    "numbered as a person does": ("n.txt", "1. tench\n2. goldfish\n3. great white shark"),
    "numbered by brackets": ("n.txt", "1) tench\n2) goldfish\n3) great white shark"),
    "a name and its number": ("n.csv", "tench,0\ngoldfish,1\ngreat white shark,2"),
    "csv": ("n.csv", LINES),
    "csv with a header": ("n.csv", "name\n" + LINES),
    "csv of numbers": ("n.csv", "0,tench\n1,goldfish\n2,great white shark"),
    "csv of numbers with a header": ("n.csv", "id,name\n0,tench\n1,goldfish\n2,great white shark"),
    "csv of numbers with another header": ("n.csv", "Nr,Art\n0,tench\n1,goldfish\n2,great white shark"),
    "pandas": ("n.csv", ",name\n0,tench\n1,goldfish\n2,great white shark"),
    "name,label": ("n.csv", "name,label\ngoldfish,1\ntench,0\ngreat white shark,2"),
    "csv with a comment": ("n.csv", "# from my thesis\nname\n" + LINES),
    "numbered lines in a csv": ("n.csv", "0: tench\n1: goldfish\n2: great white shark"),
    "table as text": ("n.txt", "name,prompt name\n" + "\n".join(f"{name},{name}" for name in NAMES)),
    "JSON list": ("n.json", json.dumps(NAMES)),
    "JSON list as text": ("n.txt", json.dumps(NAMES)),
    "JSON list over lines": ("n.txt", json.dumps(NAMES, indent=2)),
    "Python list": ("n.txt", str(NAMES)),
    "id2label": ("n.json", json.dumps(dict(enumerate(NAMES)))),
    "id2label in another order": ("n.json", json.dumps({"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]})),
    "label2id": ("n.json", json.dumps({name: i for i, name in reversed([*enumerate(NAMES)])})),
    "label2id as text": ("n.txt", json.dumps({name: i for i, name in enumerate(NAMES)}, indent=1)),
    "Hugging Face's config": ("config.json", json.dumps({"model": "x", "id2label": dict(enumerate(NAMES)), "n": 3})),
    "ImageNet's index": ("n.json", json.dumps({str(i): [CODES[i], NAMES[i]] for i in (2, 0, 1)})),
    "categories": ("n.json", json.dumps({"categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)]})),
    "YAML list": ("n.yaml", yaml.safe_dump(NAMES)),
    "YAML in brackets": ("n.yml", "[tench, goldfish, great white shark]"),
    "YAML index": ("n.yaml", yaml.safe_dump(dict(enumerate(NAMES)))),
    "YAML under names": ("data.yaml", yaml.safe_dump({"nc": 3, "train": "x", "names": dict(enumerate(NAMES))})),
}


PLAIN = ("lines", "no suffix", "darknet's", "labels", "Windows", "a byte order mark", "UTF-16", "a comment", "csv")
PLAIN += ("empty lines at the end", "comments between", "quotes", "quotes and commas", "bullets", "stars")


@pytest.mark.parametrize("used", [LABELS, ["0", "1"], NAMES, NAMES[:2], []], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_names_in_the_order_of_the_labels(form, used, tmp_path):
    """For lists of numbers and for data that use the names; and where some classes have no image."""
    if form.startswith("numbered as a person") or form == "numbered by brackets":
        used = used or LABELS  # without any data, 1. may be label 1
    if used == ["0", "1"] and (form.startswith("header") or form.endswith("and a header")):
        message = refusal(tmp_path, *FORMS[form], used)
        assert "may be a header or the class of label 0; remove it if it is a header, or write" in message
        return
    if used == ["0", "1"] and form in PLAIN:
        message = refusal(tmp_path, *FORMS[form], used)
        assert "there is one name more than labels 0 to 1 need, and this line is " in message
        assert "tench" in message and "remove it if it is a header; if the last class has no pictures yet" in message
        return
    entries, notes = read(tmp_path, *FORMS[form], used)
    names, prompts = ([entry[column] for entry in entries] for column in (0, 1))
    assert prompts == NAMES
    assert set(used) <= set(names) or used == LABELS[: len(used)]
    assert names in (NAMES, LABELS, CODES)
    assert len(notes) == NOTES.get(form, 0)
    assert all(note.startswith(str(tmp_path / FORMS[form][0])) for note in notes)


NOTES = {  # how many each form gets: of a header, of comments, of numbers
    **{form: 1 for form in FORMS if form.startswith(("header", "a comment", "comments", "numbered"))},
    "csv with a comment": 1,
    "a comment and a header": 2,
    "quotes and a header": 1,
    "numbered with a header and tabs": 0,  # a table
}


PROMPTS = ["tench, Tinca tinca", "goldfish", "great white shark"]
PAIRS = {
    "csv": ("n.csv", "\n".join(f'{code},"{prompt}"' for code, prompt in zip(CODES, PROMPTS, strict=True))),
    "csv with a header": (
        "n.csv",
        "wnid,words\n" + "\n".join(f'{code},"{prompt}"' for code, prompt in zip(CODES, PROMPTS, strict=True)),
    ),
    "csv, turned round": (
        "n.csv",
        "prompt name,name\n" + "\n".join(f'"{prompt}",{code}' for code, prompt in zip(CODES, PROMPTS, strict=True)),
    ),
    "tsv": ("n.tsv", "\n".join(map("\t".join, zip(CODES, PROMPTS, strict=True)))),
    "tabs in text": ("n.txt", "\n".join(map("\t".join, zip(CODES, PROMPTS, strict=True)))),
    "ImageNet's LOC_synset_mapping": ("n.txt", "\n".join(map(" ".join, zip(CODES, PROMPTS, strict=True)))),
    "JSON mapping": ("n.json", json.dumps(dict(zip(CODES, PROMPTS, strict=True)))),
    "JSON pairs": ("n.json", json.dumps([*map(list, zip(CODES, PROMPTS, strict=True))])),
    "JSON index": ("n.json", json.dumps({i: [CODES[i], PROMPTS[i]] for i in (1, 0, 2)})),
    "YAML mapping": ("n.yaml", yaml.safe_dump(dict(zip(CODES, PROMPTS, strict=True)))),
}


@pytest.mark.parametrize("used", [CODES, CODES[1:]], ids=str)
@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_prompt_names(form, used, tmp_path):
    entries, notes = read(tmp_path, *PAIRS[form], used)
    assert entries == list(zip(CODES, PROMPTS, strict=True))
    assert notes == ()


REAL = {  # lines that look like something else, and are names: content, what the data use
    "a class label": ("label\ndog", ["dog", "label"]),
    "a class name": ("name\ndog", ["dog", "name"]),
    "a class label among numbers": ("label\ndog", ["0", "1"]),
    "a comma": ("tench, Tinca tinca\nPerca, perch", ["0", "1"]),
    "numbers in names": ("4 wheels\n2 wheels\n3 wheels", ["0", "1", "2"]),
    "counted things": ("0 fingers\n1 finger\n2 fingers", ["0 fingers", "1 finger", "2 fingers"]),
    "sums of money": ("5 euros\n10 euros\n20 euros", ["0", "1", "2"]),
    "volumes": ("0.5 litres\n1.5 litres", ["0", "1"]),
    "years": ("1984\n2001", ["0", "1"]),
    "aircraft": ("707-320\n727-200\n737-200", ["0", "1", "2"]),
    "hashtags": ("#cat\n#dog", ["0", "1"]),
    "one hashtag": ("#cat\ndog", ["#cat", "dog"]),
    "brackets": ("[CLS]\n[PAD]", ["0", "1"]),
    "quotes in a name": ('the "Beagle"\nthe "Endurance"', ["0", "1"]),
    "a dash": ("- nothing\nsomething", ["0", "1"]),
    "a point": ("1. FC Nürnberg\n2. Liga\nVfB", ["0", "1", "2"]),
    "line separators of Unicode are no line ends": ("a b\nc", ["0", "1"]),
}


@pytest.mark.parametrize("case", REAL)
def test_names_stay_what_they_are(case, tmp_path):
    content, used = REAL[case]
    entries, notes = read(tmp_path, "n.txt", content, used)
    assert [prompt for _, prompt in entries] == content.split("\n")
    assert notes == ()


def test_csv_classes_called_as_a_title(tmp_path):
    for used in (["label", "dog"], ["0", "1"]):
        assert [name for name, _ in read(tmp_path, "n.csv", "label\ndog", used)[0]] == ["label", "dog"]
    assert read(tmp_path, "n.csv", "name\nname\ndog", ["dog", "name"])[0] == [("name", "name"), ("dog", "dog")]
    assert read(tmp_path, "n.csv", "class,a school class\ndog,a dog", ["class", "dog"])[0][0] == (
        "class",
        "a school class",
    )


def test_labels_of_one_and_up_are_read_by_name(tmp_path):
    for name, content in (
        ("n.csv", "1,tench\n2,goldfish\n3,great white shark"),
        ("n.txt", "1: tench\n2: goldfish\n3: great white shark"),
        ("n.txt", "1. tench\n2. goldfish\n3. great white shark"),
        ("n.json", json.dumps(dict(enumerate(NAMES, 1)))),
        ("n.json", json.dumps({name: i for i, name in enumerate(NAMES, 1)})),
    ):
        entries, _ = read(tmp_path, name, content, ["1", "2", "3"])
        assert entries == list(zip(["1", "2", "3"], NAMES, strict=True))


ODD = {  # what is refused: file name, content, what the data use, part of the answer
    "numbers from 1 for labels from 0": ("n.csv", "1,a\n2,b\n3,c", LABELS, "numbered 1 to 3, .*number them 0 to 2"),
    "a mapping from 1": ("n.json", '{"1": "a", "2": "b", "3": "c"}', LABELS, "numbered 1 to 3"),
    "label2id from 1": ("n.json", '{"a": 1, "b": 2, "c": 3}', LABELS, "numbered 1 to 3"),
    "a gap": ("n.json", '{"0": "a", "1": "b", "3": "c"}', LABELS, "numbered 0 to 3"),
    "a gap in lines": ("n.txt", "0: a\n1: b\n3: c", LABELS, "numbered 0 to 3"),
    "lines from 1 for labels from 0": ("n.txt", "1: a\n2: b\n3: c", LABELS, "numbered 1 to 3"),
    "no JSON": ("n.json", LINES, LABELS, ", line 1: this is not JSON .*; expected a name a line"),
    "JSON cut off": ("n.txt", '[\n"a",\n"b"', LABELS, ", line 3: this is not JSON"),
    "JSON lines": ("n.txt", '{"id": 0, "name": "a"}\n{"id": 1, "name": "b"}', LABELS, ", line 2: this is not JSON"),
    "JSON of a text": ("n.json", '"a"', LABELS, "neither a list nor a mapping"),
    "JSON of nothing": ("n.json", "[]", LABELS, "holds no class names"),
    "JSON of numbers with points": ("n.json", "[0.5, 1.5]", LABELS, "entry 1: expected a name, .*found 0.5"),
    "JSON of objects": ("n.json", '[{"a": 1}]', LABELS, 'entry 1: expected a name, .*found {"a": 1}'),
    "JSON three deep": ("n.json", '{"a": {"b": "c"}}', ["a"], "entry 1: expected a name"),
    "JSON with an empty name": ("n.json", '["a", ""]', LABELS, "entry 2: expected a name"),
    "JSON too deep": ("n.json", "[" * 100_000, LABELS, "this is not JSON"),
    "a key twice": ("n.json", '{"a": "b", "a": "c"}', ["a"], "'a' stands there twice"),
    "a key twice in YAML": ("n.yaml", "a: b\na: c\n", ["a"], "'a' stands there twice"),
    "YAML of lines": ("n.yaml", LINES, NAMES, "neither a list nor a mapping"),
    "damaged YAML": ("n.yaml", "- a\n- [b\n", LABELS, "this is not YAML"),
    "a YAML key that is a list": ("n.yaml", "? [a, b]\n: c\n", ["a"], "this is not YAML"),
    "a name twice": ("n.json", '["a", "a"]', LABELS, "entry 2: the name 'a' stands in entry 1, too"),
    "a prompt twice": ("n.json", '{"a": "x", "b": "x"}', ["a"], "entry 2: the prompt name 'x' stands in entry 1, too"),
    "what may be a comment": ("n.txt", "#a\nb\nc", ["0", "1"], ", line 1: '#a' may be a comment or a class name"),
    "an empty line": ("n.txt", "a\n\nb", LABELS, ", line 2: expected a class name"),
    "three columns": ("n.csv", "0,a,b\n1,c,d", LABELS, "line 1: expected a class name"),
    "control characters": ("n.txt", "a\x0cb\nc", ["0", "1"], ", line 1: .* cannot be a class name"),
    "commas alone": ("n.csv", ",\n,,\n", LABELS, " has separators alone; it needs a line for each"),
    "a header alone": ("n.csv", "name\n", LABELS, " has a header and no class names"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_could_be_wrong_is_refused(case, tmp_path):
    name, content, used, answer = ODD[case]
    assert re.search(answer, refusal(tmp_path, name, content, used))


def test_yaml_names_are_text(tmp_path):
    """YAML itself would read booleans, an octal number and nothing."""
    content = "- no\n- yes\n- 007\n- null\n- 1e3\n- 2001-01-01\n"
    names = [name for name, _ in read(tmp_path, "n.yaml", content, [])[0]]
    assert names == ["no", "yes", "007", "null", "1e3", "2001-01-01"]


@pytest.mark.parametrize("form", ["id2label", "numbered with a header", "header name", "csv of numbers with a header"])
def test_lists_of_numbers_get_the_right_names(form, tmp_path):
    """From the configuration to the labels: image c is of the class that the file gives number c."""
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "train.csv").write_text("".join(f"{i}.png,{i}\n" for i in range(3)))
    (tmp_path / "test.csv").write_text("".join(f"{i}.png,{i - 3}\n" for i in range(3, 6)))
    name, content = FORMS[form]
    (tmp_path / name).write_text(content)
    options = ["train_list", "train.csv", "test_list", "test.csv", "classnames", name]
    options = [str(tmp_path / word) if "." in word else word for word in options]
    data = build_data(load_config("folder", "clip_tiny", "lift+", options))
    assert data.classnames == NAMES
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 2]
