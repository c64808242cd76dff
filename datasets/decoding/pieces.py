"""A file composed of pieces of another one, for decoders that would fail on the rest."""

import bisect
import io
import itertools
from typing import BinaryIO

Piece = bytes | tuple[int, int]  # new bytes, or (start, length) in the file


class _Pieces(io.RawIOBase):
    def __init__(self, file: BinaryIO, pieces: list[Piece]):
        self.file, self.pieces, self.position = file, pieces, 0
        self.starts = [0, *itertools.accumulate(length(piece) for piece in pieces)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.starts[-1]}[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer) -> int:
        number = bisect.bisect_right(self.starts, self.position) - 1
        if number >= len(self.pieces):
            return 0
        piece, within = self.pieces[number], self.position - self.starts[number]
        count = min(len(buffer), length(piece) - within)
        if isinstance(piece, bytes):
            data = piece[within : within + count]
        else:
            self.file.seek(piece[0] + within)
            data = self.file.read(count)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def join(file: BinaryIO, pieces: list[Piece]) -> BinaryIO:
    """A readable file of the pieces in order; empty ones are left out. It shares `file`'s position."""
    return io.BufferedReader(_Pieces(file, [piece for piece in pieces if length(piece)]))


def length(piece: Piece) -> int:
    """The number of bytes of a piece."""
    return len(piece) if isinstance(piece, bytes) else piece[1]


def size_of(file: BinaryIO) -> int:
    """The size of an open file, bytes; its position moves to the end."""
    return file.seek(0, io.SEEK_END)


def read_at(file: BinaryIO, start: int, count: int) -> bytes:
    """`count` bytes from `start`, or fewer at the end of the file."""
    file.seek(start)
    return file.read(count)
