"""Writes the generated blocks of docs/keys.md and docs/methods.md, from the schema and the docstrings that they repeat.

    python scripts/write_reference.py            # after a change of a key, a table or one of these docstrings

A block is everything between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a page is written by hand.
tests/docs/test_reference.py compares the pages with this output.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.heads import HEAD_INITS, HEADS
from models.heads.text_similarity import TextSimilarity
from models.losses import LOSSES
from models.peft import METHODS
from utils import terminal
from utils.config import schema
from utils.config.help import shown
from utils.config.legacy_keys import LIFT_DEFAULTS, LIFT_KEYS
from utils.config.schema import KEEPING, KEYS, SCHEMA, Key, Kind
from utils.evaluators import EVALUATORS
from utils.files import write_text
from utils.home import ensure_home
from utils.optim import OPTIMIZERS
from utils.schedule import SCHEDULES

PAGES = (ROOT / "docs/keys.md", ROOT / "docs/methods.md")
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TARGETS = {"transformer": "both towers", "resnet": "ResNet", "head": "CLIP's own head", "texts": "CLIP's own head"}
VALUES: dict[Kind, str] = {
    "bool": "`True`, `False`",
    "int": "whole number",
    "float": "number",
    "str": "text",
    "path": "path",
    "floats": "three numbers, `[0.5,0.5,0.5]`; or `clip`, `imagenet`, `half`",
    "layers": "whole number, or block numbers, `[0,2]`",
    "range": "whole number, or a range of blocks, `[6,9]`",
}

# ---- text ----


def linked(text: str) -> str:
    """Markdown text with links for arXiv numbers and for pages of docs, and no tags of HTML."""
    text = text.replace("<", "&lt;")
    text = re.sub(r"\barXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)


def cell(text: str) -> str:
    """Text as a cell of a table: one line, its pipes escaped."""
    return linked(" ".join(text.split())).replace("|", r"\|")


def code(value: object) -> str:
    """A value as code in a cell."""
    return f"`{value}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def paragraphs(described: Any) -> list[str]:
    """The paragraphs of a docstring that describe what is computed, without arguments and errors."""
    found = (inspect.getdoc(described) or "").split("\n\n")
    found = [re.sub(r"\s*\bRaises \w+Error[^.]*\.", "", paragraph) for paragraph in found]
    return [paragraph for paragraph in found if paragraph and not re.match(r"\w+: ", paragraph)]


def description(described: Any) -> str:
    """The docstring as a cell."""
    return "<br>".join(cell(paragraph) for paragraph in paragraphs(described))


# ---- keys ----


def default_of(key: Key) -> str:
    """The default as it is written on the command line."""
    return code(shown(key.default))


def values_of(key: Key) -> str:
    """The values that a key takes."""
    choices = ", ".join(map(code, key.choices))
    if key.kind == "names":
        return f"one or more of {choices}, with commas between them"
    limits = ""
    if key.kind in ("int", "float") and key.min is not None:
        limits = f", at least {key.min:,}" if key.max == float("inf") else f", {key.min:,} to {key.max:,}"
    none = "; `None`" if key.takes_none else ""
    return (choices or VALUES[key.kind] + limits) + none


def keys_table(keys: dict[str, Key]) -> str:
    """A row for each key."""
    head = ("key", "default", "values", "meaning", "changes training")
    return table(
        head,
        (
            (code(name), default_of(key), values_of(key), cell(key.help), "yes" if key.affects_training else "no")
            for name, key in keys.items()
        ),
    )


def keys_sections() -> str:
    """A section for each group of keys."""
    return "\n".join(f"## {section}\n\n{keys_table(keys)}" for section, keys in SCHEMA.items())


def lift_table() -> str:
    """LIFT's defaults, and a row for each of its keys."""
    defaults = ", ".join(code(f"{name} {value}") for name, value in LIFT_DEFAULTS.items())
    rows = ((code(name), values_of(row.key), cell(row.key.help)) for name, row in LIFT_KEYS.items())
    return f"Defaults: {defaults}.\n\n" + table(("key of LIFT", "values", "read as"), rows)


# ---- methods ----


def method_keys(name: str) -> str:
    """The keys of a method's options and their defaults; in the text tower where they differ."""
    row = schema.METHODS[name]
    cells = []
    for option, key in row.options.items():
        other = f", text tower {code(row.text_defaults[option])}" if option in row.text_defaults else ""
        cells.append(f"{code(f'{name}_{option}')} ({default_of(key)}{other})")
    return ", ".join(cells)


def methods_table() -> str:
    """A row for each fine-tuning method, in the order in which they are attached."""
    rows = []
    for name, method in METHODS.items():
        targets = ", ".join(dict.fromkeys(TARGETS[target] for target in method.targets))
        rows.append((f"[{code(name)}](#{name})", cell(schema.METHODS[name].help), targets, method_keys(name)))
    return table(("method", "trains", "in", "options (default)"), rows)


def methods_sections() -> str:
    """A section for each fine-tuning method: its module's docstring, whose formulas are code."""
    sections = []
    for name in METHODS:
        found = (inspect.getdoc(importlib.import_module(f"models.peft.{name}")) or "").split("\n\n")
        body = [text if text.startswith("    ") else linked(text) for text in found]
        sections.append(f"### {name}\n\n" + "\n\n".join(body) + "\n")
    return "\n".join(sections)


def choice(key: str, name: str) -> str:
    """A value of a key, marked if it is the default."""
    return code(name) + (", the default" if name == str(KEYS[key].default) else "")


def choices_table(key: str, about: str, rows: Mapping[str, Any]) -> str:
    """A row for each value of a key, with the docstring of its code."""
    return table((code(key), about), ((choice(key, name), description(row)) for name, row in rows.items()))


def losses_table() -> str:
    """A row for each loss, with its docstring and its options."""
    rows = []
    for name, loss in LOSSES.items():
        options = schema.LOSSES[name].options.items()
        keys = ", ".join(f"{code(schema.loss_key(name, option))} ({default_of(key)})" for option, key in options)
        rows.append((choice("loss_type", name), description(loss), keys))
    return table((code("loss_type"), "loss of a sample", "options (default)"), rows)


def evaluators_table() -> str:
    """A row for each evaluator."""
    functions = {name: evaluator.function for name, evaluator in EVALUATORS.items()}
    return choices_table("evaluators", "scores", functions)


BLOCKS: dict[str, Callable[[], str]] = {
    "keys": keys_sections,
    "keeping": lambda: "Keys that choose the epoch of `keep best`: " + ", ".join(map(code, KEEPING)) + ".\n",
    "lift": lift_table,
    "methods": methods_table,
    "formulas": methods_sections,
    "heads": lambda: choices_table("classifier", "logits", {"None": TextSimilarity} | HEADS),
    "inits": lambda: choices_table("classifier_init", "initial weights", HEAD_INITS),
    "losses": losses_table,
    "optimizers": lambda: choices_table("optimizer", "update", OPTIMIZERS),
    "schedules": lambda: choices_table("schedule", "learning rate", SCHEDULES),
    "evaluators": evaluators_table,
}


def generated(page: str) -> str:
    """The page with up-to-date blocks."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n{found[3]}", page)


def main() -> int:
    """Writes the pages."""
    for page in PAGES:
        write_text(page, generated(page.read_text()))
    return 0


if __name__ == "__main__":
    terminal.protect()
    ensure_home()
    sys.exit(main())
