"""Class names that are codes: their recognition, and the note about them."""

import pytest
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image

from datasets import build_data
from datasets.own.codes import are_codes
from datasets.sets import digits_lt
from utils.config import load_config


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "3"],
        ["0001", "0002", "0010"],
        ["n01440764", "n01443537"],
        ["C05", "C06", "C11"],
        ["sp_017", "sp_018", "sp_123"],
        ["class_1", "class_2"],
        ["Class 1", "class 12"],
        ["label-0", "label-1"],
        ["D01", "D02", "D07"],
        ["c0", "c1", "c2"],
        ["s3", "s1", "s2"],
        ["Stage0", "stage1"],
        ["tax_9606", "tax_9685"],
        ["tax.9606", "tax.10090", "tax.7227"],
        ["m.01yrx", "m.0bt9lr"],
        ["/m/01yrx", "/m/0bt9lr"],
        ["Q146", "Q144", "Q152"],
        ["1.0", "2.0"],
        ["-1", "1"],
        ["B07XJ8C8F5", "B08N5WRWNW"],
        ["d41d8cd98f00b204e9800998ecf8427e", "9e107d9d372bb6826bd81d3542a419d6"],
        ["123e4567-e89b-12d3-a456-426614174000", "223e4567-e89b-12d3-a456-426614174000"],
    ],
    ids=str,
)
def test_codes_are_codes(names):
    assert are_codes(names) == [True] * len(names)


@pytest.mark.parametrize(
    "names",
    [
        ["A4", "boeing 747", "zero"],
        ["A3", "A4", "A6"],
        ["B737", "B747"],
        ["A", "B", "C"],
        ["Q3", "Q5", "Q7", "Q8"],
        ["ICD10", "ICD11"],
        ["boeing_737", "boeing_747"],
        ["audi 80", "audi 100"],
        ["0.5", "1.5"],
        ["bus", "tram", "A1", "A2"],
        ["A318", "A319", "A320", "A330-200", "A300B4"],
        ["707-320", "727-200", "737-200", "BAE 146-200", "Boeing 717", "C-130", "C-47", "DC-10", "MD-80", "F-16A-B"],
        ["1984", "2001"],
        ["MP3", "MP4", "R2D2", "7up", "4x4"],
        ["vitamin B6", "vitamin B12"],
        ["1 euro", "2 euros", "5 euros"],
        ["E. coli K12", "H1N1", "U2", "Sum 41"],
        ["one", "two", "facade", "decade"],
        ["class", "label", "id"],
        list(digits_lt.CLASSNAMES),
        list(IMAGENET_CLASSNAMES),
    ],
    ids=lambda names: ", ".join(names)[:60],
)
def test_names_are_no_codes(names):
    assert are_codes(names) == [False] * len(names)


def test_a_note_for_folders_called_by_codes(tmp_path):
    def notes(names, *options):
        for name in names:
            for split in ("train", "test"):
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
        return build_data(load_config("folder", "clip_tiny", "zs", ["root", str(tmp_path), *options])).notes

    (tmp_path / "names.csv").write_text("n01440764,tench\nn01443537,goldfish\nn01484850,shark\n")
    assert notes(["n01440764", "n01443537"]) == (
        "its classes are named n01440764, n01443537; set names that CLIP can read in a classnames file",
    )
    assert "that CLIP can read" not in str(notes([], "classnames", str(tmp_path / "names.csv")))
    (tmp_path / "codes.txt").write_text("n01440764\nn01443537\n")
    assert notes([], "classnames", str(tmp_path / "codes.txt")) == (
        f"its classes are named n01440764, n01443537; add prompt names that CLIP can read to {tmp_path}/codes.txt",
    )
    assert notes(["n01484850", "n01491361"])[0].startswith(
        "its classes are named n01440764, n01443537, n01484850, ...; set names"
    )
    assert notes(["cat", "dog", "eel", "fox"]) == ()
