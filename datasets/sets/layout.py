"""Checks the layout of the folder of a published set's images, and suggests a command that fixes it."""

import glob
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import ImageList
from utils.errors import DataError

PROBES = 5  # images of a list whose existence is checked


class LayoutFix(NamedTuple):
    """A command that turns a common wrong layout into the one that a list expects."""

    missing: str  # where the first missing image should be: a folder below root ("" = any)
    found: str  # pattern below root by which the wrong layout is recognised
    command: str  # with {root}


def require_root(root: str | None, title: str, layout: str) -> str:
    """The folder of the images, or a DataError that explains how to set it."""
    if root is None:
        message = f"{title} needs its images: add root FOLDER, with {layout} in FOLDER"
        raise DataError(message, kind="no_root", key="root")
    if not os.path.isdir(root):
        state = "is a file" if os.path.exists(root) else "does not exist"
        message = f"root {root} {state}; set it to the folder that contains {layout}"
        raise DataError(message, kind="not_a_folder", path=root, key="root")
    return str(Path(root))


def class_folders(images: ImageList) -> dict[int, str]:
    """By label, the name of the folder of its images."""
    labels = images.labels.tolist()
    return {label: path.split("/")[-2] for path, label in zip(images.images.paths, labels, strict=True)}


def require_images(
    lists: Sequence[ImageList], root: str, layout: str, fixes: Sequence[LayoutFix] = (), usual: str = ""
) -> None:
    """Checks that a few images of each list exist. Raises a DataError with the wrong layout and a remedy.

    usual: a folder below root that often has the layout. A layout is wrong if it lacks a folder, or half of those
    images; a single missing image is reported by the loader, and by scripts/check_data.py.
    """
    for paths in (images.images.paths for images in lists):
        probes = [paths[index] for index in np.linspace(0, len(paths) - 1, PROBES).astype(int)]
        missing = [path for path in probes if not os.path.exists(path)]
        lacks_folder = any(not os.path.isdir(os.path.dirname(path)) for path in missing)
        if lacks_folder or 2 * len(missing) > len(probes):
            first = os.path.relpath(missing[0], root)
            wanted = [first, os.path.relpath(lists[0].images.paths[0], root)]
            advice = _fix(first, root, fixes) or _other_root(wanted, root, usual) or f"root must contain {layout}"
            message = f"{missing[0]} is missing ({_beside(missing[0])}); {advice}"
            raise DataError(message, kind="wrong_layout", path=missing[0], key="root")


def _fix(image: str, root: str, fixes: Sequence[LayoutFix]) -> str | None:
    for fix in fixes:
        if image.startswith(fix.missing) and glob.glob(fix.found, root_dir=root):
            return f"fix it with: {fix.command.format(root=shlex.quote(root))}"
    return None


def _other_root(images: list[str], root: str, usual: str) -> str | None:
    """Advice to use the folder nearby that contains all of `images`."""
    for folder in (os.path.dirname(os.path.abspath(root)), usual, *sorted(glob.glob("*/", root_dir=root))[:100]):
        folder = os.path.normpath(os.path.join(root, folder))
        if all(os.path.exists(os.path.join(folder, image)) for image in images):
            return f"the images are elsewhere: set root {shlex.quote(folder)}"
    return None


def _beside(path: str) -> str:
    """The contents of the nearest folder above `path`."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{folder} contains {', '.join(names[:5]) or 'nothing'}{more}"
