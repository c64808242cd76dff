"""The results of a run: a JSON file first, a table second. utils/run/directory.py has their names."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.schema import UNRECORDED
from utils.files import atomic_write, read_json, write_text

BYTES = 200_000_000  # of a results file; one of 10,000 classes has 2 MB


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the content as JSON, whole or not at all."""
    write_text(path, f"{json.dumps(content, indent=1)}\n")


# ---- images and the way they are tested ----

OLDER_TESTS = {key: UNRECORDED[key] for key in ("interpolation", "resize", "variant")}  # older files lack these keys


def same_images(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints are of the same images. Those of older files contain only names: then names decide."""
    names, contents = zip((one or "").partition("-")[::2], (other or "").partition("-")[::2], strict=True)
    return names[0] == names[1] and (contents[0] == contents[1] or "" in contents)


def same_test(there: dict[str, Any], tested: dict[str, Any]) -> bool:
    """Whether the logits in a file are from this test."""
    return not differences(there, tested) and same_images(there.get("fingerprint"), tested["fingerprint"])


def differences(there: dict[str, Any], tested: dict[str, Any]) -> list[str]:
    """The differences of this test from the one that wrote the logits, as the suffix of a file names them."""
    there = OLDER_TESTS | there
    return [
        str(tested.get(key)) if key == "precision" else f"{key}_{tested.get(key)}"
        for key in dict.fromkeys([*tested, *there])
        if key != "fingerprint" and tested.get(key) != there.get(key)
    ]


# ---- reading ----


def read(path: Path) -> dict[str, Any]:
    """The content of a results file; {} if it is missing, or not written by this program."""
    try:
        content = read_json(path, BYTES)
        return content if isinstance(content.get("data", {}).get("fingerprint", {}), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def training_of(content: dict[str, Any]) -> dict[str, Any]:
    """The seed, epochs and settings in the results of a training run; {} where they are not recorded."""
    if not {"seed", "epochs", "settings"} <= content.keys():
        return {}
    return {key: content[key] for key in ("seed", "epochs", "settings", "started_from", "kept") if key in content}


def data_of(content: dict[str, Any]) -> dict[str, Any]:
    """The data set in the results of a run: name, fingerprint {train, test}, counts [C]; {} where not recorded."""
    try:
        data, counts = content["data"], [int(row["train"]) for row in content["per_class"]]
        return {"name": data["name"], "fingerprint": data["fingerprint"], "counts": counts}
    except (KeyError, TypeError, ValueError):
        return {}


# ---- predictions ----


def predictions_name(content: dict[str, Any], suffix: str = "") -> str:
    """The name of the file with the predictions of a test. suffix: of its results file; "" for a training run."""
    name = content.get("predictions")
    usual = f"predictions{suffix or '_test'}.csv"
    return name if isinstance(name, str) and re.fullmatch(r"predictions_[^/\\\0]+\.csv", name) else usual


# ---- logits ----


def save_logits(path: Path, logits: np.ndarray, labels: np.ndarray, tested: dict[str, Any]) -> None:
    """Writes float32 `logits` [n, C] and int64 `labels` [n], in the order of the list, whole or not at all.

    tested: stored beside them: the list's fingerprint, and the crops, expand and precision of the test.
    """
    with atomic_write(path) as file:
        np.savez(file, logits=logits.astype(np.float32), labels=labels.astype(np.int64), **tested)


def logits_about(path: Path) -> dict[str, Any] | None:
    """The test that wrote a file of logits; only its labels for older files, None for a missing file."""
    try:
        with zipfile.ZipFile(path) as archive:  # before numpy, which would unpack anything
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return None
        with np.load(path) as file:
            about = {key: file[key].item() for key in file.files if key not in ("logits", "labels")}
            return about if "fingerprint" in about else {"labels": file["labels"]}
    except (OSError, ValueError, KeyError, AttributeError, EOFError, MemoryError, zipfile.BadZipFile):  # or damaged
        return None


# ---- showing ----


def banner(about: dict[str, Any], data: str, resolution: int, notes: set[str]) -> str:
    """The first lines of a log; about: as in the results; data, notes: in words."""
    params, settings = about["params"], about["settings"]
    processes = f", {about['processes']} processes" if about["processes"] > 1 else ""
    weights = about["weights"]["name"]
    weights = "" if weights == settings["backbone"] else f" ({weights})"  # an address
    precision = f"precision in training {settings['precision']}, in testing {about['test']['precision']}"
    lines = [
        f"device    {about['device']}{processes}; {precision}",
        *(f"          {note}" for note in sorted(notes)),
        "data      " + data.replace("\n", "\n          "),
        f"backbone  {settings['backbone']}{weights}, {resolution} pixels",
        f"training  {params['trained']:,} of {params['total']:,} parameters "
        f"(backbone {params['peft']:,}, head {params['head']:,})",
    ]
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """A score as text; an evaluator may leave it undefined."""
    return "-" if value is None else f"{value:.2f}"


def words(measure: str) -> str:
    """The name of a measure as text."""
    return measure.replace("_", " ")


def table(results: dict[str, Any]) -> str:
    """The printed results: accuracies in percent, further scores and the numbers of trainable parameters."""
    accuracy, more, params, data = (results[key] for key in ("accuracy", "more", "params", "data"))
    header = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}
    cells = [percent(accuracy[key]) for key in header]
    widths = [max(len(title), len(cell), 7) for title, cell in zip(header.values(), cells, strict=True)]

    def row(texts: list[str]) -> str:
        return "| " + " | ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    others = [key for key in more if key not in ("macro_f1", "worst_class", "harmonic_mean", "geometric_mean")]
    images = data["split"] + (f", list {data['list']}" if data.get("list") else "")
    if data["split"] != "train" and data.get("trained_on"):
        images += f"; {data['trained_on']:,} of these are training images"
    lines = [
        f"accuracy on {data['name']} ({images}), %",
        row(list(header.values())),
        "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|",
        row(cells),
        f"macro F1 {percent(more['macro_f1'])}, worst class {percent(more['worst_class'])}, "
        f"harmonic mean {percent(more['harmonic_mean'])}, geometric mean {percent(more['geometric_mean'])}",
        *([", ".join(f"{words(key)} {percent(more[key])}" for key in others)] if others else []),
        f"trainable parameters: {params['trained']:,} with the head, {params['peft']:,} without "
        f"(of {params['total']:,})",
    ]
    return "\n".join(lines)
