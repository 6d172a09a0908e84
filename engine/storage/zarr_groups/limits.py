"""What an array may ask of memory, judged by its metadata and its frames before a voxel is decoded.

A prepared case or a volume may come from elsewhere, and a megabyte on disk can stand for many
gigabytes: by its shape, by chunks larger than its shape, by a codec that is not ours, or by a Zstd
frame that says it holds more than its chunk. All four are refused. Knows the one way in which
`groups.write_array` stores arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec

from engine.errors import MalformedFileError

MAX_ELEMENTS = 2**29
"""Of one array: as many voxels as an image file may have (`ReadLimits.max_voxels`)."""
_INDEX_ENTRY, _CHECKSUM_BYTES = 16, 4
_SLACK_BYTES = 1 << 20  # what cannot be compressed grows by a little, and has an index
_EMPTY_CHUNK = 2**64 - 1
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def refuse_large(where: str, array: zarr.Array[Any]) -> None:
    """Refuse an array whose metadata asks for too much, or is not of our own writing.

    Raises:
        MalformedFileError: says which.
    """
    if math.prod(array.shape) > MAX_ELEMENTS:
        raise MalformedFileError(
            f"{where}: claims {' x '.join(map(str, array.shape))} elements, over the cap of "
            f"{MAX_ELEMENTS}"
        )
    codecs: list[Any] = list(getattr(array.metadata, "codecs", ()))
    inner: tuple[Any, ...] = (
        codecs[0].codecs if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec) else ()
    )
    ours = len(inner) == 2 and isinstance(inner[0], BytesCodec) and isinstance(inner[1], ZstdCodec)
    shards, chunks = array.shards or (), array.chunks
    fits = len(shards) == array.ndim and all(
        chunk <= size and shard < size + chunk
        for shard, size, chunk in zip(shards, array.shape, chunks, strict=True)
    )
    if not (ours and fits):
        raise MalformedFileError(f"{where}: stored otherwise than the engine stores arrays")


def refuse_large_frames(where: str, shard: bytes, array: zarr.Array[Any]) -> None:
    """Refuse a shard with a Zstd frame that says it holds more than its chunk.

    Raises:
        MalformedFileError: a frame does, or the index of the shard points outside it.
    """
    assert array.shards is not None
    if len(shard) > math.prod(array.shards) * array.dtype.itemsize + _SLACK_BYTES:
        raise MalformedFileError(f"{where}: larger on disk than in memory")
    counts = (-(-shard // n) for shard, n in zip(array.shards, array.chunks, strict=True))
    size = math.prod(counts) * _INDEX_ENTRY
    index = shard[-size - _CHECKSUM_BYTES : -_CHECKSUM_BYTES]
    if len(index) != size:
        raise MalformedFileError(f"{where}: torn")
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    for offset, length in np.frombuffer(index, dtype="<u8").reshape(-1, 2).tolist():
        if offset == _EMPTY_CHUNK:
            continue
        frame = shard[offset : offset + length]
        if len(frame) < length or _content_bytes(frame) != chunk_bytes:
            raise MalformedFileError(
                f"{where}: a chunk does not hold the {chunk_bytes} bytes that it should"
            )


def _content_bytes(frame: bytes) -> int:
    """What a Zstd frame says it holds (RFC 8878, section 3.1.1.1); -1 where it does not say."""
    if frame[:4] != _ZSTD_MAGIC:
        return -1
    descriptor = frame[4]
    single, size_flag = bool(descriptor & 0x20), descriptor >> 6
    num_bytes = (1 if single else 0, 2, 4, 8)[size_flag]
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if not num_bytes:
        return -1
    value = int.from_bytes(frame[start : start + num_bytes], "little")
    return value + 256 if num_bytes == 2 else value
