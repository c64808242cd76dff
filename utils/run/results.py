"""The results of a run: a JSON file first, a table second."""

import dataclasses
import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ConfigError
from utils.files import atomic_write


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes whole or not at all."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


# ---- the names of a run's files ----


def what_is_tested(on_train: bool, tte: bool, crops: int, draws: int | None = None) -> str:
    """The word in a results file's name: test, tte (five crops), tte10, tte_draws5; train, train_tte of test_train."""
    crops_word = (f"tte_draws{draws}" if draws else "tte" if crops == 5 else f"tte{crops}") if tte else ""
    return "_".join(filter(None, ("train" if on_train else "", crops_word))) or "test"


WAYS = ("interpolation", "variant", "reducing_gap", "exif_orientation")  # keys that a test may set otherwise
# beginnings of names that tell the way of testing: see what_is_tested, run_files and RunFiles.apart
OTHER_WORDS = re.compile(
    rf"(tte\d*|draws\d+|fp16|bf16|fp32|({'|'.join(('crops', 'expand', 'draws', 'seed', *WAYS))})_\w+)(_|$)"
)
OLDER_TESTS = {"interpolation": "bicubic", "variant": "lift+"}  # of files that do not record these


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of a training run, or of a test, in a run directory.

    word: the part of the names that says what is tested: test, tte, train_tte10, test_LIST.
    """

    directory: Path
    word: str
    testing: bool

    @property
    def results(self) -> Path:
        """Written last."""
        return self.directory / (f"results_{self.word}.json" if self.testing else "results.json")

    @property
    def logits(self) -> Path:
        """Written with save_logits."""
        return self.directory / f"logits_{self.word}.npz"

    @property
    def log(self) -> Path:
        """Of what is printed."""
        return self.directory / (f"log_{self.word}.txt" if self.testing else "log.txt")

    def require_free(self, fingerprint: str) -> None:
        """Raises a ConfigError if a file of these names holds a test of other images. fingerprint: of the list."""
        data = read(self.results).get("data", {}) if self.testing else {}  # a training run: checkpoint.require_same_run
        logits = logits_about(self.logits) or {}
        found = (
            (self.results, data.get("fingerprint", {}).get(data.get("split"))),
            (self.logits, logits.get("fingerprint")),
        )
        for path, other in found:
            if other is not None and not same_images(other, fingerprint):
                raise ConfigError(
                    f"{path} holds a test of other images; keep it by giving this test a name of its own, "
                    "test_name NAME, or delete it"
                )

    def apart(self, tested: dict[str, Any], labels: np.ndarray) -> "RunFiles":
        """These files, or where their logits are of the same images tested in another way, files beside them.

        tested: as in the logits' file, see `save_logits`; labels: of the images. Raises a ConfigError where neither do.
        """
        there = logits_about(self.logits)
        if there is None or same_test(there, tested):
            return self
        if "fingerprint" not in there:  # of an older version
            if np.array_equal(there["labels"], labels):
                return self
            raise ConfigError(f"{self.logits} holds logits of other images; delete it, or give test_name NAME")
        there = OLDER_TESTS | there
        differing = [
            str(tested.get(key)) if key == "precision" else f"{key}_{tested.get(key)}"
            for key in dict.fromkeys([*tested, *there])
            if key != "fingerprint" and tested.get(key) != there.get(key)
        ]
        beside = dataclasses.replace(self, word="_".join([self.word, *differing]))
        beside.require_free(tested["fingerprint"])
        other = logits_about(beside.logits)
        if other is not None and not same_test(other, tested):
            raise ConfigError(f"{beside.logits} holds the logits of another test; delete it, or give test_name NAME")
        return beside


def run_files(
    directory: Path,
    on_train: bool,
    tte: bool,
    crops: int,
    draws: int | None = None,
    testing: bool = True,
    name: str | None = None,
    ways: Sequence[str] = (),
) -> RunFiles:
    """The files of a run. name: of the tested list, for a test of other images than the training run's; any text.

    ways: what a test computes otherwise than its training.
    """
    word = what_is_tested(on_train, tte, crops, draws)
    if testing and name:
        name = re.sub(r"[^\w.+@=-]+", "-", name)[:100]
        if OTHER_WORDS.match(name):  # with the word before it, this would be another word
            name = f"list_{name}"
        word += f"_{name}"
    return RunFiles(directory, "_".join([word, *ways]), testing)


def list_name(
    given: str | None, list_file: str | None, data: str, fingerprint: str, own: dict[str, Any], split: str
) -> str | None:
    """The name of a tested list in the names of the test's files; None for the images of the training run itself.

    given: test_name, which always counts; list_file, data, fingerprint: the list's file, data set and fingerprint;
    own: the training run, see `training_record`.
    """
    if given or same_images(own.get("fingerprint", {}).get(split, fingerprint), fingerprint):
        return given
    return Path(list_file).stem if list_file else data if data != own.get("name") else fingerprint[-8:]


def same_images(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints are of the same images, as far as both know: those of older files know names alone."""
    names, contents = zip((one or "").partition("-")[::2], (other or "").partition("-")[::2], strict=True)
    return names[0] == names[1] and (contents[0] == contents[1] or "" in contents)


def same_test(there: dict[str, Any], tested: dict[str, Any]) -> bool:
    """Whether logits in a file are of this test."""
    there = OLDER_TESTS | there
    rest = [{key: value for key, value in about.items() if key != "fingerprint"} for about in (there, tested)]
    return rest[0] == rest[1] and same_images(there.get("fingerprint"), tested["fingerprint"])


# ---- what earlier runs left ----


def read(path: Path) -> dict[str, Any]:
    """The content of a results file; {} where there is none, or none of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content.get("data", {}).get("fingerprint", {}), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def trained_as(run_dir: Path) -> dict[str, Any]:
    """What the results of a training run say of the training: seed, epochs, settings; nothing if there are none."""
    content = read(run_dir / "results.json")
    if not {"seed", "epochs", "settings"} <= content.keys():
        return {}
    return {key: content[key] for key in ("seed", "epochs", "settings", "started_from") if key in content}


def training_record(run_dir: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Which images a run in `run_dir` was trained and evaluated on: name, fingerprint {train, test}, counts [C].

    From its results.json, else from `about`, what its checkpoint says; {} where neither tells.
    """
    content = read(run_dir / "results.json")
    try:
        data, counts = content["data"], [int(row["train"]) for row in content["per_class"]]
        return {"name": data["name"], "fingerprint": data["fingerprint"], "counts": counts}
    except (KeyError, TypeError, ValueError):
        return about.get("data", {})


def first_test(run_dir: Path, split: str) -> dict[str, Any]:
    """As `training_record`, of the first test in a folder that has no results of its training; {} if there is none."""
    usual = re.compile(r"results_(test|train|(train_)?tte\d*(_draws\d+)?)\.json")
    files = [path for path in run_dir.glob("results_*.json") if usual.fullmatch(path.name)]
    tests = [read(path).get("data", {}) for path in sorted(files, key=os.path.getmtime)]
    return next((data for data in tests if data.get("split") == split and "fingerprint" in data), {})


# ---- logits ----


def save_logits(path: Path, logits: np.ndarray, labels: np.ndarray, tested: dict[str, Any]) -> None:
    """Writes float32 `logits` [n, C] and int64 `labels` [n], in the order of the list, whole or not at all.

    tested: stored beside them: the list's fingerprint, and the crops, expand and precision of the test.
    """
    with atomic_write(path) as file:
        np.savez(file, logits=logits.astype(np.float32), labels=labels.astype(np.int64), **tested)


def logits_about(path: Path) -> dict[str, Any] | None:
    """What a file of logits says of its test; of an older version only its labels. None where there is none."""
    try:
        with np.load(path) as file:
            about = {key: file[key].item() for key in file.files if key not in ("logits", "labels")}
            return about if "fingerprint" in about else {"labels": file["labels"]}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or damaged
        return None


# ---- showing ----


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
    accuracy, more, params, data = (results[key] for key in ("accuracy", "more", "params", "data"))
    header = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}
    cells = ["   -" if accuracy[key] is None else f"{accuracy[key]:.2f}" for key in header]
    widths = [max(len(title), len(cell), 7) for title, cell in zip(header.values(), cells, strict=True)]

    def row(texts: list[str]) -> str:
        return "| " + " | ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    def percent(key: str) -> str:
        return f"{more[key]:.2f}"

    images = data["split"] + (f", list {data['list']}" if data.get("list") else "")
    if data["split"] == "test" and data.get("trained_on"):
        images += f"; {data['trained_on']:,} of these are training images"
    lines = [
        f"accuracy on {data['name']} ({images}), %",
        row(list(header.values())),
        "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|",
        row(cells),
        f"macro F1 {percent('macro_f1')}, worst class {percent('worst_class')}, "
        f"harmonic mean {percent('harmonic_mean')}, geometric mean {percent('geometric_mean')}",
        f"trained parameters: {params['trained']:,} with the head, {params['peft']:,} without (of {params['total']:,})",
    ]
    return "\n".join(lines)
