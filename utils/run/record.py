"""Reads a results file: the trained model, the way of testing in words, and the accuracies."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from utils.config.naming import as_directory
from utils.config.schema import KEYS, UNRECORDED
from utils.files import read_json
from utils.run import results
from utils.run.directory import RunDir
from utils.run.mode import TESTED_OTHERWISE

ACCURACIES = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}
DEFAULTS = {name: UNRECORDED[name] for name, key in KEYS.items() if key.affects_training}
USUAL_GROUPS = [100, 20, "own"]
IR100_GROUPS = {"cifar100_ir50", "cifar100_ir10"}  # data sets for which shot_groups ir100 makes a difference
# older results record only the file of their weights: OpenAI's own, or any download from timm or open_clip
OLDER_FILES = {
    "clip_tiny": {"clip_tiny.safetensors"},
    "clip_vit_b32": {"ViT-B-32.pt"},
    "clip_vit_b16": {"ViT-B-16.pt"},
    "clip_vit_l14": {"ViT-L-14.pt"},
    "clip_vit_l14@336px": {"ViT-L-14-336px.pt"},
    "clip_rn50": {"RN50.pt"},
    "clip_rn101": {"RN101.pt"},
}
# keys of results whose checkpoint is not that of a training from the beginning
OTHER_TRAININGS = ("started_from", "averaged", "unknown_training", "other_checkpoint")
OLDER_DOWNLOADS = {"model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"}


class Result(NamedTuple):
    """One results file."""

    data: str
    backbone: str
    run: str  # its directory, without data, backbone and seed if they are in the name
    test: str  # the way it was tested, in words
    crops: int
    images: str  # the fingerprint of the tested list; "" in the oldest files
    usual: bool  # tested on the test images of the data set, none of which it was trained on
    seed: int
    settings: dict[str, Any]  # the options of training without the seed; defaults for keys newer than the file
    tested: dict[str, Any]  # other differences between tests: expand, groups, ...
    weights: str  # their name; "" if it is not recorded
    published_weights: bool
    sizes: list[int]  # numbers of training and test images; [] if they are not recorded
    command: str
    accuracy: dict[str, float | None]  # percent
    trained: int  # number of trainable parameters


def read(path: Path, output: Path) -> Result:
    """Reads a results file. Raises ValueError, KeyError, TypeError, AttributeError or OSError for other files."""
    content = read_json(path, results.BYTES)
    data, settings = content["data"], DEFAULTS | content["settings"]
    backbone, seed = settings["backbone"], settings.pop("seed")
    test, usual = how_tested(path, content)
    tested = {key: value for key, value in _test_of(content).items() if key not in ("precision", "seed")}
    tested |= {"groups": groups_of(data)} | {key: content.get(key) for key in ("started_from", "averaged")}
    weights, published = weights_of(content, backbone)
    rows = content.get("per_class", [])
    accuracy = {key: content["accuracy"][key] for key in ACCURACIES}
    float(accuracy["overall"])  # raises for a file without it; every run has it
    return Result(
        data=data["name"],
        backbone=backbone,
        run=_run_name(path.parent.relative_to(output).as_posix(), data["name"], backbone),
        test=test,
        crops=content["test"]["crops"],
        images=data.get("fingerprint", {}).get(data["split"], ""),
        usual=usual and not any(content.get(key) for key in OTHER_TRAININGS),
        seed=seed,
        settings=settings,
        tested=tested,
        weights=weights,
        published_weights=published,
        sizes=[sum(row[split] for row in rows) for split in ("train", "test")] if rows else [],
        command=content["command"],
        accuracy=accuracy,
        trained=int(content["params"]["trained"]),
    )


def _run_name(directory: str, data: str, backbone: str) -> str:
    """The name of a run directory without data, backbone and seed, and without planning.py's folder of a test."""
    name = re.sub(r"_seed_\d+(?=_|/|$)", "", directory)
    name = re.sub(r"/(test|tte|train)[^/]*_expand_(\d+|None)$", "", name)
    return name.removeprefix(f"{data}_").removeprefix(f"{as_directory(backbone)}_")


# ---- the way of testing, in words ----


def how_tested(path: Path, content: dict[str, Any]) -> tuple[str, bool]:
    """The way a run was tested, and whether on the test images of its data set, none of which it was trained on."""
    data = content["data"]
    words = [*_way_in_words(content), *_images_in_words(content)]
    trained = RunDir(path.parent).results()
    training = results.read(trained) if path != trained else {}
    if data["split"] == "test" and not data.get("trained_on") and _is_repetition(content, training):
        precision = content["test"].get("precision")
        words.append("tested again" + (f" in {precision}" if precision != training["test"].get("precision") else ""))
    other = data.get("trained_on") or data.get("list") or content["test"].get("draws") or _other_way(content)
    return ", ".join(words), data["split"] == "test" and not other


def _way_in_words(content: dict[str, Any]) -> list[str]:
    """The crops, and every option that differs from the default."""
    test, expand = content["test"], expand_given(content["command"])
    kind = " random" if test.get("draws") else ""
    words = [f"{test['crops']}{kind} crop{'' if test['crops'] == 1 else 's'}"]
    if expand is not None and test.get("expand", expand) == expand:  # in LIFT's form it is for several crops only
        words.append(f"expand {expand}")
    many, few, counts = groups_of(content["data"])
    if [many, few] != USUAL_GROUPS[:2]:
        words.append(f"many above {many}, few below {few}")
    if counts != "own":
        words.append(f"groups of {counts}")
    return words + _other_way(content)


def _other_way(content: dict[str, Any]) -> list[str]:
    """The options in which a test differs from its training."""
    test, trained_way = _test_of(content), DEFAULTS | content["settings"]
    other = [f"{key} {test[key]}" for key in TESTED_OTHERWISE if test[key] != trained_way.get(key)]
    if "seed" in test and test["seed"] != content.get("seed"):
        other.append(f"drawn by seed {test['seed']}")
    return other


def _images_in_words(content: dict[str, Any]) -> list[str]:
    """The tested images, and the training images if they are from another data set."""
    data, words = content["data"], []
    if content.get("unknown_training"):
        words.append("checkpoint of unknown training")
    elif content.get("other_checkpoint"):
        words.append("checkpoint of another run")
    if content.get("averaged"):
        words.append(content["averaged"])
    if data["split"] != "test":
        words.append(f"{data['split']} images")
    if content["settings"].get("dataset") not in (None, data["name"]):
        words.append(f"trained on {content['settings']['dataset']}")
    if data.get("list"):
        words.append(f"list {data['list']}")
    if data["split"] != "train" and data.get("trained_on"):
        count = sum(row["test"] for row in content.get("per_class", []))
        words.append(f"trained on {data['trained_on']:,} of these {f'{count:,} ' if count else ''}images")
    return words


def _test_of(content: dict[str, Any]) -> dict[str, Any]:
    """The options of a test; those missing in an older file were as in its training."""
    trained_way = DEFAULTS | content["settings"]
    return {key: trained_way.get(key) for key in TESTED_OTHERWISE} | content["test"]


def groups_of(data: dict[str, Any]) -> list[Any]:
    """The options of the shot groups: many_threshold, few_threshold, shot_groups."""
    many, few, counts = data.get("groups", USUAL_GROUPS)
    return [many, few, counts if data["name"] in IR100_GROUPS else "own"]


def expand_given(command: str) -> int | None:
    """The last expand on a command line."""
    given = re.findall(r" (?:tte_)?expand (\d+)", command)
    return int(given[-1]) if given else None


def _is_repetition(content: dict[str, Any], training: dict[str, Any]) -> bool:
    """Whether a test is of the same images as its training run, cropped in the same way.

    training: results of the training run; {} if there are none.
    """
    if not training:
        return False

    def test_of(run: dict[str, Any]) -> list[Any]:
        return [run["data"]["split"], {**_test_of(run), "precision": None}]

    lists = [run["data"].get("fingerprint", {}).get(run["data"]["split"]) for run in (training, content)]
    return test_of(training) == test_of(content) and results.same_images(*lists)


def weights_of(content: dict[str, Any], backbone: str) -> tuple[str, bool]:
    """The name of a run's weights, and whether they are the published ones of its backbone."""
    weights = content.get("weights", {})
    name, given = weights.get("name", ""), re.search(r" weights \S", content["command"])
    if "published" in weights:
        return name, weights["published"] is True
    files = OLDER_FILES.get(backbone, set()) | (set() if backbone == "clip_tiny" else OLDER_DOWNLOADS)
    return name, name in files and not given
