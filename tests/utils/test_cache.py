"""The cache of tensors by key: stored tensors are returned bit for bit, whatever happens to the files."""

import os
from pathlib import Path

import pytest
import torch

from utils import cache as module
from utils.cache import TensorCache, cache_folder

KEY = {"images": "abc", "crops": [1, 2]}
SHAPE = (2, 5, 3)
TENSOR = torch.arange(30.0).view(SHAPE).sin()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/lift_plus/tensors"


@pytest.fixture
def lines():
    return []


@pytest.fixture
def cache(lines):
    return TensorCache("tensors", True, lines.append)


def files(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def split(sizes=(2, 3)):
    return iter(TENSOR.split(list(sizes), dim=1))


# ---- the folder ----


def test_the_folder_is_in_the_users_cache(folder, monkeypatch):
    assert cache_folder("tensors") == folder
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setenv("HOME", "/home/me")
        assert cache_folder("lists") == Path("/home/me/.cache/lift_plus/lists")


# ---- fetch, store and stream ----


def test_a_stored_tensor_comes_back(cache, folder, lines):
    assert cache.fetch(KEY, SHAPE) is None
    cache.store(KEY, TENSOR)
    assert torch.equal(cache.fetch(KEY, SHAPE), TENSOR)
    assert files(folder) == [cache.path(KEY)]
    assert not lines


def test_a_key_is_its_content(cache):
    cache.store(KEY, TENSOR)
    assert cache.fetch(dict(reversed(KEY.items())), SHAPE) is not None
    for other in ({"images": "abd"}, {"crops": [1, 3]}, {"more": None}):
        assert cache.fetch(KEY | other, SHAPE) is None


def test_a_stream_is_passed_on_and_stored(cache):
    parts = list(cache.stream(KEY, SHAPE, split(), dim=1))
    assert all(torch.equal(part, expected) for part, expected in zip(parts, split(), strict=True))
    assert torch.equal(cache.fetch(KEY, SHAPE), TENSOR)


def test_a_stream_that_stops_early_is_not_stored(cache, folder):
    stream = cache.stream(KEY, SHAPE, split(), dim=1)
    next(stream)
    stream.close()
    list(cache.stream(KEY, SHAPE, iter([TENSOR[:, :2]]), dim=1))
    list(cache.stream(KEY, SHAPE, iter([]), dim=1))
    assert not files(folder)


def test_a_cache_that_is_off_does_nothing(cache, folder, lines):
    off = TensorCache("tensors", False, lines.append)
    off.store(KEY, TENSOR)
    assert len(list(off.stream(KEY, SHAPE, split(), dim=1))) == 2
    assert not files(folder)
    cache.store(KEY, TENSOR)
    assert off.fetch(KEY, SHAPE) is None


def test_a_large_tensor_is_not_stored(cache, folder, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_BYTES", TENSOR.nbytes - 1)
    cache.store(KEY, TENSOR)
    assert not files(folder)
    monkeypatch.setattr(module, "LARGEST_BYTES", TENSOR.nbytes)
    cache.store(KEY, TENSOR)
    assert files(folder)


# ---- files that are damaged, cannot be written, or are too many ----


@pytest.mark.parametrize("damage", ["empty", "shorter", "a bit", "another file", "another shape"])
def test_a_damaged_file_counts_as_missing_with_one_warning(damage, cache, lines):
    cache.store(KEY, TENSOR)
    path = cache.path(KEY)
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-3] ^= 1
    elif damage == "another shape":
        cache.store({}, TENSOR.flatten())
        content = cache.path({}).read_bytes()
    path.write_bytes({"empty": b"", "shorter": content[:-1], "another file": b"hello"}.get(damage, content))
    assert cache.fetch(KEY, SHAPE) is None
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: {path} is damaged")
    cache.store(KEY, TENSOR)
    assert torch.equal(cache.fetch(KEY, SHAPE), TENSOR)


def test_a_folder_that_cannot_be_written_costs_a_warning(cache, tmp_path, lines):
    (tmp_path / "cache").write_text("a file in its place")
    for number in (1, 2):
        assert len(list(cache.stream(KEY, SHAPE, split(), dim=1))) == 2
        assert len(lines) == number
        assert lines[-1].startswith(f"warning: {cache.path(KEY)} cannot be written")


def test_a_write_that_fails_leaves_nothing(cache, folder, lines, monkeypatch):
    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    cache.store(KEY, TENSOR)
    assert "No space left" in lines[0]
    assert not files(folder)


def test_the_least_recently_used_files_are_removed(cache, folder, monkeypatch):
    def use(name):
        """Fetches a tensor, else stores it; True if it was there. Later uses have later times of change."""
        hit = cache.fetch({"name": name}, SHAPE) is not None
        if not hit:
            cache.store({"name": name}, TENSOR)
        for age, file in enumerate(sorted(files(folder), key=lambda file: -file.stat().st_mtime_ns)):
            os.utime(file, ns=(0, 10**9 * (100 - age)))
        return hit

    use("first")
    monkeypatch.setattr(module, "FOLDER_BYTES", 3 * files(folder)[0].stat().st_size)
    assert not use("second")
    assert not use("third")
    assert use("first")
    assert not use("fourth")
    assert len(files(folder)) == 3
    assert [use(name) for name in ("first", "third", "fourth", "second")] == [True, True, True, False]
