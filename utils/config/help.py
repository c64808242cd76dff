"""The texts of `main.py --help`, from the tables of schema.py and the files of configs/."""

import itertools
import re
import textwrap
from typing import Any

from utils.config.addresses import FORMS
from utils.config.files import CONFIGS, FLAGS, config_names, flatten, read_yaml
from utils.config.legacy_keys import LIFT_DEFAULTS, LIFT_KEYS
from utils.config.naming import NAMED_BY_FILE
from utils.config.parsing import expected
from utils.config.schema import KEEPING, KEYS, LOSSES, METHODS, SCHEMA, Key, loss_key
from utils.config.suggestions import nearest_key, nearest_name
from utils.errors import ConfigError
from utils.text import listed, shortened

USAGE = """\
python main.py -d DATA -b BACKBONE -m METHOD [KEY VALUE ...]
       python main.py -d DATA -m MODEL [KEY VALUE ...]             (LIFT's form)
       python main.py --help [all | KEY | NAME | data | backbones | methods]"""
EXAMPLES = {
    "-d digits_lt -b clip_tiny -m lift+": "train LIFT+ on the digits that come with scikit-learn",
    "-d digits_lt -b clip_tiny -m lift+ seed 1 lr 0.01": "train with other values of two keys",
    "-d digits_lt -b clip_tiny -m lift+ test_only True tte True": "test the trained run, with test-time ensembling",
    "-d digits_lt -b clip_tiny -m zs": "test CLIP without training",
    "-d folder -b clip_vit_b16 -m lift+ root PICTURES": "your images: train/CLASS/*, test/CLASS/*",
    "-d cifar100_ir100 -m clip_vit_b16 adaptformer True": "LIFT's form",
}
# the keys of a first week: where images and weights are, what papers vary, and how runs are named, placed and tested
COMMON = ["root", "weights", "num_epochs", "batch_size", "lr", "loss_type", "seed", "gpu", "output_dir", "test_only"]
TITLES = {"data": "data sets", "backbone": "backbones", "method": "methods", "model": "models of LIFT's form"}
LISTS = {  # topic: the sections of configs/ that it lists
    **dict.fromkeys(("data", "-d"), ("data",)),
    **dict.fromkeys(("backbones", "-b"), ("backbone",)),
    **dict.fromkeys(("methods", "-m"), ("method", "model")),
    "models": ("model",),
}
SECTION_PAGES = {"General": "docs/backbones.md", "Data": "docs/data.md", "Running": "docs/after_training.md"}
METHODS_PAGE = "docs/methods.md"  # of the other sections
KEY_PAGES = {  # of keys that another page explains than their section's
    **dict.fromkeys(("variant", "interpolation", "resize", "classifier_init", "feature_cache"), METHODS_PAGE),
    **dict.fromkeys(("accum_step", "checkpointing", "save_minutes", "image_cache"), "docs/scale.md"),
    **dict.fromkeys(("gpu", "deterministic", "compile"), "docs/gpu.md"),
    **dict.fromkeys(("root", "num_workers", "worker_timeout"), "docs/data.md"),
    **dict.fromkeys(("keep", "keep_score"), "docs/after_training.md"),
    **dict.fromkeys(("prec_train", "prec_test"), "docs/performance.md"),
    "seed": "docs/reliability.md",
    "dataset": "docs/data.md",
}
NAMED = {  # keys that do not change training by themselves, but whose values enter a run's name
    **dict.fromkeys(("dataset", "backbone"), "the run's name begins with the names of -d, -b and -m"),
    **dict.fromkeys(NAMED_BY_FILE, "the name of the file is part of the run's name"),
    **dict.fromkeys(("model_dir", "init_from"), "the name of that run is part of the run's name"),
    **dict.fromkeys(KEEPING, "does not change training; part of the run's name only with keep best"),
    "weights": "an address is part of the run's name, the path of a file is not",
}
COLUMN, NARROW_COLUMN = 28, 6  # where texts begin, on terminals of NARROW columns and more, and of fewer
NARROW = 60


def help_text(topic: str = "", width: int = 80) -> str:
    """The text for `--help TOPIC`, in lines of at most `width` columns: without a topic, the first steps.

    topic: all; a list of LISTS; a key, of LIFT's too; or a name of a file of configs/, of a method or of a loss.
    Raises ConfigError for an unknown one.
    """
    if not topic:
        return _first_steps(width)
    if topic == "all":
        return _all_keys(width)
    if topic in LISTS:
        return "\n\n".join(_list_of(section, width) for section in LISTS[topic])
    texts = [_file(section, topic, width) for section in FLAGS if topic in config_names(section)]
    texts += [_method(topic, width)] if topic in METHODS else []
    texts += [_loss(topic, width)] if topic in LOSSES else []
    texts += [_key(topic, width)] if topic in KEYS else []
    texts += [_lift_key(topic, width)] if topic in LIFT_KEYS else []
    if not texts:
        raise _unknown(topic)
    return "\n\n".join(texts)


def page_of(name: str) -> str:
    """The page that explains a key."""
    section = next(section for section, keys in SCHEMA.items() if name in keys)
    return KEY_PAGES.get(name, SECTION_PAGES.get(section, METHODS_PAGE))


def _unknown(topic: str) -> ConfigError:
    names = [name for section in FLAGS for name in config_names(section)]
    nearest = nearest_key(topic, [*KEYS, *LIFT_KEYS]) or nearest_name(topic, [*names, *METHODS, *LOSSES])
    hint = f"did you mean --help {nearest}? " if nearest else ""
    message = f"unknown help topic '{shortened(topic)}'; {hint}--help all lists all keys"
    return ConfigError(message, kind="unknown_topic")


# ---- the texts ----


def _first_steps(width: int) -> str:
    """Usage, examples, names and the most common keys."""
    lines = [f"usage: {USAGE}", ""]
    lines += [_wrapped("Fine-tunes a frozen CLIP or ViT for long-tailed recognition, and tests it.", width)]
    lines += ["", "examples"]
    for command, comment in EXAMPLES.items():
        lines += [f"  python main.py {command}", _wrapped(comment, width, " " * 6, " " * 6)]
    for section, flag in (("data", "-d DATA"), ("backbone", "-b BACKBONE"), ("method", "-m METHOD")):
        lines += ["", f"{flag} ({TITLES[section]}; --help {flag[:2]} describes them)"]
        lines.append(_wrapped(", ".join(_grouped(config_names(section))), width, "  ", "  "))
        if section == "backbone":
            lines.append(_wrapped(f"or the address of published weights: {', '.join(FORMS)}", width, "  ", "  "))
    lines += ["", "the most common keys, with their defaults"]
    lines += [_row(name, KEYS[name], width) for name in COMMON]
    lines += ["", "more help"]
    for form, text in (
        ("--help all", f"all {len(KEYS)} keys"),
        ("--help KEY", "a key in full, such as --help lr or --help v.lora"),
        ("--help NAME", "a data set, backbone, method or loss, such as --help lift+"),
        ("docs/", "the manual"),
    ):
        lines.append(_pair(form, text, width))
    return "\n".join(lines)


def _all_keys(width: int) -> str:
    """Every key with default and meaning, by section; LIFT's names after them."""
    lines = [_wrapped("All keys, with their defaults; --help KEY describes one in full.", width)]
    for section, keys in SCHEMA.items():
        lines += ["", section, *(_row(name, key, width) for name, key in keys.items())]
    defaults = ", ".join(f"{name} {value}" for name, value in LIFT_DEFAULTS.items())
    lines += ["", _wrapped(f"LIFT's form (-m MODEL without -b) starts from {defaults}.", width)]
    lines += ["", "LIFT's key names, and the keys that they set"]
    lines += [_pair(name, lift.key.help, width) for name, lift in LIFT_KEYS.items()]
    return "\n".join(lines)


def _list_of(section: str, width: int) -> str:
    """The names of a section of configs/, each with the first sentence of its file."""
    lines = [f"{FLAGS[section]}: {TITLES[section]}"]
    for name in config_names(section):
        sentence = re.split(r"(?<=\.) (?=[A-Z])", _description(section, name))[0]
        lines.append(_pair(name, sentence, width))
    if section == "backbone":
        lines += [_pair(form, "the address of published weights", width) for form in FORMS]
    return "\n".join(lines)


def _file(section: str, name: str, width: int) -> str:
    """A file of configs/: its description, and the keys that it sets."""
    sets = ", ".join(f"{key} {shown(value)}" for key, value in _settings(section, name).items())
    lines = [f"{FLAGS[section]} {name}", "", _wrapped(_description(section, name), width, "  ", "  "), ""]
    lines += [_fact("sets", sets or "no key", width), _fact("file", f"configs/{section}/{name}.yaml", width)]
    return "\n".join(lines)


def _method(name: str, width: int) -> str:
    """The keys of a fine-tuning method."""
    towers = {"blocks": ("v.", "l."), "resnet": ("v.",), "head": ("",)}[METHODS[name].target]
    keys = [tower + key for tower in towers for key in METHODS[name].keys(name)]
    title = f"its keys{' (v: image tower, l: text tower)' if len(towers) == 2 else ''}"
    return "\n".join([title, *(_row(key, KEYS[key], width) for key in keys)])


def _loss(name: str, width: int) -> str:
    """The keys of a loss."""
    keys = [loss_key(name, option) for option in LOSSES[name].options]
    rows = [_pair(f"loss_type {name}", f"chooses this loss; {METHODS_PAGE} has its formula", width)]
    return "\n".join(["the keys of this loss", *rows, *(_row(key, KEYS[key], width) for key in keys)])


def _key(name: str, width: int) -> str:
    """A key in full; with it the options of the method that it switches on."""
    key = KEYS[name]
    files: dict[str, list[str]] = {}  # of configs/, by the value that they set
    for section in FLAGS:
        for file in config_names(section):
            settings = _settings(section, file)
            if name in settings:
                files.setdefault(shown(settings[name]), []).append(f"{section}/{file}")
    others = "; ".join(f"{value} in {listed(paths)}" for value, paths in files.items())
    values = expected(key) + (", or None" if key.takes_none and "None" not in expected(key) else "")
    effect = "changes training, so a value that is set is part of the run's name"
    if not key.affects_training:
        effect = NAMED.get(name, "does not change training, and is not part of the run's name")
    lines = [
        name,
        "",
        _wrapped(key.help, width, "  ", "  "),
        "",
        _fact("values", values, width),
        _fact("default", shown(key.default), width),
        *([_fact("configs/", others, width)] if files else []),
        _fact("effect", effect, width),
        _fact("more", page_of(name), width),
    ]
    method = name.rpartition(".")[2]
    options = list(METHODS[method].keys(method))[1:] if method in METHODS else []
    if options:
        tower = name.removesuffix(method)
        lines += ["", "its options", *(_row(tower + option, KEYS[tower + option], width) for option in options)]
    return "\n".join(lines)


def _lift_key(name: str, width: int) -> str:
    """One of LIFT's names of keys."""
    key = LIFT_KEYS[name].key
    facts = (_fact("sets", key.help, width), _fact("values", expected(key), width), _fact("more", METHODS_PAGE, width))
    return "\n".join([f"{name} (LIFT's name)", "", *facts])


# ---- their parts ----


def _settings(section: str, name: str) -> dict[str, Any]:
    """The keys and values of a file of configs/."""
    return dict(flatten(read_yaml(CONFIGS / section / f"{name}.yaml")))


def _description(section: str, name: str) -> str:
    """The comment at the top of a file of configs/, without its commands."""
    lines = (CONFIGS / section / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    top = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line[1:].strip() for line in top if not line.startswith("#   "))


def _grouped(names: list[str]) -> list[str]:
    """The names, those that differ only after their last _ in one: clip_vit_{b16,l14}."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem, _, leaf = name.rpartition("_")
        groups.setdefault(stem and f"{stem}_", []).append(leaf)
    plain = groups.pop("", [])
    joined = [stem + (leaves[0] if len(leaves) == 1 else f"{{{','.join(leaves)}}}") for stem, leaves in groups.items()]
    return sorted([*plain, *joined])


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _row(name: str, key: Key, width: int) -> str:
    """A key with its default and meaning."""
    choices = f" [{', '.join(map(str, key.choices))}]" if key.choices else ""
    return _pair(f"{name} {shown(key.default)}", key.help + choices, width)


def _pair(head: str, text: str, width: int) -> str:
    """A head and its text beside it; below it where the head is long."""
    column = COLUMN if width >= NARROW else NARROW_COLUMN
    if len(head) + 4 > column:
        return f"  {head}\n{_wrapped(text, width, ' ' * column, ' ' * column)}"
    return _wrapped(text, width, f"  {head}".ljust(column), " " * column)


def _fact(label: str, text: str, width: int) -> str:
    return _wrapped(text, width, f"  {label:9}", " " * 11)


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> str:
    """A paragraph, wrapped between words; `first` and `later` begin its lines."""
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=later, **options)
