"""The results of a run: a JSON file first, a table second."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import whole


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes whole or not at all."""
    with whole(path) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


def what_is_tested(on_train: bool, tte: bool, crops: int, draws: int | None = None) -> str:
    """The word in a results file's name: test, tte (five crops), tte10, tte_draws5; train, train_tte of test_train."""
    crops_word = (f"tte_draws{draws}" if draws else "tte" if crops == 5 else f"tte{crops}") if tte else ""
    return "_".join(filter(None, ("train" if on_train else "", crops_word))) or "test"


def trained_as(run_dir: Path) -> dict[str, Any]:
    """What the results of a training run say of the training: seed, epochs, settings; nothing if there are none."""
    try:
        content = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
        return {key: content[key] for key in ("seed", "epochs", "settings")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save_logits(path: Path, logits: np.ndarray, labels: np.ndarray) -> None:
    """Writes float32 `logits` [n, C] and int64 `labels` [n], in the order of the list, whole or not at all."""
    with whole(path) as file:
        np.savez(file, logits=logits.astype(np.float32), labels=labels.astype(np.int64))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def introduction(about: dict[str, Any], data: str, resolution: int, notes: set[str]) -> str:
    """What a run says of itself before it begins; `about` as in the results, `data` and `notes` in words."""
    params, settings = about["params"], about["settings"]
    processes = f", {about['processes']} processes" if about["processes"] > 1 else ""
    precision = f"precision in training {settings['precision']}, in testing {about['test']['precision']}"
    lines = [
        f"device    {about['device']}{processes}; {precision}",
        *(f"          {note}" for note in sorted(notes)),
        "data      " + data.replace("\n", "\n          "),
        f"backbone  {settings['backbone']} ({about['weights']['name']}), {resolution} pixels",
        f"training  {params['trained']:,} of {params['total']:,} parameters: "
        f"{params['peft']:,} in the backbone, {params['head']:,} in the head",
    ]
    return "\n".join(lines)


def table(results: dict[str, Any]) -> str:
    """The results as a person reads them: accuracies in percent, trained parameters, time and memory."""
    accuracy, more, params = results["accuracy"], results["more"], results["params"]
    header = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}
    cells = ["   -" if accuracy[key] is None else f"{accuracy[key]:.2f}" for key in header]
    widths = [max(len(title), len(cell), 7) for title, cell in zip(header.values(), cells, strict=True)]

    def row(texts: list[str]) -> str:
        return "| " + " | ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    def percent(key: str) -> str:
        return f"{more[key]:.2f}"

    lines = [
        f"accuracy on {results['data']['name']} ({results['data']['split']}), %",
        row(list(header.values())),
        "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|",
        row(cells),
        f"macro F1 {percent('macro_f1')}, worst class {percent('worst_class')}, "
        f"harmonic mean {percent('harmonic_mean')}, geometric mean {percent('geometric_mean')}",
        f"trained parameters: {params['trained']:,} with the head, {params['peft']:,} without (of {params['total']:,})",
    ]
    return "\n".join(lines)
