"""A folder that takes the place of another: at every moment there is one of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.storage.durable import finish_replacing, whole_folder


def fill(path: Path, text: str) -> None:
    with whole_folder(path) as staged:
        staged.mkdir()
        (staged / "file").write_text(text)


class PowerCutError(BaseException):
    """Nothing after this line happens."""


@pytest.mark.parametrize("due", range(4))
def test_a_power_cut_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, due: int
) -> None:
    path = tmp_path / "a.zarr"
    fill(path, "old")
    left = [due]

    def step(_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise PowerCutError

    rename, rmtree = Path.rename, shutil.rmtree

    def cut_rename(self: Path, target: Path) -> Path:
        step(self)
        return rename(self, target)

    def cut_rmtree(place: Path, **options: Any) -> None:
        step(place)
        rmtree(place, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_rename)
        patch.setattr(shutil, "rmtree", cut_rmtree)
        try:
            fill(path, "new")
        except PowerCutError:
            assert due < 3
    finish_replacing(path)
    assert (path / "file").read_text() == ("old" if due < 2 else "new")
    fill(path, "newer")
    assert (path / "file").read_text() == "newer"
    assert not list(tmp_path.glob(".*.replaced"))
