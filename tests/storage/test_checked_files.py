"""What may stand where the engine's own JSON should be: each is an error, none a hang."""

import os
import socket
from pathlib import Path

import pytest

from engine.config import FrozenConfig
from engine.errors import MalformedFileError, StoreError
from engine.storage.checked_files import (
    iter_lines,
    parse_json,
    read_bytes,
    read_json,
    read_model,
    read_text,
)
from engine.storage.disk_files import open_regular
from engine.storage.file_trees import look_through
from engine.storage.files import append


class Pair(FrozenConfig):
    left: int
    right: tuple[float, ...] = ()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, listener, device, folder])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = Path("record.json")
    make(path)  # type: ignore[operator]
    for read in (open_regular, read_json, lambda p: list(iter_lines(p))):
        with pytest.raises(MalformedFileError, match=r"record\.json: a \w+( \w+)? and no file"):
            read(path)
    assert look_through(Path()).odd.keys() == ({"record.json"} if make is not folder else set())


def test_a_pipe_that_nobody_reads_takes_no_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "progress.jsonl")
    with pytest.raises(OSError, match=r"No such device|not a regular file"):
        append(tmp_path / "progress.jsonl", "{}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[" * 200_000, "nested too deeply|not JSON"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b"[" * 70 + b"]" * 70, "nested too deeply"),
        (b'{"left": NaN}', "NaN is not JSON"),
        (b'{"left": -Infinity}', "-Infinity is not JSON"),
        (b'{"left": "\xff"}', "not UTF-8"),
        (b"", "not JSON"),
        (b'{"left": 1', "not JSON"),
        (b'{"left": "a"}', "`left`"),
        (b"null", r"\(top level\)"),
        (b'{"left": 1, "other": 2}', "`other`"),
        (b" " * 2000 + b'{"left": 1}', "larger than 1000 bytes"),
    ],
)
def test_malformed_json_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(raw)
    with pytest.raises(MalformedFileError, match=message) as error:
        read_model(Pair, path, max_bytes=1000 if len(raw) < 10_000 else 10**6)
    assert str(path) in str(error.value)
    assert isinstance(error.value, StoreError)


def test_what_is_well_formed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"left": 3, "right": [0.5, 1]}\n', encoding="utf-8")
    assert read_model(Pair, path) == Pair(left=3, right=(0.5, 1.0))
    assert parse_json("[" * 60 + "]" * 60)
    assert read_bytes(path) == read_text(path).encode()
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_lines_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    path.write_bytes(b"one\n\xfftwo\nthree")
    assert list(iter_lines(path, 10)) == ["one\n", "\N{REPLACEMENT CHARACTER}two\n", "three"]
    with pytest.raises(MalformedFileError, match="a line of more than 4 bytes"):
        list(iter_lines(path, 4))


def test_a_tree_tells_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / "lost").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to("a")
    tree = look_through(tmp_path)
    assert tree.files == ("a/file",)
    assert tree.odd == {"a/lost": "is a link to nothing", "linked": "is a link to a folder"}
    assert look_through(tmp_path / "none").files == ()
