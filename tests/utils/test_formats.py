"""Files recognised by their contents: supported ones, and the true reason for all others."""

import gzip
import io
import json
import os
import socket
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from utils.archives import read_archive
from utils.formats import LEGACY, SAFETENSORS, ZIP, FormatError, recognise, require_file

STATE = {"w": torch.arange(6.0)}


def torch_file(**options):
    data = io.BytesIO()
    torch.save(STATE, data, **options)
    return data.getvalue()


def zip_of(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return data.getvalue()


def tar_of(name):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return data.getvalue()


def numpy_of(write):
    data = io.BytesIO()
    write(data, np.arange(3))
    return data.getvalue()


GOOD = {
    SAFETENSORS: save(STATE),
    ZIP: torch_file(),
    LEGACY: torch_file(_use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin", "ckpt", "onnx", "msgpack", "tar", "jpg", ""])
@pytest.mark.parametrize("kind", GOOD)
def test_the_content_decides_not_the_name(kind, suffix, tmp_path):
    (tmp_path / f"w.{suffix}").write_bytes(GOOD[kind])
    assert recognise(tmp_path / f"w.{suffix}") == kind


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
FOREIGN = {  # content: a word of the reason
    "lfs": (LFS, "git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "HTML"),
    "html, spaces first": (b"\n\n  <HTML>\n", "HTML"),
    "html, with a byte order mark": (b"\xef\xbb\xbf<!doctype HTML>", "HTML"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "json": (b'{"error": "Repository not found"}', "JSON"),
    "index": (json.dumps({"metadata": {}, "weight_map": {"w": "model-1-of-2.safetensors"}}).encode(), "JSON"),
    "text": (b"not weights\n", "text file"),
    "text, utf-8": ("Gewichte für später\n".encode(), "text file"),
    "gzip": (gzip.compress(torch_file()), "gzip"),
    "bzip2": (b"BZh91AY&SY" + bytes(range(50, 90)), "bzip2"),
    "xz": (b"\xfd7zXZ\0\0\4" + bytes(range(40)), "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(40)), "zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(range(40)), "7-Zip"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(range(40)), "RAR"),
    "tar": (tar_of("w.pt"), "tar archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(40)), "HDF5"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(range(40)), "GGUF"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(range(40)), "TensorFlow Lite"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x80\x01", "ONNX"),
    "flax": (b"\x81\xa6params\x83\xa3cls\xc7", "Flax"),
    "npy": (numpy_of(np.save), "NumPy array"),
    "npz": (numpy_of(np.savez), "NumPy archive"),
    "keras": (zip_of("metadata.json", "config.json", "model.weights.h5"), "Keras"),
    "zip": (zip_of("readme.txt"), "zip archive"),
    "zip of a weight file": (zip_of("a/b/data.pkl"), "zip archive"),
    "empty zip": (zip_of(), "is not a weight file"),
    "pickle": (b"\x80\x04\x95\x03\0\0\0\0\0\0\0]\x94.", "Python pickle"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "picture"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), "picture"),
    "zeros": (bytes(5000), "zero bytes"),
    "empty": (b"", "empty"),
    "noise": (bytes(range(130, 250)), "no known format"),
    "cut zip": (torch_file()[:-100], "cut short"),
    "cut zip, first bytes": (torch_file()[:50], "cut short"),
    "cut safetensors header": (save(STATE)[:20], "cut short"),
    "safetensors of a long header": (struct.pack("<Q", 10**9) + b'{"w":', "header"),
    "one byte": (b"\x80", "is"),
    "two bytes": (b"PK", "is"),
    "nine bytes": (b"\0" * 8 + b"{", "is"),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("key", FOREIGN)
def test_the_reason_is_the_true_one(key, suffix, tmp_path):
    content, word = FOREIGN[key]
    (tmp_path / f"w.{suffix}").write_bytes(content)
    with pytest.raises(FormatError, match=word) as caught:
        read_archive(tmp_path / f"w.{suffix}")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 250


@pytest.mark.parametrize("suffix, word", [("onnx", "ONNX"), ("msgpack", "MessagePack")])
def test_the_name_helps_where_the_content_does_not(suffix, word, tmp_path):
    (tmp_path / f"w.{suffix}").write_bytes(bytes(range(150, 250)))
    with pytest.raises(FormatError, match=word):
        recognise(tmp_path / f"w.{suffix}")


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path, monkeypatch):
    """None of them is opened: a pipe without a writer would block."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        listener.bind("socket")
    kinds = {"pipe": "a pipe", "link": "a pipe", "socket": "a socket", ".": "a folder", "loop": "symbolic links"}
    kinds |= {"dangling": "No such file", "x" * 5000: "File name too long", "a\0b": "null", "a/b": "No such file"}
    for name, word in kinds.items():
        with pytest.raises(FormatError, match=word):
            require_file(tmp_path / name)
    for device, word in (("/dev/zero", "device"), ("/dev/null", "device")):
        with pytest.raises(FormatError, match=word):
            require_file(type(tmp_path)(device))
