"""Imports of large packages, without what is not needed of them."""

import contextlib
import functools
import gc
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pauses the garbage collector, which would look through all that is imported again and again: 0.3 of 2.3 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@functools.cache
def submodule(name: str) -> Any:
    """A module by its full name, such as torchvision.io.image, with its package's `__init__.py` left out.

    torchvision's imports the whole compiler of torch, 2 s; open_clip's this and every model of timm. Where the package
    is imported already, its own module is returned, else one that belongs to an empty package of another name. Raises
    ModuleNotFoundError if there is no such package.
    """
    package, _, rest = name.partition(".")
    if package in sys.modules:
        return importlib.import_module(name)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
    empty = f"{package}_without_init"
    if empty not in sys.modules:
        sys.modules[empty] = ModuleType(empty)
        sys.modules[empty].__path__ = spec.submodule_search_locations
    return importlib.import_module(f"{empty}.{rest}")
