"""Caches of arrays: mapped, whole or not at all, and damage is seen."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from engine.errors import StoreError
from engine.storage.zarr_groups.array_store import open_arrays, read_key, write_arrays

ARRAYS: dict[str, np.ndarray] = {
    "mean": np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2),
    "mask": np.arange(6, dtype=np.uint8).reshape(3, 2),
}


def test_arrays_come_back_as_maps_and_other_readers_see_zarr(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_arrays(path, "key", ARRAYS, {"case_id": "a"})
    stored = open_arrays(path)
    assert (stored.key, stored.attributes["case_id"]) == ("key", "a")
    for name, array in ARRAYS.items():
        assert isinstance(stored.arrays[name], np.memmap)
        np.testing.assert_array_equal(stored.arrays[name], array)
        np.testing.assert_array_equal(np.asarray(zarr.open_group(str(path), mode="r")[name]), array)
    stored.verify()
    write_arrays(path, "other", {"mean": ARRAYS["mean"]}, {})
    assert read_key(path) == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_torn_and_damaged_arrays_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_arrays(path, "key", ARRAYS, {})
    shard = path / "mean" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="mean is damaged"):
        open_arrays(path).verify()
    shard.write_bytes(content[:-1])
    with pytest.raises(StoreError, match="mean is torn"):
        open_arrays(path)
    assert read_key(path) is None
    assert read_key(tmp_path / "none.zarr") is None


def test_a_full_disk_leaves_the_old_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zarr"
    write_arrays(path, "key", ARRAYS, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.storage.durable.flush_tree", full)
    with pytest.raises(StoreError, match="No space left"):
        write_arrays(path, "new", ARRAYS, {})
    monkeypatch.undo()
    assert read_key(path) == "key"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
