"""A cache of image files for slow disks: their bytes, one file after another, in few large files read by offset.

Its folder has pairs of files: NAME.pack, the bytes, and NAME.index, a RECORD for each image in the pack. A process
appends to its own pairs, the bytes before their records, so that a killed one leaves a valid cache behind. An image is
found by its path, size, and times of modification and of change, and its bytes are verified by a CRC-32 over these and
its content: damaged or foreign files in the folder never return other bytes. It may be deleted at any time.
"""

import collections
import contextlib
import io
import mmap
import os
import secrets
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np

from datasets.contents import in_threads
from datasets.decoding.opening import regular_only
from utils.errors import DataError
from utils.run.lock import lock

FIELDS = [("key", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")]
RECORD = np.dtype(FIELDS)
ENTRY = np.dtype([*FIELDS, ("pack", "<i4")])  # a record, and the number of its pack, or -1 for an image without one
PACK_BYTES = 2 * 2**30  # after which a process begins a new pair
LARGEST = 64 * 2**20  # bytes of a file that is cached: larger ones gain nothing
CHUNK_FILES, CHUNK_BYTES = 64, 16 * 2**20  # read by a thread, then written, at a time
THREADS = 16  # that read files at once: most of the time is spent waiting for the disk
LOG_SECONDS = 60.0  # between two lines about the progress
POLL_SECONDS = 0.5  # between two attempts to acquire the lock

State = tuple[int, int, int]  # size in bytes, times of modification and of change in ns; -1 if there is no file
Log = Callable[[str], None]


def open_cache(folder: str) -> Path:
    """The folder of a cache, created if it is missing. Raises a DataError if that fails."""
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the image cache {folder} cannot be created ({error.strerror})"
        message = f"{problem}; choose another folder, or leave image_cache out"
        raise DataError(message, kind="unusable_image_cache", path=path, key="image_cache") from error
    return path


class CachedFiles:
    """The files of a list, by index, as of its creation: their bytes, if the cache has them."""

    def __init__(self, folder: Path, paths: Sequence[str]):
        self.folder = folder
        self.states = np.array(in_threads(_state_at, paths), np.int64).reshape(-1, 3)
        identities = map(_identity, paths, self.states.tolist())
        self.keys = np.fromiter((_key(identity) for identity in identities), np.uint64, len(paths))
        self.packs: list[Path] = []
        self.descriptors: dict[int, int] = {}  # of the packs that are open, by their numbers
        # of the images whose entries are damaged; shared with workers, which find them
        self.damaged = np.frombuffer(mmap.mmap(-1, max(len(paths), 1)), np.bool_, len(paths))
        weakref.finalize(self, _close, self.descriptors)
        self._look_up()

    def read(self, index: int, path: str) -> bytes | None:
        """The bytes of the file at `path`; None if the cache has none, or damaged ones."""
        entry = self.entries[index]
        if entry["pack"] < 0:
            return None
        try:
            content = os.pread(self._descriptor(int(entry["pack"])), int(entry["length"]), int(entry["offset"]))
        except (OSError, OverflowError):  # the cache was deleted, or its disk fails
            content = b""
        if len(content) == entry["length"] and self._crc(content, index, path) == entry["crc"]:
            return content
        self.damaged[index] = True
        return None

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Has the system read the bytes of these files from the disk, without waiting for them."""
        for entry in self.entries[list(indices)] if hasattr(os, "posix_fadvise") else ():
            if entry["pack"] >= 0:
                with contextlib.suppress(OSError, OverflowError):  # `read` handles it
                    descriptor = self._descriptor(int(entry["pack"]))
                    os.posix_fadvise(descriptor, int(entry["offset"]), int(entry["length"]), os.POSIX_FADV_WILLNEED)

    def fill(self, paths: Sequence[str], log: Log) -> None:
        """Adds the missing files, one process at a time; logs its progress, or the reason of a failure."""
        try:
            if len(self._missing()):
                with self._lock(log):
                    self._look_up()  # another process may have added them
                    self._add(self._missing(), paths, log)
                self._look_up()
        except (OSError, RuntimeError) as error:  # a full disk; no thread can be started
            reason = getattr(error, "strerror", None) or error
            log(
                f"warning: the image cache {self.folder} cannot be filled ({reason}); "
                "the other images are read from their own files"
            )
            self._look_up()
        cached = int((self.entries["pack"] >= 0).sum())
        log(f"images    {cached:,} of {len(self.entries):,} are read from the image cache {self.folder}")

    def replace_damaged(self, paths: Sequence[str], log: Log) -> None:
        """Logs how many entries `read` found to be damaged, and adds these images again."""
        if self.damaged.any():
            log(
                f"warning: {self.damaged.sum():,} of {len(self.keys):,} entries in the image cache {self.folder} are "
                "damaged; these images were read from their own files"
            )
            self.entries["pack"][self.damaged] = -1
            with contextlib.suppress(OSError, RuntimeError), self._lock(log):
                self._add(self._missing(), paths, log)
            self.damaged[:] = False
            self._look_up()

    def _look_up(self) -> None:
        """Finds the images in the folder's index files; the last record of an image counts."""
        # the packs of earlier look-ups retain their numbers, as these files are open
        new = sorted(path.with_suffix(".pack") for path in self.folder.glob("*.index"))
        self.packs += [pack for pack in new if pack not in set(self.packs)]
        records = [_read_index(number, pack) for number, pack in enumerate(self.packs)]
        found = np.concatenate([np.empty(0, ENTRY), *records])
        found = found[np.argsort(found["key"], kind="stable")]
        self.entries = np.zeros(len(self.keys), ENTRY)
        self.entries["pack"] = -1
        positions = np.searchsorted(found["key"], self.keys, side="right") - 1
        rows = np.flatnonzero(positions >= 0)
        candidates = found[positions[rows]]
        fits = (candidates["key"] == self.keys[rows]) & (candidates["length"] == self.states[rows, 0])
        self.entries[rows[fits]] = candidates[fits]

    def _missing(self) -> np.ndarray:
        """The indices of the files that can be cached and are not."""
        sizes = self.states[:, 0]
        return np.flatnonzero((self.entries["pack"] < 0) & (sizes > 0) & (sizes <= LARGEST))

    def _add(self, indices: np.ndarray, paths: Sequence[str], log: Log) -> None:
        """Reads files and appends them to new packs. Raises OSError, as for a full disk, or RuntimeError."""
        begin = last = time.monotonic()
        done = 0
        with contextlib.closing(_Packs(self.folder)) as packs, ThreadPoolExecutor(THREADS) as pool:
            chunks = _chunks(indices, self.states[:, 0])
            for chunk, contents in _read_ahead(pool, lambda chunk: self._read_originals(chunk, paths), chunks):
                read = [(index, content) for index, content in zip(chunk, contents, strict=True) if content is not None]
                records = [
                    (self.keys[index], 0, len(content), self._crc(content, index, paths[index]))
                    for index, content in read
                ]
                packs.append([content for _, content in read], np.array(records, RECORD))
                done += len(chunk)
                if time.monotonic() - last >= LOG_SECONDS:
                    last = time.monotonic()
                    log(f"images    {done:,} of {len(indices):,} copied to the image cache {self.folder}")
        log(f"images    {packs.count:,} copied to the image cache {self.folder} in {time.monotonic() - begin:.0f} s")

    def _read_originals(self, chunk: list[int], paths: Sequence[str]) -> list[bytes | None]:
        return [_read_original(paths[index], tuple(self.states[index].tolist())) for index in chunk]

    def _crc(self, content: bytes, index: int, path: str) -> int:
        return zlib.crc32(content, zlib.crc32(_identity(path, self.states[index].tolist())))

    def _descriptor(self, number: int) -> int:
        if number not in self.descriptors:
            self.descriptors[number] = os.open(self.packs[number], os.O_RDONLY | os.O_CLOEXEC)
        return self.descriptors[number]

    @contextlib.contextmanager
    def _lock(self, log: Log) -> Iterator[None]:
        """Locks the cache during the block, so that no other process adds the same images. Raises OSError."""
        with open(self.folder / "lock", "a") as file:
            if not lock(file):
                log(f"images    waiting for another process that fills the image cache {self.folder}")
                while not lock(file):
                    time.sleep(POLL_SECONDS)
            yield


class _Packs:
    """New pairs of files in `folder`, created when the first bytes are appended."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.files: tuple[io.FileIO, io.FileIO] | None = None

    def append(self, contents: list[bytes], records: np.ndarray) -> None:
        """Appends contents, and their records, [n] RECORD, with the offsets set. Raises OSError."""
        if not contents:
            return
        pack, index = self.files = self.files or self._new_pair()
        size = pack.tell()
        records["offset"] = size + np.cumsum([0, *map(len, contents[:-1])])
        try:
            _write(pack, b"".join(contents))
        except OSError:
            with contextlib.suppress(OSError):
                pack.truncate(size)
            raise
        _write(index, records.tobytes())
        self.count += len(contents)
        if pack.tell() >= PACK_BYTES:
            self.close()

    def _new_pair(self) -> tuple[io.FileIO, io.FileIO]:
        name = f"{time.time_ns():016x}{secrets.token_hex(4)}"  # so that a later one is sorted after it
        return io.FileIO(self.folder / f"{name}.pack", "x"), io.FileIO(self.folder / f"{name}.index", "x")

    def close(self) -> None:
        for file in self.files or ():
            file.close()
        self.files = None


def _write(file: io.FileIO, data: bytes) -> None:
    """Writes all of `data`; raises OSError if the disk accepts only some of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _read_index(number: int, pack: Path) -> np.ndarray:
    """The entries of a pack, from its index file: none if it cannot be read, and without a truncated last record."""
    try:
        data = pack.with_suffix(".index").read_bytes()
    except OSError:
        data = b""
    records = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
    entries = np.empty(len(records), ENTRY)
    for name in RECORD.names or ():
        entries[name] = records[name]
    entries["pack"] = number
    return entries


def _chunks(indices: np.ndarray, sizes: np.ndarray) -> Iterator[list[int]]:
    """The indices in groups of CHUNK_FILES at most, and of CHUNK_BYTES together unless one file has more."""
    chunk, total = list[int](), 0
    for index in indices.tolist():
        if chunk and (len(chunk) == CHUNK_FILES or total + sizes[index] > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(index)
        total += int(sizes[index])
    if chunk:
        yield chunk


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[list[int]], list[bytes | None]], chunks: Iterator[list[int]]
) -> Iterator[tuple[list[int], list[bytes | None]]]:
    """Each chunk and what `read` returns for it, in order; THREADS of them are read in advance."""
    ahead = collections.deque(())  # type: ignore[var-annotated]
    for chunk in chunks:
        ahead.append((chunk, pool.submit(read, chunk)))
        if len(ahead) > THREADS:
            first, future = ahead.popleft()
            yield first, future.result()
    for first, future in ahead:
        yield first, future.result()


def _read_original(path: str, state: State) -> bytes | None:
    """The content of a file; None if it cannot be read, which is reported when it is decoded, or if it has changed."""
    try:
        with open(path, "rb", opener=regular_only) as file:
            content = file.read(state[0])
            now = _state(os.fstat(file.fileno()))
    except OSError:
        return None
    return content if now == state and len(content) == state[0] else None


def _state_at(path: str) -> State:
    try:
        return _state(os.stat(path))
    except OSError:
        return -1, -1, -1


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _identity(path: str, state: Sequence[int]) -> bytes:
    size, modified, changed = state
    return b"%s\0%d %d %d" % (os.fsencode(os.path.abspath(path)), size, modified, changed)


def _key(identity: bytes) -> int:
    return int.from_bytes(sha256(identity).digest()[:8], "little")
