"""Addresses and local paths: what is a place, and that names with signs of patterns are literal."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.storage.backends.find import storage_at
from engine.storage.objects.path import ObjectPath
from engine.storage.places import as_place
from engine.storage.zarr_groups.groups import read_array, stored_group, whole_group, write_array

ODD = ["run[12]", "r*n", "r?n", "{a,b}", "a::b", "a#b%41", "memory::x", "a b"]


@pytest.mark.parametrize("name", ["run[12]", "r*", "run?", "a]", "run\x1b[1m"])
def test_an_address_that_is_a_pattern_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not for addresses"):
        as_place(f"s3://bucket/{name}")


@pytest.mark.parametrize("name", ODD)
def test_a_local_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    import numpy as np

    assert as_place(str(tmp_path / name)) == tmp_path / name
    group_place, neighbour = tmp_path / name / "g.zarr", tmp_path / "run1" / "g.zarr"
    for place in (group_place, neighbour):
        with whole_group(place) as group:
            write_array(group, "a", np.arange(4.0))
    with stored_group(group_place) as (group, size_of):
        assert read_array(group_place, group, "a", size_of).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "run1"])
    storage_at(tmp_path / name).discard()
    assert [p.name for p in tmp_path.iterdir()] == ["run1"]
    assert neighbour.is_dir()


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///data/run", "/data/run"),
        ("file://localhost/data/run", "/data/run"),
        ("file:///data/run%20[1]?x#y", "/data/run [1]?x#y"),
    ],
)
def test_a_file_address_is_the_path_it_names(address: str, path: str) -> None:
    assert as_place(address) == Path(path)


def test_a_file_address_of_another_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="names the host 'data'"):
        as_place("file://data/run")


@pytest.fixture
def memory() -> ObjectPath:
    root = ObjectPath("memory://patterns/x")
    root.remove_tree()
    return root


@pytest.mark.parametrize("odd", ["run[12]", "r*", "run?", "run{1,2}"])
def test_deleting_is_literal(memory: ObjectPath, odd: str) -> None:
    """The names below `odd` as a pattern are another's, and stay."""
    for name in (odd, "run1", "run2", "ru"):
        (memory / name / "volumes" / "a").write_bytes(b"1")
    (memory / odd).remove_tree()
    assert list(memory.sizes()) == ["ru/volumes/a", "run1/volumes/a", "run2/volumes/a"]


def test_names_that_begin_alike_and_a_child_with_its_parents_name(memory: ObjectPath) -> None:
    for name in ("a/x", "ab/x", "a/a", "a/a.b/c"):
        (memory / name).write_bytes(b"1")
    assert [p.name for p in (memory / "a").iterdir()] == ["a", "a.b", "x"]
    assert list((memory / "a").sizes()) == ["a", "a.b/c", "x"]
    assert list((memory / "a" / "x").sizes()) == []
    (memory / "a").remove_tree()
    assert list(memory.sizes()) == ["ab/x"]
