"""Prints one table over many runs: mean and deviation over seeds, in percent, beside published values.

    python scripts/collect_results.py output [--csv FILE]

Runs that differ in nothing but their seed share a row, with their number (n), mean and sample standard deviation. A
test of a trained run (test_only) has a row of its own, and so has every list of images. A published value, with its
source, is shown beside a run with the published weights, on all of the published images, trained and tested as in its
paper: see published.yaml. A run without results is not finished.
"""

import argparse
import csv
import functools
import io
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import terminal
from utils.config import Config, completed, load_config, training_options
from utils.config.naming import as_directory
from utils.config.schema import FORMER_VALUES, KEYS, UNRECORDED
from utils.errors import DataError, UserError
from utils.files import WriteError, read_json, write_text
from utils.home import ensure_home
from utils.run import results
from utils.run.directory import RunDir
from utils.run.mode import TESTED_OTHERWISE
from utils.text import visible

ACCURACIES = {"overall": "overall", "mean_class": "mean class", "many": "many", "medium": "medium", "few": "few"}
PUBLISHED = Path(__file__).with_name("published.yaml")
DEFAULTS = {name: UNRECORDED[name] for name, key in KEYS.items() if key.affects_training}
HOW_ONLY = {"seed", "deterministic", "prec_train", "accum_step"}  # these change rounding or chance, not the method
OF_WEIGHTS = {"mean", "std", "activation", "heads", "text_heads"}  # these describe the weights, which are compared
TTE_EXPAND = 24  # pixels; the default with several crops
RESOLUTION = 224  # pixels; of the backbones without another one in their names
USUAL_GROUPS = [100, 20, "own"]
IR100_GROUPS = {"cifar100_ir50", "cifar100_ir10"}  # where shot_groups ir100 changes something
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
    run: str  # its directory, without data, backbone and seed where they are in the name
    test: str  # the way it was tested, in words
    crops: int
    images: str  # the fingerprint of the tested list; "" in the oldest files
    usual: bool  # tested as usual: on the test images, none of which it was trained on
    seed: int
    settings: dict[str, Any]  # the options of training without the seed; defaults for keys newer than the file
    tested: dict[str, Any]  # other differences between tests: expand, groups, ...
    weights: str  # their name; "" where it is not recorded
    published_weights: bool
    sizes: list[int]  # numbers of training and test images; [] where they are not recorded
    command: str
    accuracy: dict[str, float | None]  # percent
    trained: int  # parameters


class Row(NamedTuple):
    """Runs that differ in nothing but their seed."""

    runs: list[Result]
    published: float | None  # overall, percent
    source: str
    test: str  # the way they were tested, in words that no other list of images has

    def values(self, accuracy: str) -> list[float]:
        """The accuracies of one kind, of each run that has it."""
        return [value for run in self.runs if (value := run.accuracy[accuracy]) is not None]


# ---- reading ----


def collect(paths: Iterable[Path], output: Path) -> list[Row]:
    """The rows of results files below `output`, by data set and accuracy. Unreadable files are reported on stderr."""
    groups = group_by_settings(_with_contents(read_all(paths, output)))
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    firsts = [runs[0] for runs in groups]
    rows = [Row(runs, *find_published(runs[0], published), _words(runs[0], firsts)) for runs in groups]
    return sorted(rows, key=lambda row: (row.runs[0].data, statistics.mean(row.values("overall"))))


def read_all(paths: Iterable[Path], output: Path) -> list[Result]:
    """The results files that can be read, sorted by path. The others are reported on stderr."""
    found = []
    for path in sorted(paths):
        try:
            found.append(read(path, output))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reason = visible(f"{path} is damaged or not ours ({type(error).__name__}: {error})")
            terminal.say(f"left out: {reason}", error=True)
    return found


def group_by_settings(found: list[Result]) -> list[list[Result]]:
    """Groups results that differ in nothing but their seed.

    A seed that was run twice is not a second seed: it goes to the next group of the same settings.
    """
    groups: dict[str, list[Result]] = {}
    for result in found:
        copy = 0
        while any(other.seed == result.seed for other in groups.get(_key(result, copy), [])):
            copy += 1
        groups.setdefault(_key(result, copy), []).append(result)
    return list(groups.values())


def _with_contents(found: list[Result]) -> list[Result]:
    """The results. Older files fingerprint images by names only: the contents are added from newer files.

    An older file stays as it is where newer files have different contents of the same names.
    """
    known: dict[str, set[str]] = {}
    for result in found:
        for fingerprint in (result.images, result.settings.get("training images", "")):
            known.setdefault(fingerprint.partition("-")[0], set()).add(fingerprint)

    def whole(fingerprint: str) -> str:
        longer = [each for each in known[fingerprint.partition("-")[0]] if "-" in each]
        return longer[0] if len(longer) == 1 else fingerprint

    completed = []
    for result in found:
        training = result.settings.get("training images")
        settings = result.settings | ({"training images": whole(training)} if training else {})
        completed.append(result._replace(images=whole(result.images), settings=settings))
    return completed


def _key(result: Result, copy: int) -> str:
    return json.dumps([result.data, result.test, result.images, result.settings, result.tested, copy], sort_keys=True)


def _words(result: Result, others: list[Result]) -> str:
    """The way a run was tested, with the fingerprint of its images if a run with the same label has other images."""
    alike = [other for other in others if _label(other) == _label(result) and other.images != result.images]
    return f"{result.test}, images {result.images[-8:] or 'unknown'}" if alike else result.test


def _label(result: Result) -> tuple[str, ...]:
    return result.data, result.backbone, result.weights, result.run, result.test


def read(path: Path, output: Path) -> Result:
    """One results file. Raises ValueError, KeyError, TypeError, AttributeError or OSError for other files."""
    content = read_json(path, results.BYTES)
    data, settings = content["data"], DEFAULTS | content["settings"]
    backbone, seed = settings["backbone"], settings.pop("seed")
    test, usual = how_tested(path, content)
    tested = {key: value for key, value in _test_of(content).items() if key not in ("precision", "seed")}
    tested |= {"groups": groups_of(data)} | {key: content.get(key) for key in ("started_from", "averaged")}
    weights, published = weights_of(content, backbone)
    rows = content.get("per_class", [])
    accuracy = {key: content["accuracy"][key] for key in ACCURACIES}
    float(accuracy["overall"])  # every run has it
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
    """The crops, and everything else that is not the default."""
    test, expand = content["test"], _expand_given(content["command"])
    kind = " random" if test.get("draws") else ""
    words = [f"{test['crops']}{kind} crop{'' if test['crops'] == 1 else 's'}"]
    if expand is not None and test.get("expand", expand) == expand:  # LIFT's form takes it for several crops only
        words.append(f"expand {expand}")
    many, few, counts = groups_of(content["data"])
    if [many, few] != USUAL_GROUPS[:2]:
        words.append(f"many above {many}, few below {few}")
    if counts != "own":
        words.append(f"groups of {counts}")
    return words + _other_way(content)


def _other_way(content: dict[str, Any]) -> list[str]:
    """The options that a test computed otherwise than its training."""
    test, trained_way = _test_of(content), DEFAULTS | content["settings"]
    other = [f"{key} {test[key]}" for key in TESTED_OTHERWISE if test[key] != trained_way.get(key)]
    if "seed" in test and test["seed"] != content.get("seed"):
        other.append(f"drawn by seed {test['seed']}")
    return other


def _images_in_words(content: dict[str, Any]) -> list[str]:
    """The tested images, and those of the training if they are not of the same data set."""
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
    """The options of a test; those that an older file does not record were as in its training."""
    trained_way = DEFAULTS | content["settings"]
    return {key: trained_way.get(key) for key in TESTED_OTHERWISE} | content["test"]


def groups_of(data: dict[str, Any]) -> list[Any]:
    """The options of the shot groups: many_threshold, few_threshold, shot_groups."""
    many, few, counts = data.get("groups", USUAL_GROUPS)
    return [many, few, counts if data["name"] in IR100_GROUPS else "own"]


def _expand_given(command: str) -> int | None:
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


# ---- published values ----


def find_published(result: Result, published: dict[str, Any]) -> tuple[float | None, str]:
    """The published accuracy of a run that was trained and tested in the same way, and its source; or None and "".

    published: the content of published.yaml.
    """
    whole = published["images"].get(result.data)
    if not (result.usual and whole and list(whole) == result.sizes):
        return None, ""
    for entry in published["results"]:
        value = entry["overall"].get(result.data, {}).get(result.crops)
        if value is not None and _is_as_published(result, _published_config(result.data, entry, result.crops)):
            return value, entry["source"]
    return None, ""


def _published_config(data: str, entry: dict[str, Any], crops: int) -> Config:
    """The configuration of a published run: of `model` in LIFT's form, or of `backbone` and `method`."""
    options = tuple(str(text) for pair in (entry.get("options") or {}).items() for text in pair)
    options += ("tte", "True", "tte_crops", str(crops)) if crops > 1 else ()
    return _config(data, entry.get("backbone"), entry.get("model") or entry["method"], options)


@functools.cache
def _config(data: str, backbone: str | None, method: str, options: tuple[str, ...]) -> Config:
    # published values are of backbones whose descriptions have these
    return completed(load_config(data, backbone, method, list(options)), FORMER_VALUES)


def _is_as_published(result: Result, cfg: Config) -> bool:
    """Whether a run has the settings of a published one, up to rounding and random draws."""
    wanted = {"backbone": cfg.backbone} | training_options(cfg)
    same = all(result.settings.get(key) == wanted[key] for key in wanted.keys() - HOW_ONLY - OF_WEIGHTS)
    described = any(f" {key} " in f" {result.command} " for key in OF_WEIGHTS)  # by hand, so possibly otherwise
    # a configuration may name other weights than the published ones of its backbone, as LIFT's in21k_vit_b16 does
    weights = result.weights == cfg.weights if cfg.weights else result.published_weights
    return same and weights and not described and _has_usual_expand(result, cfg.expand)


def _has_usual_expand(result: Result, expand: int | None) -> bool:
    """Whether a run was tested with the default expand. expand: that of its configuration; None: the general one."""
    pixels = re.search(r"@(\d+)px$", result.backbone)
    one_crop = int(pixels[1] if pixels else RESOLUTION) // 7
    usual = expand if expand is not None else TTE_EXPAND if result.crops > 1 else one_crop
    given = _expand_given(result.command)
    return result.tested.get("expand", usual if given is None else given) == usual


# ---- showing ----


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation; the mean alone for a single value."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def show(rows: list[Row]) -> None:
    """Prints the rows as Markdown, with columns of published values if there is one."""
    header = ["data", "backbone", "run", "test", *ACCURACIES.values(), "trained", "n"]
    numbers = len(ACCURACIES) + 2
    any_published = any(row.published is not None for row in rows)
    terminal.say("| " + " | ".join(header + ["published overall", "source"] * any_published) + " |")
    terminal.say("|---|---|---|---|" + "---:|" * numbers + "---:|---|" * any_published)
    for row in rows:
        run = row.runs[0]
        weights = f" ({run.weights})" if run.weights and not run.published_weights else ""
        cells = [run.data, run.backbone + weights, run.run, row.test, *(spread(row.values(key)) for key in ACCURACIES)]
        cells += [f"{run.trained:,}", str(len(row.runs))]
        if any_published:
            cells += ["" if row.published is None else f"{row.published:.1f}", row.source]
        terminal.say("| " + " | ".join(visible(cell) for cell in cells) + " |")


def write_csv(rows: list[Row], path: Path) -> None:
    """Writes the rows as numbers: mean and deviation in columns of their own, empty where there is none."""
    header = ["data", "backbone", "weights", "run", "test", "n", "trained"]
    header += [f"{key}_{number}" for key in ACCURACIES for number in ("mean", "deviation")]
    with io.StringIO(newline="") as text:
        writer = csv.writer(text)
        writer.writerow([*header, "published_overall", "source"])
        for row in rows:
            run = row.runs[0]
            names = (run.data, run.backbone, run.weights, run.run, row.test)
            cells: list[Any] = [*map(visible, names), len(row.runs), run.trained]
            for values in map(row.values, ACCURACIES):
                cells += [
                    statistics.mean(values) if values else "",
                    statistics.stdev(values) if len(values) > 1 else "",
                ]
            writer.writerow([*cells, "" if row.published is None else row.published, row.source])
        write_text(path, text.getvalue())


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = terminal.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder with run directories")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to this file")
    args = parser.parse_args()
    try:
        rows = collect(RunDir.all_results(args.output), args.output)
        if not rows:
            raise DataError(
                f"no results below {args.output}; train something first", kind="no_results", path=args.output
            )
        show(rows)
        if args.csv:
            write_csv(rows, args.csv)
    except (UserError, WriteError) as error:
        terminal.say(f"error: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main())
