"""What every storage promises (see `engine/storage/backends/protocol.py`), kept by all alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from engine.errors import MalformedFileError
from engine.storage.backends.find import storage_at
from engine.storage.backends.local import LocalStorage
from engine.storage.backends.objects import ObjectStorage
from engine.storage.backends.protocol import Storage
from engine.storage.foreign import is_read
from engine.storage.objects import client
from engine.storage.objects.path import ObjectPath
from engine.storage.places import Place
from s3_server import BUCKET, CREDENTIALS, S3Server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty place of each kind."""
    if request.param == "local":
        return tmp_path / "root"
    if request.param == "memory":
        place = ObjectPath("memory://contract/root")
        place.remove_tree()
        return place
    server = request.getfixturevalue("server")
    server.reset()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client._given_up.clear()
    return ObjectPath(f"s3://{BUCKET}/root")


@pytest.fixture
def folder(root: Place) -> Place:
    """One in which files can be made."""
    storage_at(root).prepare((root / "folder",))
    return root / "folder"


def put(place: Place, data: bytes) -> Place:
    place.parent.mkdir(parents=True, exist_ok=True)
    storage_at(place).put(data)
    return place


def test_a_place_has_the_storage_of_its_kind(root: Place) -> None:
    storage = storage_at(root)
    kind = LocalStorage if isinstance(root, Path) else ObjectStorage
    assert isinstance(storage, kind)
    assert storage.place == root
    assert (storage.local is None) == (kind is ObjectStorage)
    assert storage.can_rename == storage.can_append == (kind is LocalStorage)


# One file


def test_what_is_put_is_read_and_put_again(folder: Place) -> None:
    storage = storage_at(folder / "a")
    for data in (b"first", b"second, and longer", b""):
        storage.put(data)
        assert storage.read_bytes(64) == data
        assert storage.digest() == hashlib.sha256(data).hexdigest()
        with storage.open() as file:
            assert file.read() == data
    assert [p.name for p in storage_at(folder).children()] == ["a"]


def test_what_is_not_there_is_not_found(folder: Place) -> None:
    storage = storage_at(folder / "none")
    for ask in (lambda: storage.read_bytes(9), storage.open, storage.digest, storage.modified_at):
        with pytest.raises(FileNotFoundError):
            ask()
    assert storage.appended(9) == []
    assert storage.children() == []
    assert storage.sizes() == {}
    storage.gather()
    storage.discard()
    storage.remove()


def test_a_file_that_is_too_large_is_refused(folder: Place) -> None:
    storage = storage_at(put(folder / "a", b"12345"))
    assert storage.read_bytes(5) == b"12345"
    with pytest.raises(MalformedFileError, match="a: larger than 4 bytes"):
        storage.read_bytes(4)


def test_a_whole_file_appears_when_it_is_complete(folder: Place) -> None:
    storage = storage_at(put(folder / "a", b"old"))
    with storage.whole_file() as file:
        file.write("new, ")
        assert storage.read_bytes(64) == b"old"
        file.write("µ")
    assert storage.read_bytes(64) == "new, µ".encode()
    with pytest.raises(RuntimeError, match="broke off"), storage.whole_file() as file:
        file.write("half")
        raise RuntimeError("broke off")
    assert storage.read_bytes(64) == "new, µ".encode()
    assert [p.name for p in storage_at(folder).children()] == ["a"]


def test_of_two_writers_one_creates(folder: Place) -> None:
    storage = storage_at(folder / "a")
    assert storage.write_new(b"ours")
    assert storage.write_new(b"ours"), "our own: the answer was lost"
    assert not storage.write_new(b"another's")
    assert storage.read_bytes(64) == b"ours"


def test_what_is_renewed_is_newer_and_there(folder: Place) -> None:
    storage = storage_at(folder / "a")
    storage.renew(b"holder")
    first = storage.modified_at()
    storage.renew(b"holder")
    second = storage.modified_at()
    assert first is not None
    assert second is not None
    assert second >= first
    assert storage.read_bytes(64) == b"holder"


def test_libraries_get_a_file_of_that_name(folder: Place) -> None:
    storage = storage_at(folder / "deep" / "a.nii.gz")
    with storage.file_to_write() as file:
        assert file.name == "a.nii.gz"
        file.write_bytes(b"volume")
    with storage.as_file() as file:
        assert (file.name, file.read_bytes()) == ("a.nii.gz", b"volume")
    assert storage.read_bytes(64) == b"volume"


# A list of lines


def lines(storage: Storage) -> list[str]:
    return b"".join(storage.appended(1 << 20)).decode().splitlines()


def test_lines_are_appended_in_order_and_gathered(folder: Place) -> None:
    storage = storage_at(folder / "list.jsonl")
    for number in range(3):
        storage.append(json.dumps({"number": number}))
    assert [json.loads(line)["number"] for line in lines(storage)] == [0, 1, 2]
    storage.gather()
    assert storage.read_bytes(1 << 20).decode().splitlines() == lines(storage)
    storage.append("{}")
    assert lines(storage)[3:] == ["{}"]


def test_only_lines_that_are_files_are_deleted_one_by_one(folder: Place) -> None:
    storage = storage_at(folder / "list.jsonl")
    for text in ("keep", "drop"):
        storage.append(text)
    storage.keep_appended(lambda line: "keep" in line)
    assert lines(storage) == (["keep", "drop"] if storage.can_append else ["keep"])


# A folder


def test_children_are_sorted_and_of_one_level(root: Place) -> None:
    for name in ("b", "a/deep/er", "c.json"):
        put(root / name, b"1")
    assert [p.name for p in storage_at(root).children()] == ["a", "b", "c.json"]
    assert storage_at(root).sizes() == {"a/deep/er": 1, "b": 1, "c.json": 1}
    assert storage_at(root).has_folder()


def test_names_that_begin_alike_are_not_below(root: Place) -> None:
    for name in ("run/a", "run2/a", "run/run/a"):
        put(root / name, b"1")
    assert list(storage_at(root / "run").sizes()) == ["a", "run/a"]
    assert storage_at(root / "run" / "a").lies_in(root / "run")
    assert storage_at(root / "run").lies_in(root / "run")
    assert not storage_at(root / "run2").lies_in(root / "run")


def test_what_has_a_name_and_what_was_torn(folder: Place) -> None:
    put(folder / "a.json", b"1")
    put(folder / "a.json.bak", b"1")
    assert storage_at(folder).named("a.json") == [folder / "a.json"]
    assert storage_at(folder).named("b.json") == storage_at(folder).torn() == []


def test_of_a_group_every_file_that_readers_ask_for_is_hashed(folder: Place) -> None:
    for name in ("zarr.json", "0/c/0/0", "0/.DS_Store", "notes.txt"):
        put(folder / name, name.encode())
    storage = storage_at(folder)
    wanted = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("0/c/0/0", "zarr.json")}
    assert storage.digests(is_read) == wanted
    assert sorted(storage.foreign_files(wanted)) == ["0/.DS_Store", "notes.txt"]
    assert [*storage.misplaced_links(wanted)] == []
    assert storage.odd_files(is_read) == {}
    assert storage.link_target() is None
    assert storage.is_writable()


# Deleting


@pytest.mark.parametrize("how", ["discard", "remove", "remove_each"])
def test_what_is_deleted_is_gone_and_nothing_else(root: Place, how: str) -> None:
    for name in ("a[1]/x", "a[1]/y/z", "a1/x", "file"):
        put(root / name, b"1")
    left: list[str] = []
    for name in ("a[1]", "none", "file"):
        storage = storage_at(root / name)
        if how == "remove_each":
            storage.remove_each(lambda place, _: left.append(place))
        else:
            getattr(storage, how)()
    assert storage_at(root).sizes() == {"a1/x": 1}
    assert left == []


def test_it_is_known_whether_older_versions_stay(root: Place) -> None:
    versions = storage_at(root).keeps_versions()
    assert versions in ((False,) if isinstance(root, Path) else (False, None))
