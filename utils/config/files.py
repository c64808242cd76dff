"""The files of configs/: their names and contents."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.config.addresses import FORMS, is_address, keys_of, problem_of
from utils.config.suggestions import nearest_name
from utils.errors import ConfigError
from utils.text import shortened

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FLAGS = {"data": "-d", "backbone": "-b", "method": "-m", "model": "-m"}
NAMED_KEY = {"data": "dataset", "backbone": "backbone", "model": "backbone"}  # the key that a file of a section sets


def read_files(data: str, backbone: str | None, method: str) -> list[tuple[Path | None, dict[str, Any]]]:
    """The files to merge, in order, each with its keys and values; for an address, its keys without a file.

    Raises ConfigError.
    """
    if backbone is not None:
        return [
            _read_file("data", data),
            _read_address(backbone) if is_address(backbone) else _read_file("backbone", backbone),
            _read_file("method", method),
        ]
    if method in config_names("method") and method not in config_names("model"):
        message = f"-m {method} needs a backbone; add -b NAME (--help -b lists all)"
        raise ConfigError(message, kind="missing_backbone", key="backbone")
    of_model = _read_file("model", method)
    return [_read_file("data", data), _read_file("backbone", of_model[1]["backbone"]), of_model]


def _read_file(section: str, name: str) -> tuple[Path, dict[str, Any]]:
    """configs/SECTION/NAME.yaml, with its keys and values. Raises ConfigError."""
    path = config_file(section, name)
    return path, dict(flatten(read_yaml(path)))


def _read_address(address: str) -> tuple[None, dict[str, Any]]:
    """The keys and values of a backbone's address, which has no file. Raises ConfigError if it is malformed."""
    if problem := problem_of(address):
        raise ConfigError(f"-b {shortened(address)} {problem}", kind="bad_address", key="backbone")
    return None, keys_of(address)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}", kind="not_yaml", path=path) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain 'key: value' lines, found '{content}'", kind="not_key_value", path=path)
    named = NAMED_KEY.get(path.parent.name)
    if named and named not in content:
        message = f"{path} does not set {named}; add a line '{named}: NAME'"
        raise ConfigError(message, kind="missing_key", path=path, key=named)
    return content


def config_file(section: str, name: str) -> Path:
    """configs/SECTION/NAME.yaml; for an unknown name, a ConfigError with the choices."""
    choices = config_names(section)
    if name not in choices:
        is_model = section == "method" and name in config_names("model")
        nearest = nearest_name(name, choices)
        known = choices + (FORMS if section == "backbone" else [])
        all_names = f"--help {FLAGS[section]} lists all"
        hint = f"did you mean '{nearest}'? {all_names}" if nearest else f"choose from {', '.join(known)}"
        advice = "it is a model of LIFT's form, so leave -b out" if is_model else hint
        message = f"unknown {section} '{shortened(name)}' in {FLAGS[section]}; {advice}"
        raise ConfigError(message, kind="unknown_name", key=section)
    return CONFIGS / section / f"{name}.yaml"


def config_names(section: str) -> list[str]:
    """The names for -d, -b or -m: the files of configs/data, backbone, method or (LIFT's form) model."""
    return sorted(path.stem for path in (CONFIGS / section).glob("*.yaml"))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields keys and values of nested dicts, the keys joined by dots."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
