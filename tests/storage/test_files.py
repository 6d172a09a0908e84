"""Lines that are added to a file keep whole, whatever a write before them left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.storage.files import append


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    append(path, '{"a": 3}')
    append(path, '{"a": 4}')
    assert path.read_text().splitlines() == ['{"a": 1}', '{"a": 2', '{"a": 3}', '{"a": 4}']


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_short_write_leaves_the_whole_line_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    write, sizes = os.write, [cut]

    def short(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: sizes.pop()] if sizes else data)

    path = tmp_path / "lines.jsonl"
    append(path, "before")
    monkeypatch.setattr(os, "write", short)
    append(path, '{"a": 3}')
    append(path, "after")
    lines = path.read_text().splitlines()
    assert lines.count('{"a": 3}') == 1
    assert (lines[0], lines[-1]) == ("before", "after")


def test_a_disk_that_fills_in_mid_line_is_an_error_and_spoils_no_later_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, [3]

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: room.pop()])

    path = tmp_path / "lines.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            append(path, '{"a": 3}')
    append(path, '{"a": 4}')
    assert path.read_text().splitlines()[-1] == '{"a": 4}'


def test_what_is_no_regular_file_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=r"not a regular file|symbolic link"):
            append(tmp_path / name, "line")
    assert not (tmp_path / "elsewhere").exists()
