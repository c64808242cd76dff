"""Files of class names: every form results in the same classes, ambiguous ones are errors (bad_class_names.yaml)."""

import contextlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import refused
from PIL import Image

from datasets import build_data
from datasets.own.name_files import read_classnames
from utils.config import load_config
from utils.errors import DataError

NAMES = ["tench", "goldfish", "great white shark"]
CODES = ["n01440764", "n01443537", "n01484850"]
LABELS = ["0", "1", "2"]  # class names in lists of numbers
LINES = "\n".join(NAMES)
with open(Path(__file__).with_name("bad_class_names.yaml"), encoding="utf-8") as file:
    BAD = {case["case"]: case for case in yaml.safe_load(file)}


def read(tmp_path, name, content, used):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_classnames(str(path), used)


@contextlib.contextmanager
def refusing(tmp_path, name, kind, line=None):
    """Checks that the block raises an error about that file, in one line."""
    with refused(DataError, kind=kind, path=tmp_path / name, line=line) as caught:
        yield
    assert len(str(caught.value).splitlines()) == 1


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
    "Excel's": ("n.csv", "sep=;\r\n0;tench\r\n1;goldfish\r\n2;great white shark\r\n"),
    "Excel's with a header": ("n.csv", "sep=;\nname;id\ngoldfish;1\ntench;0\ngreat white shark;2"),
    "Excel's as text": ("n.txt", '"sep=,"\nid,name\n0,tench\n1,goldfish\n2,great white shark'),
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
    """For lists of numbers, for data that use the names, and if some classes have no image."""
    if form.startswith("numbered as a person") or form == "numbered by brackets":
        used = used or LABELS  # without any data, 1. may be label 1
    if used == ["0", "1"] and (form.startswith("header") or form.endswith("and a header")):
        with refusing(tmp_path, FORMS[form][0], "ambiguous_header", line=2 if "comment" in form else 1):
            read(tmp_path, *FORMS[form], used)
        return
    if used == ["0", "1"] and form in PLAIN:
        with refusing(tmp_path, FORMS[form][0], "one_name_too_many", line=2 if form == "a comment" else 1):
            read(tmp_path, *FORMS[form], used)
        return
    entries, notes = read(tmp_path, *FORMS[form], used)
    names, prompts = ([entry[column] for entry in entries] for column in (0, 1))
    assert prompts == NAMES
    assert set(used) <= set(names) or used == LABELS[: len(used)]
    assert names in (NAMES, LABELS, CODES)
    assert len(notes) == NOTES.get(form, 0)
    assert all(note.startswith(str(tmp_path / FORMS[form][0])) for note in notes)


NOTES = {  # number of variants of each form: of a header, of comments, of numbers
    **{form: 1 for form in FORMS if form.startswith(("header", "a comment", "comments", "numbered"))},
    "csv with a comment": 1,
    "a comment and a header": 2,
    "quotes and a header": 1,
    "numbered with a header and tabs": 0,  # a table
}


NUMBERED = {  # how a line, or the rows of a table, number the classes
    "n.txt": "{c},{n}|{c} {n}|{c}: {n}|{c}={n}|{c} = {n}|{n}={c}|({n}) {c}|{c} ({n})|[{n}] {c}|{c} [{n}]|{n} {c}"
    "|class {n}: {c}|{c}: class {n}|label_{n} {c}|{n} -> {c}|{c} -> {n}|{n} => {c}|{n} - {c}|{c} - {n}|{n}-{c}|{c}-{n}"
    "|{n}_{c}|{c}_{n}|{n}/{c}|{c} #{n}|{n}. {c}|{n}.{c}|{n}\t{c}|{c}\t{n}|{n}, '{c}'|{n}; {c}|\"{c}\";{n}",
    "n.csv": "{n},{c}|{c},{n}|{n};{c}|{c},class_{n}|class_{n},{c}|{n}: {c}|{c} {n}",
    "n.tsv": "{n}\t{c}|{c}\t{n}",
}
FORMATS = [(name, form) for name, forms in NUMBERED.items() for form in forms.split("|")]
ORDERS = {"cat": 2, "F-16": 0, "3D printer": 4, "red fox": 1, "Audi A4": 3}  # names in the order of a file


@pytest.mark.parametrize("used", [list("01234"), list(ORDERS), []], ids=["labels", "names", "nothing"])
@pytest.mark.parametrize("number", ["{}", "{:03d}", "{}.0"])
@pytest.mark.parametrize("name, form", FORMATS, ids=lambda text: text.replace("\t", "TAB"))
def test_numbers_give_the_order_wherever_they_are(name, form, number, used, tmp_path):
    lines = [form.format(c=c, n=number.format(n)) for c, n in ORDERS.items()]
    expected = sorted(ORDERS, key=ORDERS.get)
    entries, _ = read(tmp_path, name, "\n".join(lines), used)
    if used == list("01234"):
        assert sorted(entries) == list(zip(used, expected, strict=True))
    else:
        assert [prompt for _, prompt in entries] == expected
        assert not used or [name for name, _ in entries] == expected


def test_numbers_in_documents_give_the_order(tmp_path):
    names = sorted(ORDERS, key=ORDERS.get)
    for content in (
        {f"{n:03d}": c for c, n in ORDERS.items()},
        {f"class_{n}": c for c, n in ORDERS.items()},
        {f"{n}.0": c for c, n in ORDERS.items()},
        {c: float(n) for c, n in ORDERS.items()},
        {c: f"0{n}" for c, n in ORDERS.items()},
        {n: [c] for c, n in ORDERS.items()},
        {n: {"name": c} for c, n in ORDERS.items()},
        [f"{n}: {c}" for c, n in ORDERS.items()],
        [[c, n] for c, n in ORDERS.items()],
        [[n, c] for c, n in ORDERS.items()],
        [{"id": n, "label": c} for c, n in ORDERS.items()],
        [{"label": n, "name": c} for c, n in ORDERS.items()],
    ):
        for used in (list("01234"), names):
            entries = sorted(read(tmp_path, "n.json", json.dumps(content), used)[0])
            assert entries == sorted(zip(used, names, strict=True)), content


def test_numbers_that_the_data_use_in_another_spelling(tmp_path):
    for used in (["001", "002", "003"], ["1", "2", "3"]):
        entries, _ = read(tmp_path, "n.csv", "2,goldfish\n1,tench\n3,great white shark", used)
        assert sorted(entries) == list(zip(used, NAMES, strict=True))


def test_class_folders_called_by_numbered_words(tmp_path):
    used = ["class_0", "class_1"]
    for name, content in (
        ("n.txt", "class_1 dog\nclass_0 cat"),
        ("n.csv", "class_1,dog\nclass_0,cat"),
        ("n.json", '{"class_1": "dog", "class_0": "cat"}'),
    ):
        assert sorted(read(tmp_path, name, content, used)[0]) == [("class_0", "cat"), ("class_1", "dog")]


@pytest.mark.parametrize("header", ["species", "Class Names:", "category_name", "animal", "// my classes", "3"])
@pytest.mark.parametrize("name", ["n.txt", "n.csv", "n.labels"])
def test_a_name_more_than_the_labels_need_is_refused(name, header, tmp_path):
    with refusing(tmp_path, name, "one_name_too_many", line=1):
        read(tmp_path, name, f"{header}\n{LINES}", LABELS)


def test_more_names_than_labels(tmp_path):
    """An additional name in a JSON list or with numbers, or two: these are classes without pictures."""
    four = [*NAMES, "ray"]
    for name, content in (
        ("n.json", json.dumps(four)),
        ("n.txt", json.dumps(four)),
        ("n.txt", "\n".join(f"{i}: {name}" for i, name in enumerate(four))),
        ("n.csv", "\n".join(f"{i},{name}" for i, name in enumerate(four))),
        ("n.csv", "name,prompt name\n" + "\n".join(f"{name[:3]},{name}" for name in four)),
    ):
        assert [prompt for _, prompt in read(tmp_path, name, content, LABELS)[0]] == four
    assert len(read(tmp_path, "n.txt", "\n".join([*four, "eel"]), LABELS)[0]) == 5
    with refusing(tmp_path, "n.csv", "one_name_too_many", line=1):
        read(tmp_path, "n.csv", "art,wort\n" + "\n".join(f"{name[:3]},{name}" for name in NAMES), LABELS)


DOCUMENTS = {  # of the three names, below another suffix
    "--- and a list": "---\n- tench\n- goldfish\n- great white shark\n",
    "names: and a list": "names:\n- tench\n- goldfish\n- great white shark\n",
    "names: and an indented list": "nc: 3\nnames:\n  - tench\n  - goldfish\n  - great white shark\n",
    "names: and a mapping": "train: images\nnames:\n  2: great white shark\n  0: tench\n  1: goldfish\n",
    "names: in brackets": "names: [tench, goldfish, great white shark]\n",
    "a list of mappings": "- id: 2\n  name: great white shark\n- id: 0\n  name: tench\n- id: 1\n  name: goldfish\n",
    "comments and JSON": "# classes\n# of mine\n" + json.dumps(NAMES),
    "comments and JSON over lines": "# classes\n\n" + json.dumps(NAMES, indent=2) + "\n",
    "Windows": "# classes\r\n" + json.dumps(NAMES, indent=2).replace("\n", "\r\n"),
    "label_names": json.dumps({"label_names": NAMES}),
    "another key": json.dumps({"data": NAMES}),
    "objects": json.dumps([{"name": name} for name in NAMES]),
}


@pytest.mark.parametrize("suffix", ["txt", "csv", "names"])
@pytest.mark.parametrize("form", DOCUMENTS)
def test_documents_are_read_below_any_suffix(form, suffix, tmp_path):
    for used in (LABELS, NAMES):
        entries, notes = read(tmp_path, f"n.{suffix}", DOCUMENTS[form], used)
        assert [prompt for _, prompt in entries] == NAMES
        assert notes == ()


def test_the_first_of_several_names_counts(tmp_path):
    content = json.dumps({"1": ["dog", "hound"], "0": ["cat"], "2": ["fish", "pisces"]})
    for used in (LABELS, ["cat", "dog", "fish"]):
        assert [prompt for _, prompt in read(tmp_path, "n.json", content, used)[0]] == ["cat", "dog", "fish"]
    content = json.dumps({i: [CODES[i], NAMES[i]] for i in (1, 0, 2)})  # ImageNet's ids are not names
    assert [prompt for _, prompt in read(tmp_path, "n.json", content, LABELS)[0]] == NAMES
    content = json.dumps({"1": ["D07", "scratch"], "0": ["D01", "bridge"]})  # nor are codes that the data use
    assert read(tmp_path, "n.json", content, ["D01", "D07"])[0] == [("D01", "bridge"), ("D07", "scratch")]


def test_lines_of_ids_numbers_and_names(tmp_path):
    content = "n02119789 1 kit_fox\nn02100735 2 English_setter\nn02110185 3 husky"  # as in ILSVRC's map_clsloc.txt
    used = ["n02119789", "n02100735", "n02110185"]
    names = ["kit_fox", "English_setter", "husky"]
    assert read(tmp_path, "n.txt", content, used)[0] == list(zip(used, names, strict=True))
    with refusing(tmp_path, "n.txt", "wrong_numbers"):
        read(tmp_path, "n.txt", content, LABELS)
    entries, _ = read(tmp_path, "n.txt", content.replace(" 3 ", " 0 "), LABELS)
    assert entries == [("0", "husky"), ("1", "kit_fox"), ("2", "English_setter")]


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


REAL = {  # lines that look like something else, and are names: content, names in the data
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
    "ages": ("0-1\n1-2\n2-3", ["0", "1", "2"]),
    "decimal numbers": ("0.5 litres\n1 litre\n2 litres", ["0", "1", "2"]),
    "numbers behind names": ("Boeing 747\nAudi 2012\nvitamin B6", ["0", "1", "2"]),
    "grades": ("Grade 0\nGrade 1\nGrade 2", ["0", "1", "2"]),
    "numbers behind names that the data use": ("fish 2\ncat 0\ndog 1", ["cat 0", "dog 1", "fish 2"]),
    "a dash that the data use": ("dog\n---", ["---", "dog"]),
    "an enormous number": (f"{9999 * '9'} cats\n0 dogs", ["0", "1"]),
    "quotes in a name": ('the "Beagle"\nthe "Endurance"', ["0", "1"]),
    "a dash": ("- nothing\nsomething", ["0", "1"]),
    "a point": ("1. FC Nürnberg\n2. Liga\nVfB", ["0", "1", "2"]),
    "line separators of Unicode are not line ends": ("a b\nc", ["0", "1"]),
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


@pytest.mark.parametrize(("separator", "suffix"), [("\t", "tsv"), ("\t", "csv"), (";", "csv"), (",", "csv")])
@pytest.mark.parametrize("prompts", [["big, brown", "small, grey"], ["big; brown", "small"], ["a, b; c", "d"]], ids=str)
def test_prompt_names_may_have_other_separators(prompts, separator, suffix, tmp_path):
    quotes = '"' * any(separator in prompt for prompt in prompts)
    rows = [["D01", f"{quotes}{prompts[0]}{quotes}"], ["D02", f"{quotes}{prompts[1]}{quotes}"]]
    for header in ([], [["name", "prompt name"]]):
        text = "\n".join(separator.join(row) for row in [*header, *rows])
        for used in (["D01", "D02"], []):
            entries, _ = read(tmp_path, f"n.{suffix}", text, used)
            assert entries == [("D01", prompts[0]), ("D02", prompts[1])]


def test_a_document_costs_a_small_multiple_of_its_size(tmp_path):
    """Aliases that expand to 10^12 names, and a hundred thousand keys with a duplicate of the last."""
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise("abcdefghijklm")
    )
    with refusing(tmp_path, "bomb.yaml", "bad_entry"):
        read(tmp_path, "bomb.yaml", bomb, LABELS)
    keys = ", ".join(f'"a{i}": {i}' for i in range(100_000))
    with refusing(tmp_path, "n.json", "repeated_key"):
        read(tmp_path, "n.json", f'{{{keys}, "a99999": 0}}', LABELS)


@pytest.mark.parametrize("name", BAD)
def test_what_could_be_wrong_is_refused(name, tmp_path):
    case = BAD[name]
    with refusing(tmp_path, case["file"], **case["error"]):
        content = case["content"].replace("LONG", 20_001 * "x") * case.get("repeat", 1)
        read(tmp_path, case["file"], content, case["used"])


def test_yaml_names_are_text(tmp_path):
    """YAML itself would read booleans, an octal number and nothing."""
    content = "- no\n- yes\n- 007\n- null\n- 1e3\n- 2001-01-01\n"
    names = [name for name, _ in read(tmp_path, "n.yaml", content, [])[0]]
    assert names == ["no", "yes", "007", "null", "1e3", "2001-01-01"]


@pytest.mark.parametrize("form", ["id2label", "numbered with a header", "header name", "csv of numbers with a header"])
def test_lists_of_numbers_get_the_right_names(form, tmp_path):
    """From the configuration to the labels: image c is of the class with number c in the file."""
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
