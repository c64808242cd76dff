"""The pages of reports: their content, hostile names, missing or damaged files, sizes and times."""

import html.parser
import json
import re
import time

import numpy as np
import pytest
from helpers import refused
from report_runs import NAMES, SETTINGS, make_run, random_predictions, softmax_predictions

from utils.errors import DataError
from utils.report import tables, write_report
from utils.report.comparison import compare, difference
from utils.report.run_page import build_page
from utils.report.source import read_curves, read_run

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><b>bold</b>",
    "{{ 7 * 7 }} {% raw %}",
    "a\x1b[31mred\x00 \u202eevol\u2028",
    "bytes \udcff",
    "日本語 🐦 & co",
]
VOID = {"meta", "link", "img", "input", "br"}


class Page(html.parser.HTMLParser):
    """A page: its text outside scripts and styles, its data, its tags with attributes; checks that tags are closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.data, self.tags = [], [], "", []
        self.feed(page)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())
        self.content = json.loads(self.data)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and tag not in ("path", "circle"):
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if attributes.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.text.append(data)


def page_of(run_dir, thumbnails=lambda fingerprint, indices: None) -> Page:
    run = read_run(run_dir)
    return Page(build_page(run, run.main, thumbnails))


@pytest.fixture
def predictions():
    return random_predictions(10, 20)


def test_the_page_has_the_numbers_of_the_results(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    path = write_report(run_dir)
    assert path == run_dir.path / "report.html"
    page, results = Page(path.read_text()), json.loads((run_dir.path / "results.json").read_text())
    for value in results["accuracy"].values():
        assert f"{value:.2f}" in page.words
    right = int((predictions.labels == predictions.predicted).sum())
    assert f"{right} of 200 images are classified correctly." in page.words
    assert "lift+ on digits_lt" in page.words
    assert "100 of 1,000 trainable" in page.words
    classes = page.content["classes"]
    assert classes["name"] == NAMES[:10]
    assert classes["accuracy"] == pytest.approx([row["accuracy"] for row in results["per_class"]], abs=0.005)
    assert classes["train"] == [row["train"] for row in results["per_class"]]
    assert np.sum(page.content["confusion"]["matrix"]) == 200
    assert sum(page.content["bins"]["images"]) == 200


def test_a_published_value_is_shown_beside_ours(predictions, tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    assert "published" not in page_of(run_dir).words
    monkeypatch.setattr(tables, "find_published", lambda result, values: (78.3, "LIFT, arXiv 2309.10019"))
    words = page_of(run_dir).words
    assert "published overall" in words
    assert "78.3LIFT, arXiv 2309.10019" in words


def test_the_explanation_of_the_training_accuracy_belongs_to_losses_with_a_prior(predictions, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    assert "may fall while the loss falls" in page_of(run_dir).words
    make_run(run_dir.path, predictions, NAMES[:10], settings=SETTINGS | {"loss_type": "CE"})
    assert "may fall while the loss falls" not in page_of(run_dir).words


def test_every_test_is_a_row_and_has_its_page(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    better = random_predictions(10, 20, seed=1, skill=5)
    make_run(run_dir.path, better, NAMES[:10], suffix="_tte", test={"crops": 5})
    page = page_of(run_dir)
    assert "1 crop this page" in page.words
    assert "5 crops" in page.words
    path = write_report(run_dir, run_dir.path / "results_tte.json")
    assert path.name == "report_tte.html"
    right = int((better.labels == better.predicted).sum())
    assert f"{right} of 200 images are classified correctly." in Page(path.read_text()).words


def test_without_a_training_run_the_page_shows_the_newest_test(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10], suffix="_test")
    make_run(run_dir.path, random_predictions(10, 20, seed=1), NAMES[:10], suffix="_tte", test={"crops": 5})
    assert read_run(run_dir).main.suffix == "_tte"


def test_thumbnails_are_those_of_the_shown_images(tmp_path):
    """Images 0 to 3 have the labels 0, 0, 1, 1; image 1 is wrong. Image 2 cannot be read."""
    logits = np.array([[2, 0], [0, 3], [0, 1], [0, 2]], np.float32)
    predictions = softmax_predictions(logits, np.array([0, 0, 1, 1]), ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    asked = []

    def thumbnails(fingerprint, indices):
        asked.append((fingerprint, indices))
        return [None if index == 2 else f"JPEG {index}".encode() for index in indices]

    page = page_of(make_run(tmp_path / "run", predictions, ["cat", "dog"]), thumbnails)
    assert asked == [("b", [1]), ("b", [2, 0, 3]), ("b", [])]
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert "cat predicted dog" in page.words
    assert "b.jpg" in page.words
    assert "not at hand" not in page.words


def test_likely_mislabelled_training_images_are_shown(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, ["cat", "dog"] + NAMES[2:10])
    assert "mislabelled" not in page_of(run_dir).words
    logits = np.full((40, 10), -4, np.float32)
    labels = np.repeat([0, 1], 20)
    logits[np.arange(40), labels] = 4
    logits[7, :2] = [0, 9]
    found = softmax_predictions(logits, labels, [f"train/{i}.jpg" for i in range(40)])
    data = {"name": "digits_lt", "split": "train", "fingerprint": {"train": "a", "test": "b"}}
    make_run(run_dir.path, found, ["cat", "dog"] + NAMES[2:10], suffix="_train", data=data)
    page = page_of(run_dir)
    assert "1 of 40 training images (2.5 %) have a doubtful label." in page.words
    assert "train/7.jpg" in page.words
    assert "failed to memorise" in page.words


def test_names_are_text(tmp_path):
    """Class names, paths and the command may contain HTML, control characters and bytes that are not UTF-8."""
    names = HOSTILE + NAMES[len(HOSTILE) : 10]
    base = random_predictions(10, 4, skill=0)
    paths = [f"{names[i % 10]}/{i}.jpg".replace("\x00", "") for i in range(40)]
    logits = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
    predictions = softmax_predictions(logits, base.labels, paths)
    run_dir = make_run(tmp_path / "run", predictions, names, command=f"python main.py -m {HOSTILE[0]}\n{HOSTILE[1]}")
    path = write_report(run_dir)
    page = Page(path.read_bytes().decode("utf-8"))
    own = [tag for tag, _ in page.tags]
    assert own.count("script") == 2
    assert "img" not in own
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    shown = page.content["classes"]["name"]
    assert shown[:4] == HOSTILE[:4]
    assert shown[4:7] == ["a\\x1b[31mred\\x00 \\u202eevol\\u2028", "bytes \\xff", HOSTILE[6]]
    assert "49" not in shown[3]
    compared = Page(compare([read_run(run_dir)] * 2))
    assert [tag for tag, _ in compared.tags].count("script") == 2


def test_the_page_asks_for_nothing(predictions, tmp_path):
    path = write_report(make_run(tmp_path / "run", predictions, NAMES[:10]))
    page, text = Page(path.read_text()), path.read_text()
    for _, attrs in page.tags:
        for name in ("src", "href", "action", "data", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:")), attrs
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


# ---- files that are missing or damaged ----


def test_a_run_without_predictions_has_a_page_without_them(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    (run_dir.path / "predictions_test.csv").unlink()
    page = page_of(run_dir)
    assert "is missing; test the run again: test_only True" in page.words
    assert "precision" not in page.content["classes"]
    assert "Reliability" not in page.words


def test_predictions_of_another_test_are_left_out(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", random_predictions(10, 20, seed=5), NAMES[:10])
    kept = (run_dir.path / "predictions_test.csv").read_bytes()
    make_run(run_dir.path, predictions, NAMES[:10])
    (run_dir.path / "predictions_test.csv").write_bytes(kept)
    with refused(DataError, kind="other_predictions"):
        read_run(run_dir).main.predictions()
    assert "is of another test than results.json" in page_of(run_dir).words


@pytest.mark.parametrize("number", ["nan", "-0.5", "7", "inf"])
def test_numbers_that_are_no_probabilities_are_left_out(number, predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    path = run_dir.path / "predictions_test.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(lines[1].split(",")[5], number)
    path.write_text("\n".join(lines) + "\n")
    with refused(DataError, kind="damaged_predictions"):
        read_run(run_dir).main.predictions()


def test_results_of_older_versions_have_groups_by_their_counts(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10], counts=np.array([101, 100, 20, 19] + [1] * 6))
    expected = read_run(run_dir).main.classes.group.tolist()
    assert expected == [0, 1, 1, 2] + [2] * 6
    content = json.loads((run_dir.path / "results.json").read_text())
    for row in content["per_class"]:
        del row["group"]
    del content["weights"], content["data"]["trained_on"]
    (run_dir.path / "results.json").write_text(json.dumps(content))
    assert read_run(run_dir).main.classes.group.tolist() == expected
    page_of(run_dir)


DAMAGES = {
    "truncated": lambda content: json.dumps(content)[:-40],
    "no object": lambda content: "[1, 2]",
    "nested": lambda content: "[" * 100_000,
    "no classes": lambda content: json.dumps(content | {"per_class": []}),
    "huge count": lambda content: json.dumps(content | {"per_class": [dict(content["per_class"][0], test=10**30)]}),
    "negative count": lambda content: json.dumps(content | {"per_class": [dict(content["per_class"][0], test=-1)]}),
    "accuracy of 900": lambda content: json.dumps(content | {"accuracy": content["accuracy"] | {"few": 900}}),
    "text for accuracy": lambda content: json.dumps(content | {"accuracy": content["accuracy"] | {"few": "x"}}),
    "number for command": lambda content: json.dumps(content | {"command": 7}),
    "list for data": lambda content: json.dumps(content | {"data": []}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_are_refused_and_others_shown(damage, predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    path = run_dir.path / "results.json"
    damaged = DAMAGES[damage](json.loads(path.read_text()))
    path.write_text(damaged)
    with refused(DataError, kind="no_results"):
        read_run(run_dir)
    make_run(run_dir.path, predictions, NAMES[:10], suffix="_tte", test={"crops": 5})
    page = page_of(run_dir)
    assert "results.json is damaged, or not of this program" in page.words
    assert "5 crops" in page.words


@pytest.mark.parametrize("key", ["params", "seconds", "images_per_second", "versions", "device", "epochs", "more"])
@pytest.mark.parametrize("value", [None, 7, "text", [1], {"train": "x", "total": None}])
def test_parts_of_results_of_any_kind_do_no_harm(key, value, predictions, tmp_path):
    params = {"trained": 100} if key == "params" and isinstance(value, dict) else None
    changes = {key: value | params if params else value} if key != "params" or params else {key: {"trained": 3}}
    page_of(make_run(tmp_path / "run", predictions, NAMES[:10], **changes))


def test_curves_are_read_as_far_as_they_are_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = ['{"step": 2, "loss": 1.5, "accuracy": null, "lr": 0.1}', "nonsense", "[1]", '{"loss": 3}']
    rows += ['{"step": 1, "loss": NaN, "lr": 0.2}', '{"step": 4, "loss": 0.5, "val/overall": 0.7}', '{"step": 5, "lo']
    path.write_text("\n".join(rows))
    assert read_curves(path) == {"loss": [(2, 1.5), (4, 0.5)], "lr": [(1, 0.2), (2, 0.1)], "val/overall": [(4, 0.7)]}
    assert read_curves(tmp_path / "missing") == {}


def test_curves_have_validation_scores_and_epochs(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    rows = [{"step": step, "loss": 1 / step, "accuracy": step, "lr": 0.1, "images_per_second": 9} for step in (5, 10)]
    rows.append({"step": 10, "epoch": 2, "val/mean_class": 55.5, "val/many": None, "val/macro_f1": 3.0})
    (run_dir.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = page_of(run_dir).content["curves"]
    assert curves["loss"] == {"training": [[1, 0.2], [2, 0.1]]}
    assert curves["accuracy"] == {"training": [[1, 5], [2, 10]], "validation, mean class": [[2, 55.5]]}
    assert curves["unit"] == "epoch"


def test_the_kept_epoch_and_the_start_are_shown(predictions, tmp_path):
    kept = {"epoch": 3, "score": "mean_class", "value": 94.014}
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10], kept=kept, started_from="output/<b>earlier")
    words = page_of(run_dir).words
    assert "epoch 3, the best by mean class: 94.01 on the validation images" in words
    assert "Started fromoutput/<b>earlier" in words
    for damaged in ({"epoch": 3}, kept | {"value": "much"}, [3]):
        make_run(run_dir.path, predictions, NAMES[:10], kept=damaged)
        assert "the best by" not in page_of(run_dir).words


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("predictions_tte.csv", "predictions_tte.csv"),
        (None, "predictions_test.csv"),
        ("../predictions_x.csv", "predictions_test.csv"),
        ("predictions_../../x.csv", "predictions_test.csv"),
        (["predictions_x.csv"], "predictions_test.csv"),
    ],
)
def test_results_name_their_predictions_in_their_own_folder(predictions, tmp_path, recorded, name):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    content = json.loads((run_dir.path / "results.json").read_text())
    (run_dir.path / "results.json").write_text(json.dumps(content | {"predictions": recorded}))
    assert read_run(run_dir).main.predictions_path == run_dir.path / name


# ---- comparison ----


def test_a_comparison_counts_discordant_images(tmp_path):
    labels = np.array([0, 0, 0, 1, 1, 1])
    right, wrong = [3.0, 0.0], [0.0, 3.0]
    first = softmax_predictions(np.array([right, right, wrong, right, wrong, wrong], np.float32), labels)
    other = softmax_predictions(np.array([right, wrong, right, wrong, wrong, wrong], np.float32), labels)
    runs = [read_run(make_run(tmp_path / name, found, ["cat", "dog"])) for name, found in (("a", first), ("b", other))]
    tests = runs[0].main, runs[1].main
    found = difference("b", tests, (tests[0].predictions(), tests[1].predictions()))
    before, after = first.predicted == labels, other.predicted == labels
    assert found.images.wins == (after & ~before).sum()
    assert found.images.losses == (before & ~after).sum()
    assert found.accuracies["overall"] == pytest.approx(100 * (after.mean() - before.mean()))
    assert found.class_wins == [int((after & ~before & (labels == c)).sum()) for c in (0, 1)]
    page = Page(compare(runs))
    assert "2 runs on digits_lt" in page.words
    assert page.content["runs"] == ["a", "b"]


def test_runs_of_other_images_are_compared_by_class_alone(predictions, tmp_path):
    data = {"name": "digits_lt", "split": "test", "fingerprint": {"train": "a", "test": "other"}}
    runs = [
        read_run(make_run(tmp_path / "a", predictions, NAMES[:10])),
        read_run(make_run(tmp_path / "b", random_predictions(10, 30), NAMES[:10], data=data)),
    ]
    page = Page(compare(runs))
    assert "so nothing is compared image by image" in page.words
    assert "The shot groups of" not in page.words
    assert page.content["differences"][0]["p"] == []


def test_runs_of_other_shot_groups_are_named(predictions, tmp_path):
    """A class of 100 training images is medium-shot, one of 101 many-shot."""
    counts = np.full(10, 100)
    more = counts + (np.arange(10) == 0)
    runs = [
        read_run(make_run(tmp_path / name, predictions, NAMES[:10], counts=found))
        for name, found in (("a", counts), ("b", counts - 1), ("c", more))
    ]
    assert "The shot groups of c have other classes than those of a, " in Page(compare(runs)).words
    assert "The shot groups of" not in Page(compare(runs[:2])).words


def test_numbers_that_no_results_have_are_left_out(predictions, tmp_path):
    run_dir = make_run(tmp_path / "run", predictions, NAMES[:10])
    content = json.loads((run_dir.path / "results.json").read_text())
    content["more"] |= {"huge": 10**400, "unknown": float("nan"), "infinite": float("inf"), "top5": 98.75}
    (run_dir.path / "results.json").write_text(json.dumps(content))
    words = page_of(run_dir).words
    assert "top5 98.75" in words
    assert not any(name in words for name in ("huge", "unknown", "infinite"))


def test_runs_of_other_classes_are_refused(predictions, tmp_path):
    runs = [
        read_run(make_run(tmp_path / "a", predictions, NAMES[:10])),
        read_run(make_run(tmp_path / "b", predictions, NAMES[1:11])),
    ]
    with refused(DataError, kind="other_classes"):
        compare(runs)
    with refused(DataError, kind="number_of_runs"):
        compare(runs[:1])


# ---- size and time ----


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "images"), [(1000, 50), (8142, 3)])
def test_large_tests_have_small_pages_soon(classes, images, tmp_path):
    """50,000 images of 1,000 classes below 10 seconds, on one busy core; 8,142 classes below 3 MB."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images)
    top = (labels[:, None] + rng.integers(0, 2, len(labels))[:, None] + np.arange(5)) % classes
    shares = np.sort(rng.dirichlet(np.ones(6), len(labels)).astype(np.float32))[:, :0:-1]
    predictions = softmax_predictions(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
    predictions = type(predictions)([f"val/{i:08}.jpg" for i in range(len(labels))], labels, top, shares, shares[:, 0])
    run_dir = make_run(tmp_path / "run", predictions, [f"Genus species {name}" for name in NAMES[:classes]])
    start = time.process_time()
    path = write_report(run_dir, thumbnails=lambda fingerprint, indices: [bytes(3000)] * len(indices))
    assert time.process_time() - start < 10
    assert path.stat().st_size < 3_000_000
