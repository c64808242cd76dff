"""Published image lists: fetched once, proven by their git blob id, and held against the folder of the images.

A list has one `relative/path label` a line. Its file is looked for in the folder of the images, then in the user's
cache, then on the internet; what does not have the published blob id is never used, wherever it comes from.
"""

import glob
import hashlib
import http.client
import os
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.base import ImageList
from utils.cache import cache_folder
from utils.errors import DataError
from utils.files import atomic_write

ADDRESS = "https://raw.githubusercontent.com"
ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before the second attempt; twice that before the third
TIMEOUT_SECONDS = 20.0  # without a byte
PROBES = 5  # images of a list that are looked for on disk
KANG = "facebookresearch/classifier-balancing/main/data"  # of Kang et al. 2020


class Published(NamedTuple):
    """Where a file is published, and what proves it."""

    path: str  # below ADDRESS
    blob_id: str  # git's name for the content: sha1("blob <size>\0" + content)


# by the name that a file has in the cache and in root; the val lists (not iNaturalist's) are for choosing settings
FILES = {
    Path(path).name: Published(path, blob_id)
    for path, blob_id in (
        (f"{KANG}/ImageNet_LT/ImageNet_LT_train.txt", "a063f095fcd475db4cf8b0658c4b73955535bbf9"),
        (f"{KANG}/ImageNet_LT/ImageNet_LT_val.txt", "3ed3188b2f44829ce2dec1cc27040d8d40984088"),
        (f"{KANG}/ImageNet_LT/ImageNet_LT_test.txt", "76a2fb9749d6cd29e765cc4f8c270f2504131e2f"),
        (f"{KANG}/Places_LT/Places_LT_train.txt", "6392252f8ae867bc8a5e841cc1b29e5b8ef4b636"),
        (f"{KANG}/Places_LT/Places_LT_val.txt", "b93a2ca58ccb7f3b671c176f395a70bf52c95533"),
        (f"{KANG}/Places_LT/Places_LT_test.txt", "e732e58b8aa718a2c1c11933375f5710652c2b93"),
        (f"{KANG}/iNaturalist18/iNaturalist18_train.txt", "4accdb7584d2f0a5106c40a33ed6afa392189bcc"),
        (f"{KANG}/iNaturalist18/iNaturalist18_val.txt", "4c23900857fd0f5adcd4cc0dffef345039eeb05f"),
        (
            "shijxcs/LIFT-plus/main/datasets/iNaturalist2018/categories.json",
            "5804f413dc401661710ea810d7bcd3abf4c632e2",
        ),
    )
}


# ---- files ----


def read_files(names: Sequence[str], root: str) -> list[bytes]:
    """The published contents of the files `names`: from `root`, else from the cache, else fetched and cached.

    Raises a DataError that says which files to put where if one can neither be found nor fetched.
    """
    contents = {name: _read_local(name, root) for name in names}
    for name in names:
        if contents[name] is None:
            try:
                contents[name] = _fetch(name)
            except ConnectionError as error:
                missing = [name for name, content in contents.items() if content is None]
                raise DataError(f"{name} could not be fetched ({error}); {_by_hand(missing, root)}") from error
            _keep(cache() / name, contents[name])
    return list(contents.values())


def cache() -> Path:
    """The user's folder for fetched lists."""
    return cache_folder("lists")


def blob_id(content: bytes) -> str:
    """What `git hash-object` says of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _read_local(name: str, root: str) -> bytes | None:
    for path in (Path(root) / name, cache() / name):
        try:
            content = path.read_bytes() if path.is_file() else None
        except OSError as error:
            _warn(f"{path} cannot be read ({error.strerror}); it is passed over")
            continue
        if content is not None:
            if blob_id(content) == FILES[name].blob_id:
                return content
            _warn(
                f"{path} is damaged or not the published file (its git blob id is {blob_id(content)}, "
                f"not {FILES[name].blob_id}); it is not used"
            )
    return None


def _fetch(name: str) -> bytes:
    """The content of a published file from the internet. Raises ConnectionError, saying what the last attempt met."""
    problem = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            content = _download(f"{ADDRESS}/{FILES[name].path}", name)
        except urllib.error.HTTPError as error:
            problem = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:  # busy; all others will stay as they are
                break
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a proxy that is no address
            reason = getattr(error, "reason", error)  # what urllib wraps
            problem = str(reason) or type(reason).__name__
        else:
            if blob_id(content) == FILES[name].blob_id:
                return content
            problem = f"the server sent another file, {len(content):,} bytes that begin with {content[:20]!r}"
    proxy = f"{ADDRESS.partition(':')[0]}_proxy"
    by = f"; {proxy} is set" if os.environ.get(proxy) or os.environ.get(proxy.upper()) else ""
    raise ConnectionError(problem + by)


def _download(address: str, name: str) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
        size = answer.length  # bytes, None where the server does not say
        with tqdm(
            total=size,
            desc=f"fetching {name}",
            unit="B",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=None,
        ) as bar:
            while chunk := answer.read1(2**16):
                content += chunk
                bar.update(len(chunk))
    if size is not None and len(content) < size:
        raise ConnectionError(f"the connection broke off after {len(content):,} of {size:,} bytes")
    return bytes(content)


def _keep(path: Path, content: bytes) -> None:
    """Writes a file, or warns that it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        _warn(f"{path} cannot be written ({error.strerror}); the next run will fetch it again")


def _by_hand(names: list[str], root: str) -> str:
    files = " and ".join(f"{ADDRESS}/{FILES[name].path} (git blob id {FILES[name].blob_id})" for name in names)
    return (
        f"on another machine fetch {files}; put what you fetched into {root} or {cache()}; "
        f"git hash-object {' '.join(names)} shows whether the ids are right"
    )


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)


# ---- lists ----


def read_lists(names: Sequence[str], root: str) -> list[ImageList]:
    """The published lists `names`, as paths below `root`. Raises DataError."""
    return [
        image_list(*parse_list(content, name), root, name)
        for name, content in zip(names, read_files(names, root), strict=True)
    ]


def parse_list(content: bytes, name: str) -> tuple[list[str], np.ndarray]:
    """Relative paths, and labels int64 [n], of lines `relative/path label`. Raises a DataError that names the line."""
    lines = os.fsdecode(content).removesuffix("\n").split("\n")
    parts = [line.rpartition(" ") for line in lines]
    for number, (path, _, label) in enumerate(parts, 1):
        if not (path and label.isdecimal()):
            raise DataError(
                f"{name}, line {number}: expected 'relative/path label' with a whole number, "
                f"found '{lines[number - 1][:100]}'; restore the file"
            )
    return [path for path, _, _ in parts], np.array([int(label) for _, _, label in parts], np.int64)


def image_list(paths: list[str], labels: np.ndarray, root: str, source: str) -> ImageList:
    """The images of a list that `source` gave, below `root`. Raises a DataError for a path that leads elsewhere."""
    if not paths:
        raise DataError(f"{source} names no images; restore the file")
    for path in paths:
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise DataError(
                f"{source} names the image '{path}', which lies outside root {root}; only paths below root are read"
            )
    top = os.path.join(root, "")
    return ImageList([top + path for path in paths], labels)


# ---- folders ----


class Mend(NamedTuple):
    """A command that turns what is often found in a wrong folder into the layout that a list expects."""

    part: str  # of the layout: the first folder of the image that is missing ("" = any)
    found: str  # a pattern below root
    command: str  # with {root}


def require_root(root: str | None, title: str, layout: str) -> str:
    """The folder of the images, or a DataError that says how to name it."""
    if root is None:
        raise DataError(f"{title} needs its images: add root FOLDER, with {layout} in FOLDER")
    if not os.path.isdir(root):
        state = "is a file" if os.path.exists(root) else "does not exist"
        raise DataError(f"root {root} {state}; give the folder that holds {layout}")
    return str(Path(root))


def require_images(lists: Sequence[ImageList], root: str, layout: str, mends: Sequence[Mend], usual: str = "") -> None:
    """Looks for a few images of each list; a DataError shows a wrong layout and what mends it.

    usual: where below root the layout is often found. Wrong is a layout that lacks a folder, or half of those images; a
    single one that is missing is named by the loader, and by scripts/check_data.py.
    """
    for images in lists:
        probes = [images.images[index] for index in np.linspace(0, len(images) - 1, PROBES).astype(int)]
        missing = [path for path in probes if not os.path.exists(path)]
        lacks_folder = any(not os.path.isdir(os.path.dirname(path)) for path in missing)
        if lacks_folder or 2 * len(missing) > len(probes):
            path = missing[0]
            parts = [os.path.relpath(image, root) for image in (path, lists[0].images[0])]
            advice = _mend(parts[0], root, mends) or _other_root(parts, root, usual) or f"root must hold {layout}"
            raise DataError(f"{path} is not there ({_beside(path)}); {advice}")


def _mend(image: str, root: str, mends: Sequence[Mend]) -> str | None:
    for mend in mends:
        if image.startswith(mend.part) and glob.glob(mend.found, root_dir=root):
            return f"this mends it: {mend.command.format(root=shlex.quote(root))}"
    return None


def _other_root(images: list[str], root: str, usual: str) -> str | None:
    """Names the folder nearby that holds all of `images`."""
    for folder in (os.path.dirname(os.path.abspath(root)), usual, *sorted(glob.glob("*/", root_dir=root))[:100]):
        folder = os.path.normpath(os.path.join(root, folder))
        if all(os.path.exists(os.path.join(folder, image)) for image in images):
            return f"the images lie elsewhere: give root {shlex.quote(folder)}"
    return None


def _beside(path: str) -> str:
    """What the nearest folder above `path` holds."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{folder} holds {', '.join(names[:5]) or 'nothing'}{more}"
