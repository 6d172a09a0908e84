"""Stored arrays that ask for more memory than they may: refused before a voxel is decoded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from engine.errors import MalformedFileError
from engine.storage.zarr_groups.groups import new_group, read_array, stored_group, write_array


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "case.zarr"
    rng = np.random.default_rng(0)
    with new_group(path, {}) as group:
        write_array(group, "mask", rng.integers(0, 5, (40, 32, 32)).astype(np.uint8))
        write_array(group, "flat", np.zeros((3, 8, 8), np.float32))
        write_array(group, "header", rng.integers(0, 255, 348).astype(np.uint8))
    return path


def read(path: Path, name: str = "mask") -> np.ndarray:
    with stored_group(path) as (group, files):
        return read_array(path, group, name, files)


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = path / "mask" / "zarr.json"
    raw = json.loads(file.read_text())
    edit(raw)
    file.write_text(json.dumps(raw))


def huge(raw: dict[str, Any]) -> None:
    raw["shape"] = [12_000, 1024, 1024]


def huge_chunk(raw: dict[str, Any]) -> None:
    raw["chunk_grid"]["configuration"]["chunk_shape"] = [12_000, 1024, 1024]
    raw["codecs"][0]["configuration"]["chunk_shape"] = [12_000, 1024, 1024]


def gzip(raw: dict[str, Any]) -> None:
    raw["codecs"] = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]


def gzip_inside(raw: dict[str, Any]) -> None:
    raw["codecs"][0]["configuration"]["codecs"][1] = {"name": "gzip", "configuration": {"level": 1}}


def test_our_own_arrays_are_read(stored: Path) -> None:
    assert read(stored).shape == (40, 32, 32)
    assert not read(stored, "flat").any()
    assert read(stored, "header").shape == (348,)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (huge, "claims 12000 x 1024 x 1024 elements"),
        (huge_chunk, "otherwise than the engine"),
        (gzip, "otherwise than the engine"),
        (gzip_inside, "otherwise than the engine"),
    ],
)
def test_metadata_that_claims_too_much_is_refused(
    stored: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(stored, edit)
    with pytest.raises(MalformedFileError, match=message):
        read(stored)


def test_a_frame_that_claims_too_much_is_refused(stored: Path) -> None:
    """A frame's header says what it holds; libzstd's callers allocate that before they decode."""
    shard = stored / "mask" / "c" / "0" / "0" / "0"
    raw = bytearray(shard.read_bytes())
    descriptor = raw[4]
    assert raw[:4] == b"\x28\xb5\x2f\xfd"
    raw[4] = (descriptor & 0x1F) | 0xC0  # eight bytes of content size, a window of its own
    raw[6:14] = (12 << 30).to_bytes(8, "little")
    shard.write_bytes(raw)
    with pytest.raises(MalformedFileError, match="16384 bytes that it should"):
        read(stored)


@pytest.mark.parametrize("harm", [lambda raw: raw[:10], lambda raw: raw + bytes(2 << 20)])
def test_a_shard_of_another_length_is_refused(stored: Path, harm: Callable[[bytes], bytes]) -> None:
    shard = stored / "mask" / "c" / "0" / "0" / "0"
    shard.write_bytes(harm(shard.read_bytes()))
    with pytest.raises(MalformedFileError, match=r"torn|larger on disk"):
        read(stored)


def test_arrays_of_any_size_of_ours_are_within_the_limits(tmp_path: Path) -> None:
    for number, shape in enumerate([(1, 1, 1), (16, 5, 7), (17, 300, 2), (5,), (33, 256, 256)]):
        path = tmp_path / f"{number}.zarr"
        array = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        for values in (array, np.full(shape, 7, np.uint8)):
            with new_group(path / values.dtype.name, {}) as group:
                write_array(group, "a", values)
            with stored_group(path / values.dtype.name) as (group, files):
                assert isinstance(group, zarr.Group)
                assert np.array_equal(read_array(path, group, "a", files), values)
