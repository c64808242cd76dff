"""Hostile files, names and options: one sentence and exit status 2, little memory, no terminal controls.

A few are harmless, and complete. Nothing is written outside the run's folder, and no code of a file runs.
"""

import functools
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from faults.runs import DIGITS, PICTURES, RUN, TEST, WEIGHTS, assert_harmless, assert_refused
from packed import packed_zeros, write_packed_zeros
from PIL import Image

pytestmark = pytest.mark.slow

LIMIT = 30  # seconds
MEMORY = 300 << 20  # bytes beyond an ordinary run's
GUARD = 4 << 30  # bytes of address space: a process that takes more ends
NEW = "pictures/train/birch/hostile"
TRAIN = (*PICTURES, "num_epochs", "1", "num_workers", "0")
ZEROS, PACKED = bytes(1 << 20), 320  # what hostile files unpack to: so many times these bytes
ESCAPES = "\x1b[2J\u202egnp\x07"


# ---- pictures ----


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


@functools.cache
def much() -> bytes:
    """320 MB of zeros, packed for PNG."""
    checksum = zlib.adler32(b"")
    for _ in range(PACKED):
        checksum = zlib.adler32(ZEROS, checksum)
    return b"\x78\x01" + packed_zeros(PACKED) + struct.pack(">I", checksum)


def png_of_3_gigapixels(folder: Path):
    (folder / f"{NEW}.png").write_bytes(png(60000, 60000, png_chunk(b"IDAT", much())))
    return TRAIN


def png_whose_pixels_are_too_many(folder: Path):
    """Behind those of an image of 32 x 32."""
    data = png(32, 32, png_chunk(b"IDAT", much()), png_chunk(b"IEND", b""))
    (folder / f"{NEW}.png").write_bytes(data)
    return TRAIN, 0


def png_with_much_text(folder: Path):
    text = png_chunk(b"zTXt", b"Comment\0\0" + much())
    pixels = png_chunk(b"IDAT", zlib.compress((b"\0" + bytes(96)) * 32))
    (folder / f"{NEW}.png").write_bytes(png(32, 32, text, pixels, png_chunk(b"IEND", b"")))
    return TRAIN, 0


def gif_of_4_gigapixels(folder: Path):
    (folder / f"{NEW}.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(100))
    return TRAIN


def bmp_of_4_gigapixels(folder: Path):
    header = struct.pack("<IiiHHIIiiII", 40, 65535, 65535, 1, 24, 0, 0, 0, 0, 0, 0)
    (folder / f"{NEW}.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)
    return TRAIN


def jpeg_of_4_gigapixels(folder: Path):
    path = folder / f"{NEW}.jpg"
    Image.new("RGB", (32, 32)).save(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(data)
    return TRAIN


def tiff_of_4_gigapixels(folder: Path):
    entries = [(256, 4, 1, 65000), (257, 4, 1, 65000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 65000), (279, 4, 1, 2**32 - 1)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    (folder / f"{NEW}.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + table)
    return TRAIN


# ---- names ----


def picture_names_with_escape_sequences(folder: Path):
    """They are accepted; the logs of training and the report of a check contain them."""
    for split in ("train", "test"):
        for name in (f"{ESCAPES}.png", "two\nlines.png", "\u2028.png"):
            Image.new("RGB", (32, 32)).save(folder / f"pictures/{split}/birch/{name}")
    return TRAIN, 0


def damaged_picture_with_escape_sequences(folder: Path):
    (folder / f"pictures/train/birch/{ESCAPES}\n.png").write_bytes(b"damaged")
    return TRAIN


def class_name_with_escape_sequences(folder: Path):
    for split in ("train", "test"):
        (folder / f"pictures/{split}/birch").rename(folder / f"pictures/{split}/{ESCAPES}")
    return TRAIN


def listed_name_with_escape_sequences(folder: Path):
    return *TRAIN, "train_list", write_list(folder, f"{ESCAPES}.png,birch\n"), "test_list", write_list(folder)


def key_with_escape_sequences(folder: Path):
    return *TRAIN, f"lr{ESCAPES}", "1"


def value_with_escape_sequences(folder: Path):
    return *TRAIN, "loss_type", ESCAPES


def tensor_name_with_escape_sequences(folder: Path):
    from safetensors.torch import save_file

    save_file({ESCAPES: torch.zeros(1)}, folder / WEIGHTS)
    return TRAIN


def test_name_with_a_path(folder: Path):
    return (*DIGITS, *TEST, "test_name", f"../../../{ESCAPES}"), 0


test_name_with_a_path.__test__ = False


def output_outside(folder: Path):
    return *TRAIN, "output_dir", "../../outside"


# ---- lists and documents ----


def write_list(folder: Path, more: str = "", name: str = "list.csv") -> str:
    files = sorted((folder / "pictures/train").glob("*/*"))
    rows = "".join(f"{path.relative_to(folder / 'pictures')},{path.parent.name}\n" for path in files)
    (folder / name).write_text(rows + more)
    return name


def link_to_zeros(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def list_without_end(folder: Path):
    link_to_zeros(folder / "endless.csv")
    return *TRAIN, "train_list", "endless.csv", "test_list", write_list(folder)


def list_that_is_a_pipe(folder: Path):
    os.mkfifo(folder / "pipe.csv")
    return *TRAIN, "train_list", "pipe.csv", "test_list", write_list(folder)


def list_of_one_long_line(folder: Path):
    (folder / "long.csv").write_bytes(b"a" * (64 << 20))
    return *TRAIN, "train_list", "long.csv", "test_list", write_list(folder)


def nested(depth: int = 200_000) -> str:
    return "[" * depth + "]" * depth


def classnames_of_nested_json(folder: Path):
    (folder / "names.json").write_text(nested())
    return *TRAIN, "classnames", "names.json"


def classnames_of_repeated_yaml(folder: Path):
    """A billion laughs: ten levels of ten references."""
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]
    (folder / "names.yaml").write_text("\n".join([*lines, "names: *a9"]))
    return *TRAIN, "classnames", "names.yaml"


def classnames_without_end(folder: Path):
    link_to_zeros(folder / "names.txt")
    return *TRAIN, "classnames", "names.txt"


def prompt_file_of_nested_json(folder: Path):
    (folder / "prompts.json").write_text(nested())
    return *TRAIN, "prompt", "descriptor", "prompt_file", "prompts.json", "classifier_init", "semantic"


def report_of_nested_json(folder: Path):
    (folder / "output/check_folder_pictures").mkdir(parents=True)
    (folder / "output/check_folder_pictures/report.json").write_text(nested())
    (folder / "output/check_folder_pictures/bad_images.txt").write_text("")
    return *TRAIN, "bad_images", "skip"


def description_of_nested_json(folder: Path):
    (folder / "open_clip_config.json").write_text(nested())
    return tuple(word for word in TRAIN if word not in ("activation", "gelu", "heads", "1", "mean", "half"))


# ---- weights and files of a run ----


def write_archive(path: Path, *names: str) -> None:
    """A zip file of 3 MB at most, whose members have 320 MB of zeros each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            write_packed_zeros(archive, name, PACKED)


def archive_that_unpacks_to_much(folder: Path):
    """As torch.save writes it: a small pickle and one storage, packed."""
    torch.save({"a": torch.zeros(1 << 20)}, folder / "small.pt")
    with (
        zipfile.ZipFile(folder / "small.pt") as small,
        zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in small.namelist():
            content = small.read(name)
            if name.endswith("data/0"):
                write_packed_zeros(bomb, name, PACKED)
            else:
                bomb.writestr(name, content)
    return with_weights("bomb.pt")


def archive_of_torchscript(folder: Path):
    write_archive(folder / "bomb.pt", "bomb/constants.pkl", "bomb/data.pkl")
    return with_weights("bomb.pt")


def with_weights(name: str):
    return tuple(name if word == WEIGHTS else word for word in TRAIN)


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def pickle_that_runs_code(folder: Path):
    (folder / "code.pt").write_bytes(pickle.dumps({"a": Code()}))
    return with_weights("code.pt")


def safetensors_of_an_endless_header(folder: Path):
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}")
    return TRAIN


def safetensors_of_nested_json(folder: Path):
    header = nested().encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    return TRAIN


def weights_without_end(folder: Path):
    link_to_zeros(folder / WEIGHTS)
    return TRAIN


def upstream_checkpoint_that_unpacks_to_much(folder: Path):
    (folder / "output/other").mkdir(parents=True)
    archive_that_unpacks_to_much(folder)
    (folder / "bomb.pt").rename(folder / "output/other/checkpoint.pth.tar")
    return *DIGITS, *TEST, "model_dir", "output/other"


def logits_that_unpacks_to_much(folder: Path):
    write_archive(folder / RUN / "logits_test.npz", "fingerprint.npy", "labels.npy")
    return (*DIGITS, *TEST), 0


def in_the_run(name: str):
    def case(folder: Path):
        link_to_zeros(folder / RUN / name)
        if name in ("config.yaml", "results.json"):  # a test does not need them
            return (*DIGITS, *TEST), 0
        return (*DIGITS, *TEST) if name != "progress.safetensors" else DIGITS

    case.__name__ = f"{name.partition('.')[0]}_without_end"
    return case


def nested_results(folder: Path):
    (folder / RUN / "results.json").write_text(nested())
    return DIGITS, 0


PICTURED = [
    *(png_of_3_gigapixels, png_whose_pixels_are_too_many, png_with_much_text, gif_of_4_gigapixels),
    *(bmp_of_4_gigapixels, jpeg_of_4_gigapixels, tiff_of_4_gigapixels, picture_names_with_escape_sequences),
    *(damaged_picture_with_escape_sequences, class_name_with_escape_sequences, listed_name_with_escape_sequences),
    *(key_with_escape_sequences, value_with_escape_sequences, tensor_name_with_escape_sequences, output_outside),
    *(list_without_end, list_that_is_a_pipe, list_of_one_long_line, classnames_of_nested_json),
    *(classnames_of_repeated_yaml, classnames_without_end, prompt_file_of_nested_json, report_of_nested_json),
    *(description_of_nested_json, archive_that_unpacks_to_much, archive_of_torchscript, pickle_that_runs_code),
    *(safetensors_of_an_endless_header, safetensors_of_nested_json, weights_without_end),
]
RUNS = [
    *(upstream_checkpoint_that_unpacks_to_much, logits_that_unpacks_to_much, test_name_with_a_path, nested_results),
    *map(in_the_run, ("checkpoint.safetensors", "results.json", "progress.safetensors", "config.yaml")),
]


@pytest.fixture(scope="module")
def ordinary(place) -> int:
    """The memory of an ordinary run, bytes."""
    return place.server.run(TRAIN, place.fresh("pictures")).max_rss


@pytest.mark.parametrize(("case", "state"), [*((c, "pictures") for c in PICTURED), *((c, "finished") for c in RUNS)])
def test_a_hostile_file(case, state, place, ordinary):
    """Status 0 for commands that may complete, too."""
    folder = place.fresh(state)
    if state == "pictures":
        (folder / "pictures").unlink()
        shutil.copytree(place.pictures / "pictures", folder / "pictures")
    command = case(folder)
    arguments, harmless = command if isinstance(command[0], tuple) else (command, None)
    outside = set(folder.parent.iterdir())
    outcome = place.server.start(arguments, folder, memory=GUARD).wait(LIMIT)
    for path in (folder / "bomb.pt", folder / f"{NEW}.png"):
        path.unlink(missing_ok=True)
    assert_harmless(outcome.out)
    if outcome.status != harmless:
        assert outcome.status == 2, outcome
        assert_refused(outcome)
    else:
        assert outcome.err == ""
    assert outcome.max_rss < ordinary + MEMORY, f"{(outcome.max_rss - ordinary) >> 20:,} MB more than an ordinary run"
    assert not (folder / "ran").exists(), "code of the file has run"
    assert set(folder.parent.iterdir()) == outside, "files were written outside"
    for log in (folder / "output").glob("**/log*.txt"):
        assert_harmless(log.read_text(errors="surrogateescape"))


def test_a_check_of_names_with_escape_sequences(place):
    """The report, and the list that a later run reads line by line."""
    folder = place.fresh("pictures")
    (folder / "pictures").unlink()
    shutil.copytree(place.pictures / "pictures", folder / "pictures")
    picture_names_with_escape_sequences(folder)
    damaged_picture_with_escape_sequences(folder)
    outcome = place.check(folder)
    assert (outcome.status, outcome.err) == (1, ""), outcome
    assert_harmless(outcome.out)
    (check,) = (folder / "output").glob("check*")
    for name in ("report.txt", "bad_images.txt", "duplicates.txt"):
        text = (check / name).read_text(encoding="utf-8", errors="surrogateescape")
        assert_harmless(text.replace("\t", " "))
    assert len((check / "bad_images.txt").read_text().split("\n")) == 2
    assert json.loads((check / "report.json").read_text())["checked"]
    outcome = place.server.run((*TRAIN, "bad_images", "skip"), folder)
    assert outcome.status == 0, outcome
    assert_harmless(outcome.out)
