"""Formats of files with tensors, recognised by their contents, not their names."""

import os
import stat
from pathlib import Path

from utils.files import kind_of_file

SAFETENSORS, ZIP, LEGACY = "safetensors", "zip", "legacy"
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch's number, as a pickle has it
HEADER_BYTES = 16 * 2**20  # of a safetensors file; that of 100,000 tensors has 12 MB
HEAD_BYTES = 512
CONVERT = "; convert it to safetensors, or to a state dict of torch.save"
UNPACK = "; unpack it, and pass the weight file in it"
# (offset, bytes there, the clause about such a file)
SIGNATURES = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the weights; run git lfs pull in its repository"),
    (0, b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras, TensorFlow)" + CONVERT),
    (0, b"GGUF", "is a GGUF file (llama.cpp)" + CONVERT),
    (0, b"lmgg", "is a GGML file (llama.cpp)" + CONVERT),
    (4, b"TFL3", "is a TensorFlow Lite file" + CONVERT),
    (0, b"\x93NUMPY", "is a NumPy array" + CONVERT),
    (0, b"\x1f\x8b", "is compressed by gzip" + UNPACK),
    (0, b"BZh", "is compressed by bzip2" + UNPACK),
    (0, b"\xfd7zXZ\0", "is compressed by xz" + UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd" + UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive" + UNPACK),
    (0, b"Rar!", "is a RAR archive" + UNPACK),
    (257, b"ustar", "is a tar archive" + UNPACK),
    (0, b"%PDF", "is a PDF; pass the path of a weight file"),
    (0, b"\x89PNG", "is a picture; pass the path of a weight file"),
    (0, b"\xff\xd8\xff", "is a picture; pass the path of a weight file"),
)


class FormatError(ValueError):
    """A file that cannot be read. The message is a clause whose subject is the file: its kind, and the remedy."""


def require_file(path: Path) -> int:
    """The size of a regular file in bytes, above 0. Raises FormatError; nothing is opened, so nothing can block."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError(f"cannot be read ({reason}); pass the path of a weight file") from error
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(f"is {kind_of_file(found.st_mode)}, not a file; pass the path of a weight file")
    if found.st_size == 0:
        raise FormatError("is empty; copy or download it again")
    return found.st_size


def recognise(path: Path) -> str:
    """SAFETENSORS, ZIP (torch.save, TorchScript) or LEGACY (torch.save before 1.6). Raises FormatError."""
    size = require_file(path)
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head[:4] == b"PK\x03\x04":
        return ZIP
    if head[:1] == b"\x80" and LEGACY_MAGIC in head[:32]:
        return LEGACY
    if head[8:9] == b"{":
        _check_safetensors(int.from_bytes(head[:8], "little"), size)
        return SAFETENSORS
    raise FormatError(_foreign(head, path.suffix))


def _check_safetensors(header: int, size: int) -> None:
    """Raises FormatError for a header of safetensors that is too long for the file or for a reader."""
    if header > HEADER_BYTES:
        raise FormatError(
            f"is damaged, or not a safetensors file: its header would have {header:,} bytes, and {HEADER_BYTES:,} are "
            "the most; copy or download it again"
        )
    if header + 8 > size:
        raise FormatError(f"is cut short: its header has {header:,} bytes, and the file {size:,}; copy it again")


def _foreign(head: bytes, suffix: str) -> str:
    """The clause about a file of another format."""
    for offset, signature, clause in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return clause
    if not head.strip(b"\0"):
        return "begins with zero bytes only, as after a failed download; copy or download it again"
    if head[:1] == b"\x80" and 1 <= head[1] <= 5:
        return "is a Python pickle that torch.save did not write, and could run code; save its tensors by torch.save"
    if head[:1] == b"\x08" and head[1] < 32 and head[2:3] in (b"\x12", b":", b"B") or suffix == ".onnx":
        return "is an ONNX file" + CONVERT
    if (0x81 <= head[0] <= 0x8F and head[1] & 0xE0 == 0xA0) or suffix == ".msgpack":
        return "is a MessagePack file (Flax)" + CONVERT
    return _foreign_text(head) or (
        "is not a weight file: its first bytes are those of no known format; copy or download it again"
    )


def _foreign_text(head: bytes) -> str | None:
    """The clause about a text file; None for other files."""
    text = head.decode("utf-8-sig", "replace").strip().lower()
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "is an HTML page, not the weights, as a login or error page is; download the file itself"
    if text.startswith("<"):
        return "is an XML text, not the weights; download the file itself"
    if text.startswith(("{", "[")):
        return "is a JSON text, not the weights; pass the path of the weight file that belongs to it"
    text = text.removesuffix("\ufffd")  # a character that the head cuts
    printable = all(sign.isprintable() or sign.isspace() for sign in text) and "\ufffd" not in text
    return "is a text file, not the weights; pass the path of a weight file" if printable else None
