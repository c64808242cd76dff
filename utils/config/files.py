"""The files of configs/: which there are, and what they hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from utils.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FLAGS = {"data": "-d", "backbone": "-b", "method": "-m", "model": "-m"}


def read_files(data: str, backbone: str | None, method: str) -> list[tuple[Path, dict[str, Any]]]:
    """The files to merge, in order, each with its keys and values. Raises ConfigError."""
    return [(path, dict(flatten(read_yaml(path)))) for path in _paths(data, backbone, method)]


def _paths(data: str, backbone: str | None, method: str) -> list[Path]:
    if backbone is not None:
        return [config_file("data", data), config_file("backbone", backbone), config_file("method", method)]
    if method in config_names("method") and method not in config_names("model"):
        raise ConfigError(f"-m {method} needs a backbone: -b {'|'.join(config_names('backbone'))}")
    model = config_file("model", method)
    return [config_file("data", data), config_file("backbone", read_yaml(model)["backbone"]), model]


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no 'key: value' lines, found '{content}'")
    room = {"data": "dataset", "backbone": "backbone", "model": "backbone"}.get(path.parent.name)
    if room and room not in content:
        raise ConfigError(f"{path} does not say which {room} it is for; add a line '{room}: NAME'")
    return content


def config_file(room: str, name: str) -> Path:
    """configs/ROOM/NAME.yaml; for an unknown name, a ConfigError with the choices."""
    choices = config_names(room)
    if name not in choices:
        lift = room == "method" and name in config_names("model")
        advice = "it is a model of LIFT's form, so leave -b out" if lift else f"choose from {', '.join(choices)}"
        raise ConfigError(f"unknown {room} '{name}' in {FLAGS[room]}; {advice}")
    return CONFIGS / room / f"{name}.yaml"


def config_names(room: str) -> list[str]:
    """The names that -d, -b or -m takes: the files of configs/data, backbone, method or (LIFT's form) model."""
    return sorted(path.stem for path in (CONFIGS / room).glob("*.yaml"))


def flatten(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields keys and values of nested dicts, the keys joined by dots."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
