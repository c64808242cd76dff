"""Text for people: names from files and options, made harmless for a terminal and for line-based files."""

import itertools
import json
import math
import unicodedata
from collections.abc import Iterable
from typing import Any

# marks that change the order of the letters around them (Unicode's bidirectional algorithm)
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs (bytes that are not UTF-8), line ends


def visible(text: str, keep: str = "") -> str:
    r"""The text with control characters, line ends, bidirectional marks and undecodable bytes as escapes: \n, \x1b.

    A terminal would obey the first, a line-based file would fall apart at the second, and the third show a name as
    another one. keep: characters that stay, such as the line ends of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign in keep or not _is_unsafe(sign) else _escaped(sign) for sign in text)


def _is_unsafe(sign: str) -> bool:
    return sign in BIDI or unicodedata.category(sign) in UNSAFE


def _escaped(sign: str) -> str:
    """A byte that is not UTF-8 as that byte, as in os.fsdecode; other characters as Python writes them."""
    code = ord(sign)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else sign.encode("unicode_escape").decode()


def shortened(text: str, limit: int = 100) -> str:
    """The text, its middle left out if it has more than `limit` characters, as a name from a file may have."""
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
    """The beginning of JSON content, for a message. Only that much is written, however large or repeated it is."""
    return "".join(itertools.islice(json.JSONEncoder(ensure_ascii=False).iterencode(content), letters))[:letters]


# ---- numbers ----


def significant(value: float) -> str:
    """A number with three significant digits, and all those before the point: 0.0042, 0.42, 4.2, 1,234."""
    if not math.isfinite(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or not value else f"{value:.3e}"


def rate(images_per_second: float) -> str:
    """A speed; a slow one with the time of an image, too: 0.042 images/s (23.8 s an image)."""
    each = f" ({duration(1 / images_per_second)} an image)" if 0 < images_per_second < 0.5 else ""
    return f"{significant(images_per_second)} images/s{each}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0.42 s, 42 s, 3 min 20 s, 5 h 4 min."""
    if seconds < 100:
        return f"{significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
