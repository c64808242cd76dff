"""The files of configs/: their names and contents."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.config.suggestions import nearest_name
from utils.errors import ConfigError
from utils.text import shortened

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FLAGS = {"data": "-d", "backbone": "-b", "method": "-m", "model": "-m"}
NAMED_KEY = {"data": "dataset", "backbone": "backbone", "model": "backbone"}  # the key that a file of a section sets


def read_files(data: str, backbone: str | None, method: str) -> list[tuple[Path, dict[str, Any]]]:
    """The files to merge, in order, each with its keys and values. Raises ConfigError."""
    if backbone is not None:
        paths = [config_file("data", data), config_file("backbone", backbone), config_file("method", method)]
    elif method in config_names("method") and method not in config_names("model"):
        choices = "|".join(config_names("backbone"))
        raise ConfigError(f"-m {method} needs a backbone: -b {choices}", kind="missing_backbone", key="backbone")
    else:
        model = config_file("model", method)
        paths = [config_file("data", data), config_file("backbone", read_yaml(model)["backbone"]), model]
    return [(path, dict(flatten(read_yaml(path)))) for path in paths]


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}", kind="not_yaml", path=path) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} takes 'key: value' lines, found '{content}'", kind="not_key_value", path=path)
    named = NAMED_KEY.get(path.parent.name)
    if named and named not in content:
        message = f"{path} does not name its {named}; add a line '{named}: NAME'"
        raise ConfigError(message, kind="missing_key", path=path, key=named)
    return content


def config_file(section: str, name: str) -> Path:
    """configs/SECTION/NAME.yaml; for an unknown name, a ConfigError with the choices."""
    choices = config_names(section)
    if name not in choices:
        is_model = section == "method" and name in config_names("model")
        nearest = nearest_name(name, choices)
        hint = f"did you mean '{nearest}'? All are " if nearest else "choose from "
        advice = "it is a model of LIFT's form, so leave -b out" if is_model else f"{hint}{', '.join(choices)}"
        message = f"unknown {section} '{shortened(name)}' in {FLAGS[section]}; {advice}"
        raise ConfigError(message, kind="unknown_name", key=section)
    return CONFIGS / section / f"{name}.yaml"


def config_names(section: str) -> list[str]:
    """The names that -d, -b or -m takes: the files of configs/data, backbone, method or (LIFT's form) model."""
    return sorted(path.stem for path in (CONFIGS / section).glob("*.yaml"))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields keys and values of nested dicts, the keys joined by dots."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
