"""Files are written whole or not at all."""

import os
import socket
import threading

import pytest

from utils import files
from utils.files import PARTIAL, atomic_write, read_limited, sha256_of_code, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert [name for name in names(tmp_path) if name.endswith(PARTIAL)]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_an_error_changes_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_file_and_directory_are_on_the_disk_in_this_order(tmp_path, monkeypatch):
    """The content before its name, and both before the block has ended."""
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle):
        events.append("directory" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    write_text(tmp_path / "a", "ä\n")
    assert events == ["file", "replace", "directory"]
    assert (tmp_path / "a").read_bytes() == "ä\n".encode()


def test_writers_of_one_path_do_not_collide(tmp_path):
    path, contents = tmp_path / "a", [bytes([number]) * 100_000 for number in range(8)]
    barrier = threading.Barrier(len(contents))

    def write(content):
        with atomic_write(path) as file:
            file.write(content[:50_000])
            barrier.wait()
            file.write(content[50_000:])

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["a"]


def test_the_mode_of_a_file_is_that_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_device_is_written_to_directly(tmp_path):
    path = tmp_path / "link"
    path.symlink_to("/dev/null")
    write_text(path, "text")
    assert path.is_symlink()
    assert names(tmp_path) == ["link"]


def test_the_hash_of_code_follows_each_file(tmp_path):
    (tmp_path / "a.py").write_text("one")
    first = sha256_of_code(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/b.py").write_text("two")
    assert sha256_of_code(tmp_path) == first  # it is computed once
    sha256_of_code.cache_clear()
    assert sha256_of_code(tmp_path) != first


# ---- files of the user ----

SPECIAL = {
    "a pipe": lambda path: os.mkfifo(path),
    "a socket": lambda path: bind(path),
    "a link to a pipe": lambda path: (os.mkfifo(f"{path}.pipe"), os.symlink(f"{path}.pipe", path)),
    "a device": lambda path: os.symlink("/dev/zero", path),
    "a folder": lambda path: os.mkdir(path),
}


def bind(path):
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a short name, whatever the folder
    os.close(folder)


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read_and_none_is_waited_for(kind, tmp_path):
    SPECIAL[kind](tmp_path / "list")
    for shell_pipe in (False, True):
        with pytest.raises(OSError) as caught:
            read_limited(tmp_path / "list", 100, shell_pipe)
        assert caught.value.strerror.endswith("not a regular file")


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"x" * 100)
    assert read_limited(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="it has 0 MB, and at most 0 MB are read"):
        read_limited(path, 99)
    with open(path, "wb") as file:
        file.truncate(1 << 42)  # no bytes on the disk
    with pytest.raises(OSError, match="it has 4,194,304 MB, and at most 1 MB are read"):
        read_limited(path, 1 << 20)


def test_a_file_without_a_size_is_read_up_to_its_limit():
    """The system makes up what is below /proc when it is read."""
    assert read_limited("/proc/self/status", 1 << 20).startswith(b"Name:")
    with pytest.raises(OSError, match="more than 0 MB"):
        read_limited("/proc/self/status", 10)


def test_a_pipe_of_the_shell_is_read_slowly(monkeypatch):
    """<(...) is a pipe below /dev/fd; its other end may be slow, silent or endless."""
    reader, writer = os.pipe()
    threading.Timer(0.1, lambda: (os.write(writer, b"cat"), os.close(writer))).start()
    assert read_limited(f"/dev/fd/{reader}", 10, shell_pipe=True) == b"cat"
    with pytest.raises(OSError, match="not a regular file"):
        read_limited(f"/dev/fd/{reader}", 10)
    reader, writer = os.pipe()
    monkeypatch.setattr(files, "PIPE_SECONDS", 0.01)
    with pytest.raises(OSError, match=r"nothing came for 0.01 seconds"):
        read_limited(f"/dev/fd/{reader}", 10, shell_pipe=True)
    os.write(writer, b"x" * 11)
    with pytest.raises(OSError, match="more than 0 MB"):
        read_limited(f"/dev/fd/{reader}", 10, shell_pipe=True)
