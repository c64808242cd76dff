"""Zeros as deflate packs them, by the gigabyte, for files that unpack to much; zlib itself would take seconds."""

import struct
import zipfile
import zlib

MEGABYTE = bytes(1 << 20)


def packed_zeros(megabytes: int) -> bytes:
    """A raw deflate stream (RFC 1951) of this many MiB of zeros: one block, repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)  # what follows does not refer to it
    return block * megabytes + packer.flush()


def write_packed_zeros(archive: zipfile.ZipFile, name: str, megabytes: int) -> None:
    """Adds a deflated member of this many MiB of zeros to an archive that is open for writing."""
    content, checksum = packed_zeros(megabytes), 0
    for _ in range(megabytes):
        checksum = zlib.crc32(MEGABYTE, checksum)
    archive.writestr(name, content, zipfile.ZIP_STORED)
    info = archive.getinfo(name)  # of the directory at the end; the member's own header is before its content
    info.compress_type, info.CRC, info.file_size = zipfile.ZIP_DEFLATED, checksum, megabytes << 20
    end = archive.fp.tell()
    archive.fp.seek(info.header_offset + 8)  # method, time, date, checksum, sizes
    archive.fp.write(struct.pack("<H", info.compress_type))
    archive.fp.seek(info.header_offset + 14)
    archive.fp.write(struct.pack("<3L", info.CRC, info.compress_size, info.file_size))
    archive.fp.seek(end)
