"""Published image lists: fetched once and verified by git blob id.

A list has one `relative/path label` per line. Its file is read from the folder of the images, else from the user's
cache, else fetched from the internet. A file without the published blob id is never used, whatever its source.
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.images import ImageList
from utils import terminal
from utils.cache import cache_folder
from utils.errors import DataError
from utils.files import atomic_write, read_limited

ADDRESS = "https://raw.githubusercontent.com"
ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before the second attempt; twice that before the third
TIMEOUT_SECONDS = 20.0  # without a byte
BYTES = 1 << 30  # of the largest file that is read
KANG = "facebookresearch/classifier-balancing/main/data"  # lists of Kang et al. 2020


class PublishedFile(NamedTuple):
    """A file's address and the hash that verifies it. Its name must differ from those of other data sets' files."""

    path: str  # below ADDRESS, or a whole address
    blob_id: str  # git's name for the content: sha1("blob <size>\0" + content)

    @property
    def name(self) -> str:
        """The name in the cache and in root."""
        return self.path.rpartition("/")[2]

    @property
    def address(self) -> str:
        return urllib.parse.urljoin(f"{ADDRESS}/", self.path)


# ---- files ----


def read_files(files: Sequence[PublishedFile], root: str) -> list[bytes]:
    """The contents of the files: from `root`, else from the cache, else fetched and cached.

    Raises a DataError with the files to copy, and their folder, if one can neither be found nor fetched.
    """
    found = {file.name: _read_local(file, root) for file in files}
    contents = []
    for file in files:
        content = found[file.name]
        if content is None:
            try:
                content = found[file.name] = _fetch(file)
            except ConnectionError as error:
                missing = [file for file in files if found[file.name] is None]
                message = f"{file.name} could not be fetched ({error}); {_by_hand(missing, root)}"
                raise DataError(message, kind="list_not_fetched", path=file.name, key="root") from error
            _write(cache() / file.name, content)
        contents.append(content)
    return contents


def cache() -> Path:
    """The user's folder for fetched lists."""
    return cache_folder("lists")


def blob_id(content: bytes) -> str:
    """The git blob id of a file with this content, as `git hash-object` prints it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _read_local(file: PublishedFile, root: str) -> bytes | None:
    """The verified content of a file in `root` or in the cache, None if there is none."""
    for path in (Path(root) / file.name, cache() / file.name):
        try:
            content = read_limited(path, BYTES) if path.is_file() else None
        except OSError as error:
            _warn(f"{path} cannot be read ({error.strerror}), so it is skipped")
            continue
        if content is not None:
            if blob_id(content) == file.blob_id:
                return content
            _warn(
                f"{path} is damaged or not the published file (its git blob id is {blob_id(content)}, "
                f"not {file.blob_id}), so it is not used"
            )
    return None


def _fetch(file: PublishedFile) -> bytes:
    """The verified content of a file from the internet. Raises ConnectionError with the last attempt's problem."""
    problem = ""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            content = _download(file)
        except urllib.error.HTTPError as error:
            problem = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:  # 429: busy; the others are final
                break
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a proxy's address is malformed
            reason = getattr(error, "reason", error)  # urllib wraps it
            problem = str(reason) or type(reason).__name__
        else:
            if blob_id(content) == file.blob_id:
                return content
            problem = f"the server sent another file, {len(content):,} bytes that begin with {content[:20]!r}"
    proxy = f"{file.address.partition(':')[0]}_proxy"
    is_set = f"; {proxy} is set" if os.environ.get(proxy) or os.environ.get(proxy.upper()) else ""
    raise ConnectionError(problem + is_set)


def _download(file: PublishedFile) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(file.address, timeout=TIMEOUT_SECONDS) as answer:
        size = answer.length  # bytes; None if the server does not send it
        bar_options = {"unit": "B", "unit_scale": True, "leave": False, "dynamic_ncols": True, "disable": None}
        bar_options["file"] = terminal.BARS
        with tqdm(total=size, desc=f"fetching {file.name}", **bar_options) as bar:
            while chunk := answer.read1(2**16):
                content += chunk
                bar.update(len(chunk))
    if size is not None and len(content) < size:
        raise ConnectionError(f"the connection broke off after {len(content):,} of {size:,} bytes")
    return bytes(content)


def _write(path: Path, content: bytes) -> None:
    """Writes a file, or warns that it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        _warn(f"{path} cannot be written ({error.strerror}), so the next run fetches it again")


def _by_hand(files: list[PublishedFile], root: str) -> str:
    """Instructions to fetch the files on another machine."""
    addresses = " and ".join(f"{file.address} (git blob id {file.blob_id})" for file in files)
    names = " ".join(file.name for file in files)
    return (
        f"on another machine fetch {addresses}; copy the files into {root} or {cache()}; "
        f"check the ids with git hash-object {names}"
    )


def _warn(text: str) -> None:
    terminal.say(f"warning: {text}", error=True)


# ---- lists ----


def read_lists(files: Sequence[PublishedFile], root: str) -> list[ImageList]:
    """The published lists, as paths below `root`. Raises DataError."""
    return [
        image_list(*parse_list(content, file.name), root, file.name)
        for file, content in zip(files, read_files(files, root), strict=True)
    ]


def read_splits(files: Mapping[str, PublishedFile], root: str, validation: bool) -> dict[str, ImageList]:
    """The lists of a data set by split: train, test, and with `validation` val. Raises DataError."""
    splits = ("train", "test", "val") if validation else ("train", "test")
    return dict(zip(splits, read_lists([files[split] for split in splits], root), strict=True))


def parse_list(content: bytes, name: str) -> tuple[list[str], np.ndarray]:
    """Relative paths, and labels int64 [n], of lines `relative/path label`. Raises a DataError with the line."""
    lines = os.fsdecode(content).removesuffix("\n").split("\n")
    rows = [line.rpartition(" ") for line in lines]
    for number, (path, _, label) in enumerate(rows, 1):
        if not (path and label.isdecimal() and len(label) < 10):
            message = (
                f"{name}, line {number}: expected 'relative/path label' with a whole number, "
                f"found '{lines[number - 1][:100]}'; restore the file"
            )
            raise DataError(message, kind="bad_line", path=name, line=number)
    return [path for path, _, _ in rows], np.array([int(label) for _, _, label in rows], np.int64)


def image_list(paths: list[str], labels: np.ndarray, root: str, source: str) -> ImageList:
    """The images of the list `source`, below `root`. Raises a DataError for a path outside it."""
    if not paths:
        raise DataError(f"{source} contains no images; restore the file", kind="empty_list", path=source)
    for path in paths:
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            message = (
                f"{source} contains the image '{path}', which is outside root {root}; only paths below root are read"
            )
            raise DataError(message, kind="outside_root", path=source, key="root")
    top = os.path.join(root, "")
    return ImageList.of_paths([top + path for path in paths], labels)
