import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import RunError
from engine.runs.record.folder import RunFolder, lock_run
from engine.storage.files import append, put


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def test_put_replaces_whole_files_and_leaves_no_trace(folder: RunFolder) -> None:
    put(folder.summary, "one")
    put(folder.summary, "two")
    assert folder.summary.read_text() == "two"
    assert not list(folder.root.glob(".*.tmp"))


def test_append_adds_lines(folder: RunFolder) -> None:
    append(folder.progress, "a")
    append(folder.progress, "b")
    assert folder.progress.read_text() == "a\nb\n"


def test_a_second_job_is_refused_and_told_who_holds_the_folder(folder: RunFolder) -> None:
    with (
        lock_run(folder),
        pytest.raises(RunError, match=r"another job .*process \d+ on"),
        lock_run(folder),
    ):
        pass
    with lock_run(folder):
        pass  # free again


def test_a_killed_job_holds_nothing(folder: RunFolder) -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from engine.runs.record.folder import RunFolder, lock_run;"
        "lock_run(RunFolder(Path(sys.argv[1]))).__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder.root)], check=False)
    with lock_run(folder):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make a run folder"):
        RunFolder(tmp_path / "file" / "run").create()
