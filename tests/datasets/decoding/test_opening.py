"""Any kind of file under an image's name: only a regular file is read, without waiting."""

import fcntl
import os
import signal
import socket
import threading
import time

import helpers
import numpy as np
import pytest
import torch
from cases import covering
from helpers import refused, time_limit
from PIL import Image

from datasets.base import DataSet
from datasets.check import check
from datasets.contents import file_hashes
from datasets.decoding.decode import ImageError, decode
from datasets.decoding.opening import MAX_FILE_BYTES
from datasets.images import ImageList
from datasets.loading.crops import TrainCrop
from datasets.loading.loader import Loader
from datasets.loading.sampler import sequential_batches


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.png"
    Image.fromarray(helpers.photograph()[:40, :40]).save(path)
    return path


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # a path of a socket has 107 characters at most


def link_to(target):
    return lambda path: path.symlink_to(target)


def sparse(path):
    """A JPEG that claims to continue."""
    path.write_bytes(b"\xff\xd8\xff\xe0")
    os.truncate(path, MAX_FILE_BYTES + 1)


MAKE = {
    "pipe": os.mkfifo,
    "socket": unix_socket,
    "link to a pipe": lambda path: (os.mkfifo(f"{path}.pipe"), path.symlink_to(f"{path}.pipe")),
    "link to a device without end": link_to("/dev/zero"),
    "link to a device that is empty": link_to("/dev/null"),
    "link to a terminal": link_to("/dev/tty"),
    "link to random numbers": link_to("/dev/urandom"),
    "link to a file without a size": link_to("/proc/self/maps"),
    "link to a process's memory": link_to("/proc/self/mem"),
    "link to the machine's memory": link_to("/proc/kcore"),
    "link to an open pipe": link_to("/proc/self/fd/1000"),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
    "too large": sparse,
}
KINDS = {
    "folder": "folder_as_image",
    "link to itself": "unreadable_image",
    "too large": "file_too_large",
    "link to a file without a size": "undecodable_image",  # the file is empty: reading it may have no end
    "link to a process's memory": "undecodable_image",
}


@pytest.fixture
def bad(request, tmp_path, monkeypatch):
    """A path with the file of the parameter, and the kind of the error."""
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    os.dup2(reader, 1000)
    path = tmp_path / "bad.jpg"
    MAKE[request.param](path)
    kind = KINDS.get(request.param, "not_a_file")
    if request.param == "link to the machine's memory":
        kind = "file_too_large" if os.path.exists("/proc/kcore") else "missing_image"
    yield path, kind
    for number in (reader, writer, 1000):
        os.close(number)


@pytest.mark.parametrize("bad", MAKE, indirect=True)
def test_refused_by_its_kind(bad):
    path, kind = bad
    with time_limit(30), pytest.raises(ImageError) as caught:
        decode(str(path))
    assert (caught.value.kind, caught.value.path) == (kind, str(path))
    if not os.path.realpath(path).startswith("/proc"):
        helpers.said(str(caught.value))


@pytest.mark.parametrize("bad, workers", covering([*MAKE], [0, 2], together=1), indirect=["bad"])
def test_refused_by_the_loader(bad, workers, good):
    path, kind = bad
    images = ImageList.of_paths([*[str(good)] * 5, str(path)], np.zeros(6, int))
    loader = Loader(images, TrainCrop(8, 0, 1), sequential_batches(np.arange(6), 2), torch.device("cpu"), workers)
    with time_limit(30), pytest.raises(ImageError) as caught:
        list(loader)
    assert (caught.value.kind, caught.value.path) == (kind, str(path))


@pytest.mark.parametrize("bad, processes", covering([*MAKE], [2, 0], together=1), indirect=["bad"])
def test_found_by_the_check(bad, processes, good):
    path, kind = bad
    train = ImageList.of_paths([str(good)] * 5, np.zeros(5, int))
    data = DataSet("own", ["a"], train, ImageList.of_paths([str(path)], np.zeros(1, int)))
    with time_limit(30):
        found = check.check_images(data, processes)
        assert list(found.bad) == [5]
        missing = kind == "missing_image" or kind == KINDS["link to itself"]
        assert found.bad[5].kind == ("missing" if missing else "unreadable")
        data.fingerprints()


@pytest.mark.parametrize("bad", MAKE, indirect=True)
def test_its_content_is_not_read(bad):
    path, kind = bad
    images = ImageList.of_paths([str(path)], np.zeros(1, int)).images
    with time_limit(30):
        file_hashes([str(path)])
        if kind == "undecodable_image":
            assert images.content(0) == b""
        else:
            with pytest.raises(OSError):
                images.content(0)


def test_a_pipe_is_never_opened(tmp_path):
    """A writer that waits for a reader keeps waiting."""
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: os.close(os.open(path, os.O_WRONLY)))
    writer.start()
    try:
        with time_limit(30), refused(ImageError, kind="not_a_file", path=path):
            decode(str(path))
        time.sleep(0.1)
        assert writer.is_alive()
    finally:
        os.close(os.open(path, os.O_RDONLY))
        writer.join()


def test_a_pipe_that_takes_the_files_place(good, monkeypatch):
    """Between its check and its opening."""
    look = os.stat

    def replace(path, *rest, **options):
        status = look(path, *rest, **options)
        if str(path) == str(good):
            os.unlink(good)
            os.mkfifo(good)
        return status

    monkeypatch.setattr(os, "stat", replace)
    with time_limit(30), refused(ImageError, kind="not_a_file", path=good):
        decode(str(good))


def test_a_file_that_another_program_leases(good):
    """As a file server's clients do: the lease is released first, and then the file is read."""
    expected = decode(str(good))
    ready, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:  # holds a lease, and releases it on request
        file = os.open(good, os.O_RDWR)
        signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK))
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            os.write(pipe, b"0")
            os._exit(0)
        os.write(pipe, b"1")
        time.sleep(60)
        os._exit(0)
    leased = os.read(ready, 1)
    try:
        with time_limit(30):
            assert torch.equal(decode(str(good)), expected)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert leased == b"1"


def test_a_file_that_grows_is_read_to_its_length_at_the_start(good, monkeypatch):
    """A writer that is as fast as the reader would block it forever."""
    images = ImageList.of_paths([str(good)], np.zeros(1, int)).images
    size, expected = os.path.getsize(good), good.read_bytes()
    status = os.fstat

    def grow(number):
        found = status(number)
        with open(good, "ab") as file:
            file.write(b"more" * 1000)
        return found

    monkeypatch.setattr(os, "fstat", grow)
    assert images.content(0)[:size] == expected
    assert len(images.content(0)) < os.path.getsize(good)
