"""What no run writes (pipes, links, odd names, odd records) is a finding of verification."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import jobs.verify_run as job
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.record.folder import RunFolder
from tests.runs.fakes import on_disk

NAMES = [f"case{n}-r00" for n in range(3)]


def no_utf8(folder: RunFolder) -> None:
    Path(os.fsdecode(os.fsencode(on_disk(folder.volume(NAMES[1]))) + b"/\xff\xfe")).write_bytes(
        b"x"
    )


def in_volume(make: Callable[[Path], object], name: str) -> Callable[[RunFolder], None]:
    def harm(folder: RunFolder) -> None:
        path = Path(str(folder.volume(NAMES[1])), name)
        path.unlink(missing_ok=True)
        make(path)

    return harm


def as_record(make: Callable[[Path], object]) -> Callable[[RunFolder], None]:
    def harm(folder: RunFolder) -> None:
        path = Path(str(folder.commit(NAMES[1])))
        path.unlink()
        make(path)

    return harm


HOSTILE: dict[str, tuple[Callable[[RunFolder], None], str]] = {
    "escapes in a name": (
        in_volume(lambda path: path.write_text("x"), "a\x1b]0;owned\x07\x1b[2Jb"),
        r"foreign file +\S+a\\x1b]0;owned\\x07\\x1b[2Jb",
    ),
    "a name that is not UTF-8": (no_utf8, r"foreign file +\S+\\udcff\\udcfe"),
    "deep metadata": (in_volume(lambda path: path.write_text("[" * 200_000), "zarr.json"), "deep"),
    "a pipe as metadata": (in_volume(os.mkfifo, "zarr.json"), "zarr.json is a named pipe"),
    "a pipe too many": (in_volume(os.mkfifo, "0/c/0/0/9"), "0/c/0/0/9 is a named pipe"),
    "a link to a device": (
        in_volume(lambda path: path.symlink_to("/dev/zero"), "0/c/0/0/0"),
        "0/c/0/0/0 is a link to a device",
    ),
    "a pipe as record": (as_record(os.mkfifo), "bad commit record"),
    "a folder as record": (as_record(Path.mkdir), "bad commit record"),
    "a deep record": (as_record(lambda path: path.write_text("[" * 10**6)), "bad commit record"),
    "a record of NaN": (as_record(lambda path: path.write_text('{"seed": NaN}')), "NaN"),
    "a large record": (as_record(lambda path: path.write_bytes(bytes(17 << 20))), "larger than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_run_writes_is_a_finding(
    own_run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, message = HOSTILE[name]
    folder = RunFolder(own_run)
    harm(folder)
    harmless = message.startswith("foreign")  # no reader asks for it
    assert job.main(["--run", str(folder.root)]) == (0 if harmless else 1)
    shown = capsys.readouterr().out
    assert re.search(message.replace("]0", r"\]0").replace("[2J", r"\[2J"), shown), shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert ("3 sound" if harmless else "2 sound") in shown


def test_a_folder_in_a_records_place_is_repaired(own_run: Path) -> None:
    record = own_run / "commits" / "case1-r00.json"
    record.unlink()
    record.mkdir()
    (record / "note.txt").touch()
    (finding,) = verify_run(VerifyJob(run=own_run)).findings
    assert finding.kind == "bad commit record"
    assert verify_run(VerifyJob(run=own_run, repair=True)).repaired == ["case1-r00"]
    assert not record.exists()
