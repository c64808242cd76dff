"""Tables that turn the tensor names of a published weight file into native ones."""

from typing import NamedTuple, TypeAlias

# (upstream prefix, native prefix, (upstream substring, native substring) pairs for the rest of the name)
Rename: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...]]


class Naming(NamedTuple):
    """The upstream names of one kind of backbone."""

    kind: str  # in words
    prefix: str  # some tensors of this kind begin with it, and none of another kind
    renames: tuple[Rename, ...]  # the first with a matching prefix is applied


def rename(name: str, renames: tuple[Rename, ...]) -> str:
    """The name after the first of `renames` whose prefix it has."""
    for old, new, rest in renames:
        if name.startswith(old):
            name = new + name[len(old) :]
            for old_substring, new_substring in rest:
                name = name.replace(old_substring, new_substring)
            return name
    return name
