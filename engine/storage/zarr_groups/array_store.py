"""Folders of plain arrays that are read in pieces: caches of what is costly to compute.

Each array is Zarr v3 with one uncompressed chunk, so that its bytes on disk are its bytes in
memory: they are mapped, not read, and a cohort larger than memory can be drawn from at random.
Written whole or not at all. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.errors import StoreError
from engine.storage.durable import store_reading, whole_folder

ARRAYS_FORMAT = "gem3d-arrays/1"
_REMEDY = "delete it; it is made again"


@dataclass(frozen=True)
class StoredArrays:
    """What `write_arrays` wrote.

    Attributes:
        path: the folder.
        key: names what the arrays were computed from.
        attributes: JSON values stored beside them.
        arrays: memory maps, private to the process; bytes come from the disk when they are touched.
    """

    path: Path
    key: str
    attributes: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def verify(self) -> None:
        """Read every byte and compare with the digests of the writing.

        Raises:
            StoreError: an array is damaged.
        """
        for name, array in self.arrays.items():
            if _sha256(array) != self.attributes["sha256"][name]:
                raise StoreError(f"{self.path}: {name} is damaged; {_REMEDY}")


def write_arrays(
    path: Path, key: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write arrays as one folder, replacing an older one; all of them or none.

    Args:
        path: of the folder, by custom `NAME.zarr`.
        key: names what the arrays were computed from; `read_key` returns it.
        arrays: at least one axis each.
        attributes: JSON values.

    Raises:
        StoreError: the folder cannot be written.
    """
    with whole_folder(path) as staged:
        group = zarr.open_group(staged, mode="w-", zarr_format=3)
        for name, array in arrays.items():
            stored = group.create_array(
                name,
                shape=array.shape,
                dtype=array.dtype,
                chunks=tuple(max(1, n) for n in array.shape),
                compressors=None,
                fill_value=np.nan if array.dtype.kind == "f" else 0,
                config={"write_empty_chunks": True},
            )
            stored[...] = array
        digests = {name: _sha256(array) for name, array in arrays.items()}
        group.attrs.update({**attributes, "format": ARRAYS_FORMAT, "key": key, "sha256": digests})


def open_arrays(path: Path) -> StoredArrays:
    """Map the arrays of a folder.

    Raises:
        StoreError: missing, of another format, or an array is torn.
    """
    with store_reading(path, _REMEDY):
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes: dict[str, Any] = dict(group.attrs)
        if attributes.get("format") != ARRAYS_FORMAT:
            raise StoreError(f"{path}: not a cache of this version; {_REMEDY}")
        arrays = {name: _mapped(path, group, name) for name in attributes["sha256"]}
    return StoredArrays(path, str(attributes["key"]), attributes, arrays)


def read_key(path: Path) -> str | None:
    """The key of a whole folder, or None where there is none or it is torn."""
    try:
        return open_arrays(path).key
    except StoreError:
        return None


def _mapped(path: Path, group: zarr.Group, name: str) -> NDArray[Any]:
    stored = group[name]
    assert isinstance(stored, zarr.Array)
    shard = path.joinpath(name, "c", *["0"] * stored.ndim)
    size = int(np.prod(stored.shape)) * stored.dtype.itemsize
    if not shard.is_file() or shard.stat().st_size != size:  # zarr would read it as fill values
        raise StoreError(f"{path}: {name} is torn; {_REMEDY}")
    return np.memmap(shard, dtype=stored.dtype, mode="c", shape=stored.shape)


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
