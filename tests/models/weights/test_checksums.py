"""Published weights: verified on every load, from the hub's cache, from OpenAI's, from the repository; and offline."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import private_hub, refused, timm_model, web_server, weights_of
from safetensors.torch import save

from models.backbones import BACKBONES
from models.backbones.families.timm_vit import plain_vit
from models.weights import checksums, hub
from models.weights import find as finding
from models.weights.checksums import Record
from models.weights.find import find_weights
from models.weights.load import ASSETS, load_backbone
from utils.errors import ModelError

NAME, ADDRESS = "in21k_vit_b16", BACKBONES["in21k_vit_b16"].address
FILE = "/timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/resolve/main/model.safetensors"
COMMIT = "0123456789012345678901234567890123456789"


@pytest.fixture(scope="module")
def content():
    return save(weights_of(timm_model()))


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request):
    """Whether the hub's cache has links, as on most file systems."""
    return request.param


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """serve(content, etag) -> a context in which a hub has one file; yields the paths asked for. The cache is empty."""

    @contextlib.contextmanager
    def start(content, etag=None):
        etag = etag or hashlib.sha256(content).hexdigest()
        with web_server({FILE: content}, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}) as (address, asked):
            start.use(address)
            yield asked

    start.use = private_hub(monkeypatch, tmp_path)
    monkeypatch.setitem(BACKBONES, NAME, BACKBONES[NAME]._replace(config=plain_vit(128, 3, 16, 64)))
    return start


def remove_links(path):
    """Makes the hub's cache behave as on a file system without links."""
    content = path.read_bytes()
    path.resolve().unlink()
    path.unlink()
    path.write_bytes(content)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


def records(tmp_path):
    return list((tmp_path / "cache").rglob("*.json"))


# ---- the hub's cache ----


def test_flipped_bits_are_refused_and_the_remedy_helps(serve, content, tmp_path):
    """Deleting the file named in the message suffices; deleting only a link would lead to the damaged file again."""
    with serve(content):
        load_backbone(NAME)
    path = find_weights(ADDRESS).path
    assert path.is_symlink()
    blob = path.resolve()
    for position in random.Random(0).sample(range(len(content)), 20):
        flip(blob, position)
        with pytest.raises(ModelError) as caught:
            load_backbone(NAME)
        assert caught.value.kind == "wrong_checksum"
        assert f"delete {blob}, so that it is downloaded again" in str(caught.value)
        flip(blob, position)
    load_backbone(NAME)
    flip(blob, 7)
    blob.unlink()
    with serve(content) as asked:
        assert load_backbone(NAME)[1].sha256 == hashlib.sha256(content).hexdigest()
    assert FILE in asked
    assert not records(tmp_path)  # the published checksum is enough


def test_what_the_first_load_saw_counts_where_nothing_is_published(serve, content, links, tmp_path):
    with serve(content, "an etag that is not a checksum"):
        notes = load_backbone(NAME)[1].notes
        assert not any("verified" in note for note in notes)
    path = find_weights(ADDRESS).path
    if not links:
        remove_links(path)
    assert len(records(tmp_path)) == 1
    record = json.loads(records(tmp_path)[0].read_text())
    assert (record["address"], record["sha256"]) == (ADDRESS, hashlib.sha256(content).hexdigest())
    load_backbone(NAME)
    for position in random.Random(1).sample(range(len(content)), 10):
        flip(path.resolve(), position)
        with pytest.raises(ModelError) as caught:
            load_backbone(NAME)
        assert caught.value.kind == "wrong_checksum"
        assert str(records(tmp_path)[0]) in str(caught.value)
        flip(path.resolve(), position)

    # another file, on purpose
    path.resolve().write_bytes(save({k: v + 1 for k, v in weights_of(timm_model()).items()}))
    with pytest.raises(ModelError):
        load_backbone(NAME)
    records(tmp_path)[0].unlink()
    load_backbone(NAME)
    load_backbone(NAME)


def test_a_cache_without_links_is_verified_from_the_download_on(serve, content, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    with serve(content):
        load_backbone(NAME)
    path = find_weights(ADDRESS).path
    assert not path.is_symlink()
    load_backbone(NAME)
    assert len(records(tmp_path)) == 1
    flip(path, 1000)
    with pytest.raises(ModelError) as caught:
        load_backbone(NAME)
    assert caught.value.kind == "wrong_checksum"


WRONG = {
    "an HTML page": lambda content: b"<!DOCTYPE html><html>Please sign in</html>",
    "a part": lambda content: content[:-1000],
    "zeros": lambda content: bytes(len(content)),
    "other weights": lambda content: save({"w": torch.ones(3)}),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_answer_of_a_proxy_is_refused_and_not_recorded(key, known, serve, content, tmp_path):
    etag = hashlib.sha256(content).hexdigest() if known else "e1"
    with serve(WRONG[key](content), etag), pytest.raises(ModelError) as caught:
        load_backbone(NAME)
    assert (caught.value.kind == "wrong_checksum") == known
    assert not records(tmp_path)


def test_a_cached_file_needs_no_network(serve, content):
    with serve(content) as asked:
        first = find_weights(ADDRESS).path
        asked.clear()
        assert find_weights(ADDRESS).path == first
        assert not asked


@pytest.mark.parametrize("damage", ["refs", "snapshots", "blob", "link"])
def test_a_damaged_cache_of_the_hub_is_filled_again(damage, serve, content):
    with serve(content):
        path = find_weights(ADDRESS).path
        repository = path.parents[2]
        if damage == "refs":
            (repository / "refs" / "main").write_text("no commit")
        elif damage == "snapshots":
            shutil.rmtree(repository / "snapshots")
        elif damage == "blob":
            path.resolve().unlink()
        else:
            path.unlink()
        load_backbone(NAME)


# ---- records ----


def test_no_damage_of_a_record_lets_another_file_pass_silently(serve, content, tmp_path):
    """Every byte of the record, with the right file and with another one."""
    with serve(content, "e1"):
        load_backbone(NAME)
    path, file = find_weights(ADDRESS).path, records(tmp_path)[0]
    digest, record = hashlib.sha256(content).hexdigest(), Record(ADDRESS, path)
    assert record.file == file
    whole = file.read_bytes()
    other = hashlib.sha256(b"other").hexdigest()
    for position in range(len(whole)):
        flip(file, position)
        assert record.verify(path, digest) is None or "damaged" in record.verify(path, digest)
        with contextlib.suppress(ModelError):
            assert "was not verified" in record.verify(path, other)
        file.write_bytes(whole)


DAMAGED_RECORDS = {
    "empty": b"",
    "a part": b'{"address": "timm:',
    "not JSON": b"hello\n",
    "a list": b"[]",
    "no checksum": b"{}",
    "a number": b'{"sha256": 7, "check": 7}',
    "bytes": bytes(range(256)),
    "nested": b"[" * 4000,
    "large": b" " * 10**6,
}


@pytest.mark.parametrize("key", [*DAMAGED_RECORDS, "a folder", "a pipe", "a dangling link"])
def test_a_damaged_record_is_reported_and_written_again(key, serve, content, tmp_path):
    with serve(content, "e1"):
        load_backbone(NAME)
    file = records(tmp_path)[0]
    whole = file.read_bytes()
    file.unlink()
    if key == "a folder":
        file.mkdir()
    elif key == "a pipe":
        os.mkfifo(file)
    elif key == "a dangling link":
        file.symlink_to(tmp_path / "nothing")
    else:
        file.write_bytes(DAMAGED_RECORDS[key])
    notes = load_backbone(NAME)[1].notes
    if key == "a dangling link":  # as if there were none
        assert not any("damaged" in note for note in notes)
    else:
        assert any(f"{file} is damaged" in note for note in notes)
    if key in ("a folder", "a pipe"):
        assert any("is not a file" in note for note in notes)
        return
    assert file.read_bytes() == whole
    assert not any("damaged" in note for note in load_backbone(NAME)[1].notes)


def test_a_cache_that_cannot_be_written_is_reported_and_stops_nothing(serve, content, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with serve(content, "e1"):
        notes = load_backbone(NAME)[1].notes
    assert sum("cannot be written" in note and "cannot verify" in note for note in notes) == 1


def test_records_of_other_addresses_and_snapshots_are_others(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Record(ADDRESS, Path("snapshots/1/model.safetensors"))
    others = [
        Record("timm:other", Path("snapshots/1/model.safetensors")),
        Record(ADDRESS, Path("snapshots/2/model.safetensors")),
        Record(ADDRESS, Path("snapshots/1/other.safetensors")),
        Record(ADDRESS, Path("snapshots/1/\udcff.safetensors")),
    ]
    assert first.write("a" * 64) is None
    assert all(other.verify(Path("x"), "b" * 64) is None for other in others)
    with pytest.raises(ModelError):
        first.verify(Path("x"), "b" * 64)
    moved = Record(ADDRESS, Path("/elsewhere/snapshots/1/model.safetensors"))
    with pytest.raises(ModelError):
        moved.verify(Path("x"), "b" * 64)


def test_many_loads_at_once_leave_one_whole_record(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = Record(ADDRESS, Path("snapshots/1/model.safetensors"))
    notes = []
    threads = [threading.Thread(target=lambda: notes.append(record.write("a" * 64))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == [None] * 16
    assert record.verify(Path("x"), "a" * 64) is None
    assert [file.name for file in record.file.parent.iterdir()] == [record.file.name]


# ---- OpenAI's cache, and the repository's own files ----


def test_damaged_file_of_openai_is_named_where_nothing_replaces_it(serve, tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "ViT-B-16.pt").write_bytes(b"a part of the weights")
    with serve(b""):
        pass  # off from here on
    with pytest.raises(ModelError) as caught:
        load_backbone("clip_vit_b16")
    assert caught.value.kind == "download_failed"
    assert "ViT-B-16.pt is damaged or incomplete" in str(caught.value)


def test_repositorys_files_are_listed_with_their_checksums():
    files = [file for file in ASSETS.iterdir() if file.name != checksums.SUMS and not file.name.startswith(".")]
    assert files
    for file in files:
        assert checksums.listed(file) == hashlib.sha256(file.read_bytes()).hexdigest(), file.name


def test_damaged_file_of_the_repository_is_refused(tmp_path, monkeypatch):
    shutil.copytree(ASSETS, tmp_path / "assets")
    monkeypatch.setattr(finding, "ASSETS", tmp_path / "assets")
    load_backbone("clip_tiny")
    file = tmp_path / "assets" / "clip_tiny.safetensors"
    for position in random.Random(2).sample(range(file.stat().st_size), 10):
        flip(file, position)
        with pytest.raises(ModelError) as caught:
            load_backbone("clip_tiny")
        assert (caught.value.kind, caught.value.path) == ("wrong_checksum", str(file))
        flip(file, position)


def test_a_file_of_the_user_is_not_compared_with_anything(tmp_path, content, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "w.safetensors").write_bytes(content)
    digest = find_weights(str(tmp_path / "w.safetensors")).sha256
    flip(tmp_path / "w.safetensors", len(content) - 1)
    assert find_weights(str(tmp_path / "w.safetensors")).sha256 != digest
    assert not records(tmp_path)


# ---- offline ----


@contextlib.contextmanager
def listener(answer):
    """A server on 127.0.0.1 that calls answer(connection); yields (address, the times of the connections)."""
    times, connections = [], []
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            times.append(time.monotonic())
            connections.append(connection)
            answer(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", times
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for connection in connections:
            connection.close()


@pytest.fixture
def no_waiting(monkeypatch):
    """Fails the test if the hub's client waits between attempts."""

    def sleep(seconds):
        raise AssertionError(f"waits {seconds} seconds for another attempt")

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", sleep)


@pytest.mark.parametrize("name", ["in21k_vit_b16", "clip_vit_b16"])
def test_a_closed_port_is_tried_once(name, serve, no_waiting):
    with serve(b""):
        pass
    with refused(ModelError, kind="download_failed", key="weights"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["in21k_vit_b16", "clip_vit_b16"])
def test_a_connection_that_breaks_is_tried_once(name, serve, no_waiting):
    with listener(lambda connection: connection.close()) as (address, times):
        serve.use(address)
        with pytest.raises(ModelError) as caught:
            load_backbone(name)
    assert caught.value.kind == "download_failed"
    assert len(times) == 1


def test_a_hub_that_never_answers_is_given_up(serve, no_waiting, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    with listener(lambda connection: None) as (address, times):
        serve.use(address)
        with pytest.raises(ModelError) as caught:
            load_backbone(NAME)
    assert caught.value.kind == "download_failed"
    assert len(times) == 1


def test_a_name_that_is_never_found_is_given_up(serve, no_waiting, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(hub, "NAME_SECONDS", 0.2)
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(30))
    serve.use("http://hub.invalid")
    with pytest.raises(ModelError) as caught:
        load_backbone(NAME)
    end.set()
    assert caught.value.kind == "download_failed"


def test_a_slow_hub_is_waited_for(serve, content, monkeypatch):
    import http.server

    send = http.server.BaseHTTPRequestHandler.send_response
    monkeypatch.setattr(
        http.server.BaseHTTPRequestHandler, "send_response", lambda self, code: (time.sleep(0.2), send(self, code))
    )
    with serve(content):
        load_backbone(NAME)


def test_the_offline_switch_is_named(serve, content, no_waiting, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with serve(content) as asked, refused(ModelError, kind="download_failed", key="weights"):
        load_backbone(NAME)
    assert not asked


def test_a_repository_that_is_not_there_is_refused_at_once(serve, no_waiting):
    with serve(b"") as asked:
        asked.clear()
        with pytest.raises(ModelError) as caught:
            load_backbone("in1k_rn50")
    assert caught.value.kind == "download_failed"
    assert "\\n" not in str(caught.value)
