"""predictions_SUFFIX.csv: written and read without loss; other files are errors."""

import csv
import dataclasses

import numpy as np
import pytest
from helpers import refused

from utils.errors import DataError
from utils.predictions import Predictions, number, read_csv, write_csv

NAMES = ["cat", '<b>dog</b>, "big"', "ein Vogel\u00e9", "=1+2", "fish", "line\nbreak", ""]


def make(count=9, paths=True, classes=7, seed=0):
    """Predictions of random logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, classes)).astype(np.float32)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    top = np.argsort(-logits, 1, kind="stable")[:, : min(5, classes)]
    labels = rng.integers(0, classes, count)
    names = [f'a folder/{i}, "x"\n\x1b[31m\udcff\u202e.jpg' for i in range(count)]
    return Predictions(
        names if paths else None,
        labels,
        top,
        np.take_along_axis(probabilities, top, 1),
        probabilities[np.arange(count), labels],
    )


def assert_equal(found, expected):
    for field in dataclasses.fields(Predictions):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        same = np.array_equal(one, other) if isinstance(other, np.ndarray) else one == other
        assert same, field.name
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None), field.name


@pytest.mark.parametrize("paths", [True, False])
@pytest.mark.parametrize("count, classes", [(9, 7), (4, 3), (1, 1), (0, 7)])
def test_what_is_written_is_read(paths, count, classes, tmp_path):
    expected = make(count, paths, classes)
    write_csv(tmp_path / "p.csv", expected, NAMES[:classes])
    assert_equal(read_csv(tmp_path / "p.csv", NAMES[:classes]), expected)


def test_the_columns_as_another_program_reads_them(tmp_path):
    expected = make(3, classes=2)
    write_csv(tmp_path / "p.csv", expected, NAMES[:2])
    with open(tmp_path / "p.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    columns = "path label class predicted_label predicted_class label_probability"
    assert header == [*columns.split(), "class_1", "probability_1", "class_2", "probability_2"]
    for index, row in enumerate(rows):
        top, probabilities = expected.top_classes[index], expected.top_probabilities[index]
        label = expected.labels[index]
        assert row[:5] == [expected.paths[index], str(label), NAMES[label], str(top[0]), NAMES[top[0]]]
        assert np.float32(row[5]) == expected.label_probability[index]
        assert row[6::2] == [NAMES[c] for c in top]
        assert [np.float32(cell) for cell in row[7::2]] == probabilities.tolist()


def test_images_in_memory_have_an_index(tmp_path):
    write_csv(tmp_path / "p.csv", make(3, paths=False), NAMES)
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["index", "0", "1", "2"]


def test_numbers_are_read_back_to_the_last_bit():
    values = np.random.default_rng(0).integers(0, 2**31 - 2**23, 10_000).astype(np.uint32).view(np.float32)
    assert np.array_equal(np.array([number(value) for value in values.tolist()]).astype(np.float32), values)


def test_of_classes_with_one_name_the_predicted_number_is_kept(tmp_path):
    names = ["crane", "maillot", "crane", "maillot"]
    expected = Predictions(
        None, np.array([2]), np.array([[2, 0, 3, 1]]), np.float32([[0.5, 0.3, 0.1, 0.1]]), np.float32([0.5])
    )
    write_csv(tmp_path / "p.csv", expected, names)
    found = read_csv(tmp_path / "p.csv", names)
    assert found.predicted.tolist() == [2]
    assert found.top_classes.tolist() == [[2, 0, 1, 1]]


def test_properties():
    predictions = make()
    assert np.array_equal(predictions.predicted, predictions.top_classes[:, 0])
    assert np.array_equal(predictions.confidence, predictions.top_probabilities[:, 0])
    assert predictions.outputs is not None
    assert np.array_equal(predictions.outputs, predictions.predicted)
    logits = np.zeros((9, 7), np.float32)
    assert dataclasses.replace(predictions, logits=logits).outputs is logits


HEADER = "path,label,class,predicted_label,predicted_class,label_probability,class_1,probability_1\n"
BAD = {
    "empty": "",
    "another table": "path,label\na,1\n",
    "no top": HEADER.replace(",class_1,probability_1", ""),
    "a short row": HEADER + "a,0,cat,0,cat,0.5,cat\n",
    "a word for a number": HEADER + "a,zero,cat,0,cat,0.5,cat,0.5\n",
    "other columns": HEADER.replace("probability_1", "score") + "a,0,cat,0,cat,0.5,cat,0.5\n",
    "another class": HEADER + "a,0,cat,0,cat,0.5,cow,0.5\n",
    "another top class": HEADER.strip() + ",class_2,probability_2\na,0,cat,0,cat,0.5,cat,0.5,cow,0.5\n",
    "not a number": HEADER + "a,0,cat,0,cat,0.5,cat,nan\n",
    "not a probability": HEADER + "a,0,cat,0,cat,-0.5,cat,0.5\n",
    "a label too many": HEADER + "a,7,cat,0,cat,0.5,cat,0.5\n",
    "a negative label": HEADER + "a,-1,cat,0,cat,0.5,cat,0.5\n",
    "a prediction too many": HEADER + "a,0,cat,9,cat,0.5,cat,0.5\n",
    "a huge number": HEADER + f"a,{10**30},cat,0,cat,0.5,cat,0.5\n",
    "a huge prediction": HEADER + f"a,0,cat,{10**30},cat,0.5,cat,0.5\n",
    "a long field": HEADER + f"{'a' * 200_000},0,cat,0,cat,0.5,cat,0.5\n",
}


@pytest.mark.parametrize("name", BAD)
def test_other_and_damaged_files_are_refused(name, tmp_path):
    (tmp_path / "p.csv").write_text(BAD[name])
    with refused(DataError, kind="damaged_predictions", path=tmp_path / "p.csv"):
        read_csv(tmp_path / "p.csv", NAMES)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "no.csv", tmp_path):
        with refused(DataError, kind="damaged_predictions", path=path):
            read_csv(path, NAMES)


def test_no_half_of_a_file_is_left(tmp_path):
    write_csv(tmp_path / "p.csv", make(3), NAMES)
    before = (tmp_path / "p.csv").read_bytes()
    with pytest.raises(IndexError):
        write_csv(tmp_path / "p.csv", make(30), NAMES[:2])
    assert (tmp_path / "p.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
