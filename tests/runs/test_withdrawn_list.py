"""The list of what was withdrawn: deleted or cut, it is missed, and nothing is made meanwhile."""

import json
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.runs.record.folder import RunFolder
from engine.runs.record.withdrawal import read_withdrawn, remember


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path)
    remember(found, "case0")
    remember(found, "case1", "ref")
    return found


def test_a_list_that_is_deleted_or_cut_is_missed(folder: RunFolder) -> None:
    assert read_withdrawn(folder) == {"case0", "case1", "ref"}
    folder.withdrawn.write_text(json.dumps({"cases": ["case0", "ref"]}))
    with pytest.raises(StoreError, match="1 of the withdrawn names are gone"):
        read_withdrawn(folder)
    folder.withdrawn.unlink()
    with pytest.raises(StoreError, match="3 of the withdrawn names are gone"):
        read_withdrawn(folder)
    with pytest.raises(StoreError, match="put it back"):
        remember(folder, "case2")


def test_names_written_by_hand_count_and_older_runs_have_the_list_alone(folder: RunFolder) -> None:
    names = ["case0", "case1", "ref", "mine"]
    folder.withdrawn.write_text(json.dumps({"cases": names}))
    assert read_withdrawn(folder) == set(names)
    folder.withdrawn_traces.unlink()
    folder.withdrawn.write_text(json.dumps({"cases": ["case0"]}))
    assert read_withdrawn(folder) == {"case0"}


def test_the_traces_hold_no_name(folder: RunFolder) -> None:
    assert "case" not in folder.withdrawn_traces.read_text()
