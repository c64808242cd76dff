"""Damages to the content of a file: functions (content, rng) -> damaged content, the same if nothing fits.

Disks, cables and copies damage files in these ways; deliberate deception is not covered.
"""

import json

import numpy as np


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits, anywhere."""
    damaged = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(0, len(damaged), rng.integers(1, 9)) if len(damaged) else ():
        damaged[place] ^= 1 << rng.integers(8)
    return damaged.tobytes()


def flip_early_bit(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit among the first 2,000 bytes: in a header."""
    return flip_bits(content[:2000], rng) + content[2000:]


def zero_block(content: bytes, rng: np.random.Generator) -> bytes:
    """A block of zeros, as after a lost write."""
    start, stop = _block(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def randomize_block(content: bytes, rng: np.random.Generator) -> bytes:
    """A block of random bytes."""
    start, stop = _block(content, rng)
    return content[:start] + rng.bytes(stop - start) + content[stop:]


def duplicate_block(content: bytes, rng: np.random.Generator) -> bytes:
    """A duplicated block; everything after it is shifted."""
    start, stop = _block(content, rng)
    return content[:stop] + content[start:]


def remove_block(content: bytes, rng: np.random.Generator) -> bytes:
    """A missing block."""
    start, stop = _block(content, rng)
    return content[:start] + content[stop:]


def exchange_blocks(content: bytes, rng: np.random.Generator) -> bytes:
    """Two blocks of the same length, exchanged."""
    size = max(len(content) // 8, 1)
    first, second = sorted(rng.integers(0, max(len(content) // size, 1), 2) * size)
    if first == second:
        return content
    one, other = content[first : first + size], content[second : second + size]
    return content[:first] + other + content[first + size : second] + one + content[second + size :]


def exchange_tensors(content: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file with the bytes of two tensors of one size exchanged in its header; other files stay."""
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return content
    if not isinstance(header, dict) or size > len(content):
        return content
    by_shape: dict[str, list[str]] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            by_shape.setdefault(str((entry["dtype"], entry["shape"])), []).append(name)
    pairs = [names for names in by_shape.values() if len(names) > 1]
    if not pairs:
        return content
    one, other = rng.choice(pairs[rng.integers(len(pairs))], 2, replace=False)
    offsets = "data_offsets"
    header[one][offsets], header[other][offsets] = header[other][offsets], header[one][offsets]
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    """Only the beginning."""
    return content[: rng.integers(0, max(len(content), 1))]


def truncate_a_little(content: bytes, rng: np.random.Generator) -> bytes:
    """All but the last 1 to 16 bytes."""
    return content[: max(len(content) - int(rng.integers(1, 17)), 0)]


def append(content: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes at the end."""
    return content + rng.bytes(rng.integers(1, 200))


def append_zeros(content: bytes, rng: np.random.Generator) -> bytes:
    """Zeros at the end, as a crash of some file systems leaves them."""
    return content + bytes(4096)


def replace(content: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes instead of the file."""
    return rng.bytes(max(len(content), 1))


def empty(content: bytes, rng: np.random.Generator) -> bytes:
    """Nothing."""
    return b""


def _block(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, max(len(content), 1)))
    return start, min(start + int(rng.integers(1, max(len(content) // 4, 2))), len(content))


DAMAGES = [
    *(flip_bits, flip_early_bit, zero_block, randomize_block, duplicate_block, remove_block, exchange_blocks),
    *(exchange_tensors, truncate, truncate_a_little, append, append_zeros, replace, empty),
]
DIRECTORY = "a directory"  # in place of the file


def damage(content: bytes, rng: np.random.Generator) -> tuple[str, bytes | None]:
    """The name of a random damage, and the damaged content, which differs; None for a directory."""
    while True:
        number = int(rng.integers(len(DAMAGES) + 1))
        if number == len(DAMAGES):
            return DIRECTORY, None
        damaged = DAMAGES[number](content, rng)
        if damaged != content:
            return DAMAGES[number].__name__, damaged
