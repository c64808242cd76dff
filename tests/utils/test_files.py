"""Files are written atomically, and files of the user read within bounds."""

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from utils import files
from utils.files import (
    PARTIAL,
    WriteError,
    atomic_folder,
    atomic_write,
    open_to_append,
    read_limited,
    sha256_of_code,
    write_text,
)


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


def test_a_folder_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    (path.parent / f".folder.0{PARTIAL}").mkdir(parents=True)  # of a process that was killed
    for content in ("one", "two"):
        with atomic_folder(path) as partial:
            (partial / content).touch()
            assert [other.name for other in path.parent.iterdir() if other.name == "folder"] == (
                ["folder"] if content == "two" else []
            )
        assert names(path) == [content]
        assert names(path.parent) == ["folder"]


def test_an_error_leaves_the_earlier_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder") as partial:
        (partial / "new").touch()
        raise KeyError
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_earlier_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(WriteError), atomic_folder(tmp_path / "folder") as partial:
        partial.rmdir()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="folder cannot be written"), atomic_folder(tmp_path / "file" / "folder"):
        pass


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
    """The system creates the content of /proc when it is read."""
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


# ---- errors of the operating system ----

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "ENAMETOOLONG", "EMFILE", "ENOENT", "ESTALE")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_the_file_and_changes_nothing(name, call, tmp_path, monkeypatch):
    path, number = tmp_path / "a", getattr(errno, name)
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    if call in ("fsync", "replace"):
        monkeypatch.setattr(os, call, fail)
    elif call == "open":
        monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(WriteError) as caught, atomic_write(path) as file:
        fail() if call == "write" else file.write(b"new")
    monkeypatch.undo()
    error = caught.value
    assert (error.errno, error.filename) == (number, str(path))
    assert str(error).startswith(f"{path} cannot be written ({os.strerror(number)}); ")
    assert "another place" not in str(error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_real_errors_name_the_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "none/a", tmp_path / "file/a", tmp_path / "folder", tmp_path / ("n" * 256)):
        with pytest.raises(WriteError, match="cannot be written") as caught:
            write_text(path, "text")
        assert caught.value.filename == str(path)
    assert names(tmp_path) == ["file", "folder"]


def test_the_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "a") as file:
        file.write((tmp_path / "b").read_bytes())
    assert caught.value.filename == str(tmp_path / "b")


@pytest.mark.parametrize("name", ["n" * 255, "日" * 85])
def test_the_longest_names_can_be_written(name, tmp_path):
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]


# ---- links, pipes and devices ----


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    target, path = tmp_path / "target", tmp_path / "a"
    target.write_text("mine")
    path.symlink_to(target)
    write_text(path, "new")
    assert (path.read_text(), path.is_symlink(), target.read_text()) == ("new", False, "mine")


def test_a_partial_file_is_never_an_existing_name(tmp_path, monkeypatch):
    """Not even if somebody guesses the name, and creates a link there."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / f"a.00000000{PARTIAL}").symlink_to(target)
    monkeypatch.setattr("secrets.token_hex", lambda _: "00000000")
    with pytest.raises(WriteError, match="File exists"):
        write_text(tmp_path / "a", "new")
    assert target.read_text() == "mine"


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (lambda path: write_text(path, "text"), open_to_append):
        with pytest.raises(WriteError):
            write(tmp_path / "pipe")


def test_a_pipe_with_a_reader_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)


def test_the_name_of_an_open_file_is_written_to(tmp_path):
    """As /dev/stdout, a link which must not be replaced."""
    with open(tmp_path / "a", "w+b") as file:
        write_text(Path(f"/dev/fd/{file.fileno()}"), "text")
        assert (tmp_path / "a").read_text() == "text"
    assert names(tmp_path) == ["a"]
