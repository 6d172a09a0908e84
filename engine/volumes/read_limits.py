"""Reading a file that may lie about its size: never more bytes than its header promised.

Serves `nifti/`, which judges the header in between. Knows gzip and sizes, nothing of NIfTI.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import MalformedFileError, VolumeError
from engine.storage.disk_files import open_regular

HEAD_BYTES = 540  # the longest header there is (NIfTI-2)
_MAX_TRAILING_BYTES = 2**20
# what lies in place of a volume, by its first bytes, and what to do about it
_STAND_INS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the volume; `git lfs pull` gets it"),
    (b"/annex/objects/", "a pointer of git-annex, not the volume; `datalad get` gets it"),
    (b"../.git/annex/", "a pointer of git-annex, not the volume; `datalad get` gets it"),
    (b"<!doctype html", "a web page, not a volume; download it again, logged in where needed"),
    (b"<html", "a web page, not a volume; download it again, logged in where needed"),
    (b"pk\x03\x04", "a zip archive, not a volume; unpack it"),
)
_DEFLATE_MAX_RATIO = 1032  # deflate cannot shrink by more (zlib's technical details)


class ReadLimits(FrozenConfig):
    """What a file may ask of memory, checked on its header before its data is read.

    Attributes:
        max_dim: voxels along any axis.
        max_voxels: voxels of the volume.
        max_bytes: decompressed size of the file.
    """

    max_dim: int = Field(4096, ge=1)
    max_voxels: int = Field(2**29, ge=1)
    max_bytes: int = Field(2**32, ge=1)


@dataclass(frozen=True)
class LimitedStream:
    """An open file, plain or gzip, whose first bytes are read.

    Attributes:
        path: for messages.
        head: the first `HEAD_BYTES` bytes, decompressed (fewer in a shorter file).
        stored_bytes: size on disk.
        zipped: whether it is gzip.
        stream: what follows the head.
    """

    path: Path
    head: bytes
    stored_bytes: int
    zipped: bool
    stream: IO[bytes]

    def read_whole(self, total: int, max_bytes: int) -> bytes:
        """The file's first `total` bytes, the head among them.

        Raises:
            VolumeError: `total` is over the cap, the file ends before, or goes on far beyond.
        """
        if total > max_bytes:
            raise VolumeError(
                f"{self.path}: {total} bytes decompressed, over the cap of {max_bytes}; "
                "crop or split the file, or raise max_bytes"
            )
        if total > self.stored_bytes * (_DEFLATE_MAX_RATIO if self.zipped else 1):
            raise self._truncated(total, self.stored_bytes, "on disk")
        data = self.head + self.stream.read(max(0, total - len(self.head)))
        if len(data) < total:
            raise self._truncated(total, len(data), "decompressed")
        # reading to the end has gzip check its checksum, too
        if self.zipped and len(self.stream.read(_MAX_TRAILING_BYTES + 1)) > _MAX_TRAILING_BYTES:
            raise VolumeError(
                f"{self.path}: decompresses to far more than the {total} bytes its header "
                "declares; refused as a gzip bomb: write the file anew from its source"
            )
        return data

    def _truncated(self, expected: int, found: int, where: str) -> VolumeError:
        return VolumeError(
            f"{self.path}: truncated: its header declares {expected} bytes, {found} are there "
            f"{where}; copy or download the file again"
        )


@contextmanager
def open_limited(path: Path) -> Iterator[LimitedStream]:
    """Open a file and read its head; what goes wrong inside becomes a VolumeError.

    Raises:
        VolumeError: missing, empty, unreadable, named .gz without being gzip or the reverse, or
            damaged gzip.
    """
    try:
        with open_regular(path) as file:
            stored_bytes = path.stat().st_size
            zipped = _is_gzip(path, file, stored_bytes)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file
            yield LimitedStream(path, stream.read(HEAD_BYTES), stored_bytes, zipped, stream)
    except FileNotFoundError:
        if path.is_symlink():
            raise VolumeError(
                f"{path}: a link whose target is missing; get it (`datalad get`, `git annex get`), "
                "or restore the target"
            ) from None
        raise VolumeError(f"{path}: no such file; correct the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: damaged or truncated gzip ({error}); copy or download the file again"
        ) from None
    except MalformedFileError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise VolumeError(f"{path}: cannot be read ({reason}); correct the path") from None
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be read ({error.strerror or error}); check path and permissions"
        ) from None


def _is_gzip(path: Path, file: IO[bytes], stored_bytes: int) -> bool:
    if stored_bytes == 0:
        raise VolumeError(f"{path}: empty file; copy or download it again")
    start = file.read(32)
    zipped = start[:2] == b"\x1f\x8b"
    file.seek(0)
    for begin, meaning in _STAND_INS:
        if start.lstrip().lower().startswith(begin):
            raise VolumeError(f"{path}: {meaning}")
    if path.name.lower().endswith(".gz") and not zipped:
        raise VolumeError(f"{path}: not gzip although its name says so; compress or rename it")
    if zipped and not path.name.lower().endswith(".gz"):
        raise VolumeError(f"{path}: gzip although its name says .nii; rename it to .nii.gz")
    return zipped
