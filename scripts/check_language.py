"""Finds wordings that CONTRIBUTING.md's section on language forbids, in comments, docstrings, strings and pages.

    python scripts/check_language.py             every file of the project
    python scripts/check_language.py FILE ...    these files
    python scripts/check_language.py --count     the number of places for each habit

Each place is a line `FILE:LINE: "WORDS": ADVICE`. Exit status: 0 none found, 1 some found. `make lint` runs it.
"""

import argparse
import bisect
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".md", ".sh", ".yaml", ".yml", ".toml", ".html", ".js", ".css", ".cff"}
NAMES = {"Makefile", "Dockerfile"}
# they list the forbidden wordings
EXEMPT = {"CONTRIBUTING.md", "docs/GLOSSARY.md", "docs/glossary.md", "scripts/check_language.py"}
EXEMPT |= {"tests/scripts/test_check_language.py"}

BREAK = "¶"  # ends a paragraph, a cell of a table or a comment
START = rf"(?<=[.!?:{BREAK}] )"  # of a sentence
THING = (
    r"(?:run|list|log|file|page|table|row|line|mark|message|note|name|key|option|label|report|result|checkpoint|tensor|"
    r"docstring|comment|test|command|program|package|README)s?"
)
DENIAL = r"(?:(?:do|does|did|can|could)(?: ?not) )?"


class Habit(NamedTuple):
    """A kind of wording to avoid. `allowed`: the files where it is a name."""

    name: str
    pattern: str
    advice: str
    allowed: tuple[str, ...] = ()


HABITS = (
    Habit("fronted Of", START + r"Of (?!course\b)\w+", "start with the subject"),
    Habit(
        "what as a noun",
        START + r"What (?:is|was|are|were|has|does|do|did|can|cannot|a|an|the|it|they|this|no)\b(?![^.!?¶]*\?)",
        "name the thing",
    ),
    Habit(
        "what as a noun",
        r"(?i)\b(?:of|for|from|to|with|without|by|in|into|on|at|beside|besides|than|as|has|have|had|holds?|keeps?|leaves?|"
        r"returns?|takes?|computes?|contains?|gets?|needs?|adds?|removes?|replaces?) what (?!if\b)\w+",
        "name the thing",
    ),
    Habit(
        "things that speak",
        r"(?i)\b(?:says|knows|tells?|told|speaks?)\b",
        "logs, contains, has, reports, distinguishes",
    ),
    Habit("things that speak", rf"(?i)\b{THING} {DENIAL}(?:say|know|said|knew)\b", "logs, contains, has, reports"),
    Habit(
        "is no",
        r"(?i)(?<!there )(?<!where )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|fewer|better|worse|other)\b)",
        'write "is not a"',
    ),
    Habit("unusual verb", r"(?i)\bof (?:its|their) own accord\b", "automatically"),
    Habit("unusual verb", r"(?i)\banew\b", "again, or recompute, retrain, rewrite"),
    Habit("unusual verb", r"(?i)\bmend(?:s|ed|ing)?\b", "fix"),
    Habit("unusual verb", r"(?i)\bgo(?:es|ing)? on\b", "continue, resume"),
    Habit("unusual verb", r"(?i)\bh(?:eld|olds?|olding) (?:against|back)\b", "compare, delay"),
    Habit("unusual verb", r"(?i)\bstands?\b(?! for\b|-)", "is"),
    Habit("unusual verb", r"(?i)\b(?:lies|lay)\b", "is"),
    Habit("unusual verb", r"\b(?:[Pp]arted|[Hh]eeds?|whence|thereof|[Ll]est)\b", "use the field's word"),
    Habit(
        "former name",
        r"(?<!first released as )\bPEL\b",
        'LIFT; "first released as PEL" once a page',
        ("scripts/run_pel.sh", "utils/config/legacy_keys.py"),
    ),
)


class Found(NamedTuple):
    """A wording to change. line: from 1. words: with their neighbours."""

    line: int
    words: str
    habit: Habit


# ---- the text of a file, as words with their lines ----

Words = Iterator[tuple[str, int]]  # BREAK between paragraphs


def words_of(name: str, text: str) -> Words:
    """The words of a file: of Python's comments and strings, of Markdown without its code, of the whole otherwise."""
    if name.endswith(".py"):
        return _words_of_python(text)
    if name.endswith(".md"):
        return _words_of_lines(re.sub(r"(?m)^ *(?:#+|>|[-*]|\d+\.) |\|", f" {BREAK} ", _without_code(text)), 1)
    return _words_of_commented(text)


def _words_of_lines(text: str, first: int) -> Words:
    for number, line in enumerate(text.splitlines(), first):
        yield from ((word, number) for word in line.split() or [BREAK])


def _words_of_python(text: str) -> Words:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _words_of_lines(token.string.lstrip("#"), token.start[0])
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)):
            yield from _words_of_lines(re.sub(r"""^\w*["']+|["']+$""", "", token.string), token.start[0])
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            yield BREAK, token.start[0]


def _words_of_commented(text: str) -> Words:
    """The words of a file whose comments begin with #. Adjacent comment lines are one text."""
    commented = False
    for number, line in enumerate(text.splitlines(), 1):
        if bool(re.match(r"\s*#(\s|$)", line)) != commented:
            commented = not commented
            yield BREAK, number
        yield from _words_of_lines(re.sub(r"(^|\s)#\s", rf" {'' if commented else BREAK} ", line), number)


def _without_code(text: str) -> str:
    """A page whose fenced blocks are empty lines, and whose inline code is a dot."""
    fenced = re.sub(r"(?ms)^( *)```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), text)
    return re.sub(r"`[^`]*`", lambda code: "·" + "\n" * code[0].count("\n"), fenced)


# ---- the search ----


def search(name: str, text: str) -> list[Found]:
    """The wordings to change in a file `name` (relative to the project) with this text, by line."""
    words = [(BREAK, 0), *words_of(name, text), (BREAK, 0)]
    joined = " ".join(word for word, _ in words)
    starts = [0]
    for word, _ in words[:-1]:
        starts.append(starts[-1] + len(word) + 1)
    return sorted(
        Found(words[bisect.bisect(starts, match.start()) - 1][1], _around(joined, match), habit)
        for habit in HABITS
        if name not in habit.allowed
        for match in re.finditer(habit.pattern, joined)
    )


def _around(text: str, match: re.Match[str]) -> str:
    """A match with two words before it and three after it, within its paragraph."""
    before = text[: match.start()].rpartition(BREAK)[2].split(" ")
    after = text[match.end() :].partition(BREAK)[0].split(" ")
    return " ".join([*before[-3:-1], before[-1] + match[0] + after[0], *after[1:4]]).strip()


def files_of_the_project() -> list[Path]:
    """The files with words for people: those that git tracks, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in sorted(set(listed.split("\0"))) if name]
    return [path for path in paths if (path.suffix in SUFFIXES or path.name in NAMES) and path.exists()]


def main(arguments: list[str]) -> int:
    """Prints the places to change; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--count", action="store_true", help="print the number of places for each habit only")
    args = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    for path in args.files or files_of_the_project():
        path = path.resolve()
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
        if name in EXEMPT:
            continue
        for line, words, habit in search(name, path.read_text(encoding="utf-8")):
            counts[habit.name] += 1
            if not args.count:
                print(f'{name}:{line}: "{words}": {habit.advice}')
    if args.count:
        for habit_name in dict.fromkeys(habit.name for habit in HABITS):
            print(f"{counts[habit_name]:5}  {habit_name}")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
