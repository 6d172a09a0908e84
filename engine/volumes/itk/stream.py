"""Whether stored voxels are whole: ITK passes over checksums, and at times over missing bytes."""

from __future__ import annotations

import bz2
import zlib
from typing import IO, Protocol

from engine.errors import VolumeError
from engine.volumes.itk.header import ItkHeader

_BLOCK_BYTES = 2**20
_GZIP_OR_ZLIB = 47  # zlib's window bits: whichever header is there


class _Decompressor(Protocol):
    @property
    def unused_data(self) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def check_stream(header: ItkHeader, expected: int) -> None:
    """Count the voxels' bytes, decompressed, and check their checksums.

    Args:
        header: says where they are.
        expected: how many there must be.

    Raises:
        VolumeError: fewer, more, or damaged.
    """
    if not header.encoding:
        return
    try:
        with header.data.open("rb") as file:
            file.seek(header.offset)
            found = _count(file, header.encoding, expected)
    except (zlib.error, EOFError, OSError) as error:
        raise VolumeError(
            f"{header.data}: damaged or truncated ({error}); copy or download the file again"
        ) from None
    if found != expected:
        raise VolumeError(
            f"{header.data}: its header declares {expected} bytes, "
            f"{'more' if found > expected else found} are there; copy or download the file again"
        )


def _count(file: IO[bytes], encoding: str, limit: int) -> int:
    if encoding == "raw":
        start = file.tell()
        return file.seek(0, 2) - start
    stream, count = _decompressor(encoding), 0
    while block := file.read(_BLOCK_BYTES):
        while block:
            count += len(stream.decompress(block))
            if count > limit:
                return count
            block = stream.unused_data if stream.eof else b""
            if stream.eof and block.strip(b"\0\n"):
                stream = _decompressor(encoding)
            elif stream.eof:
                return count
    if not stream.eof:
        raise EOFError("the compressed data ends too soon")
    return count


def _decompressor(encoding: str) -> _Decompressor:
    return bz2.BZ2Decompressor() if encoding == "bz2" else zlib.decompressobj(_GZIP_OR_ZLIB)
