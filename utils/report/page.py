"""Renders content as a self-contained HTML file with its style, its script and its data."""

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("templates")
MARKUP = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def embedded(content: Any) -> str:
    """Content as JSON for a script element: no character in it ends the element."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(MARKUP)


def render(template: str, scripts: tuple[str, ...], data: dict[str, Any], **content: Any) -> str:
    """Renders a template. data: for its scripts; content: for the template, escaped when inserted."""
    script = "\n".join(_read(name) for name in scripts)
    return load_template(template).render(data=embedded(data), style=_read("style.css"), script=script, **content)


def load_template(name: str) -> Any:
    """A template, compiled once per process, with those that it extends or imports."""
    return _environment().get_template(name)


@functools.cache
def _environment() -> Any:
    import jinja2  # imported where it is used

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def percent(value: float | None, digits: int = 2) -> str:
    """A percentage for the page; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
