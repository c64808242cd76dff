"""Text for people: names from files and options, made harmless for a terminal and for line-based files."""

import itertools
import json
import math
import re
import textwrap
import unicodedata
from collections.abc import Iterable
from typing import Any

# marks that change the order of the letters around them (Unicode's bidirectional algorithm)
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs (bytes that are not UTF-8), line ends


def visible(text: str, keep: str = "") -> str:
    r"""The text with control characters, line ends, bidirectional marks and undecodable bytes as escapes: \n, \x1b.

    A terminal would execute control characters, line ends would break a line-based file, and bidirectional marks would
    show a name as another one. keep: characters that stay, such as the line ends of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign in keep or not _is_unsafe(sign) else _escaped(sign) for sign in text)


def _is_unsafe(sign: str) -> bool:
    return sign in BIDI or unicodedata.category(sign) in UNSAFE


def _escaped(sign: str) -> str:
    """A byte that is not UTF-8 as \\xNN (os.fsdecode's halves of pairs); other characters as Python writes them."""
    code = ord(sign)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else sign.encode("unicode_escape").decode()


def shortened(text: str, limit: int = 100) -> str:
    """The text without its middle, if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}...{text[-half:]}"


def listed(names: Iterable[str], count: int = 3) -> str:
    """The first names of a list, shortened, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shortened(name) for name in names[:count]) + more


def brief(content: Any, letters: int = 100) -> str:
    """The beginning of JSON content, for a message. Only that much is encoded, however large the content is."""
    return "".join(itertools.islice(json.JSONEncoder(ensure_ascii=False).iterencode(content), letters))[:letters]


# lines that people copy: commands, tables and the paths of files
_WHOLE = re.compile(r"\$ |\||(start|testing|results|report) {3,}")
_LABEL = 10  # columns of "data      ..."


def wrapped(line: str, columns: int) -> str:
    """A line of a log, wrapped between words; commands, tables and paths stay whole.

    Later lines begin in the column of the text: after the label, if the line has one.
    """
    if len(line) <= columns or _WHOLE.match(line):
        return line
    labelled = re.match(rf".{{{_LABEL - 2}}}  \S", line)
    indent = " " * (_LABEL if labelled else 2)
    return textwrap.fill(line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# ---- numbers ----


def significant(value: float) -> str:
    """A number with three significant digits, and all digits before the point: 0.0042, 0.42, 4.2, 1,234."""
    if not math.isfinite(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or not value else f"{value:.3e}"


def rate(images_per_second: float) -> str:
    """A speed; if it is slow, with the time per image: 0.042 images/s (23.8 s per image)."""
    each = f" ({duration(1 / images_per_second)} per image)" if 0 < images_per_second < 0.5 else ""
    return f"{significant(images_per_second)} images/s{each}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0.42 s, 42 s, 3 min 20 s, 5 h 4 min."""
    if seconds < 100:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
