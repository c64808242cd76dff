"""Addresses of published weights in other libraries: timm:MODEL.TAG, open_clip:MODEL/TAG, hf-hub:OWNER/NAME."""

import re
from typing import Any, NamedTuple

from utils.config.suggestions import nearest_name
from utils.text import shortened

NAME_LETTERS = 200  # of an address; the longest in the registries has 74
_WORD = r"[A-Za-z0-9][A-Za-z0-9_.+@-]*"


class Scheme(NamedTuple):
    """A library whose weights have addresses SCHEME:NAME."""

    form: str  # of NAME, for messages
    pattern: re.Pattern[str]
    towers: str  # "image" if the library publishes image towers only


SCHEMES = {
    "timm": Scheme("MODEL.TAG", re.compile(_WORD), "image"),
    "open_clip": Scheme("MODEL/TAG", re.compile(f"{_WORD}/{_WORD}"), "image and text"),
    "hf-hub": Scheme("OWNER/NAME", re.compile(f"{_WORD}/{_WORD}"), "image and text"),
}
FORMS = [f"{name}:{scheme.form}" for name, scheme in SCHEMES.items()]


def is_address(name: str) -> bool:
    """Whether a name has a scheme, known or not. Files of configs/ have none."""
    return ":" in name


def has_known_scheme(name: str) -> bool:
    """Whether a text begins with one of SCHEMES."""
    return is_address(name) and name.partition(":")[0] in SCHEMES


def problem_of(address: str) -> str | None:
    """The reason why an address is malformed, and its remedy, as the rest of a sentence; None if it is well formed."""
    scheme, _, name = address.partition(":")
    if scheme not in SCHEMES:
        nearest = nearest_name(scheme, SCHEMES)
        hint = f"; did you mean {nearest}:?" if nearest else ""
        return f"has the unknown scheme '{shortened(scheme)}'; write {', '.join(FORMS)}{hint}"
    if len(name) > NAME_LETTERS or ".." in name or not SCHEMES[scheme].pattern.fullmatch(name):
        return f"is not of the form {scheme}:{SCHEMES[scheme].form}, in letters, digits and . _ + @ -; correct it"
    return None


def keys_of(address: str) -> dict[str, Any]:
    """The keys and values that a file of configs/backbone would have for an address.

    Without a text tower, the head is initialised with mean features. Repositories of the hub may lack a text tower,
    too, which only their files show.
    """
    towers = SCHEMES[address.partition(":")[0]].towers
    return {"backbone": address} | ({"classifier_init": "class_mean"} if towers == "image" else {})
