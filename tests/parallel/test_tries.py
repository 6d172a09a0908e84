"""What kills its worker is given up; what only stood in a computer that died is not."""

from pathlib import Path
from typing import Any

import pytest

from engine.errors import RunError
from engine.parallel.rows.attended import attended
from engine.parallel.rows.tries import MAX_TRIES, TryBook

ROW: dict[str, object] = {"case_id": "bad", "stamp": "one"}


def book(place: Path) -> TryBook:
    return TryBook(place / "attempts", "case_id", "stamp")


def test_a_row_that_kills_its_worker_is_given_up_by_name(tmp_path: Path) -> None:
    tries = book(tmp_path)
    for _ in range(MAX_TRIES):
        tries.begin(ROW)  # and its process is gone
    with pytest.raises(RunError, match="bad: killed its worker 3 times"):
        tries.begin(ROW)
    with pytest.raises(RunError, match=r"remove .*attempts/bad"):
        book(tmp_path).begin(ROW)  # also by another job
    tries.close()
    assert (tmp_path / "attempts" / "bad").is_dir()


def test_a_row_that_ends_leaves_nothing(tmp_path: Path) -> None:
    tries = book(tmp_path)
    tries.begin(ROW)
    tries.end(tries.begin(ROW))
    tries.close()
    assert not (tmp_path / "attempts").exists()


def test_a_row_of_other_files_is_another_row(tmp_path: Path) -> None:
    tries = book(tmp_path)
    for _ in range(MAX_TRIES):
        tries.begin(ROW)
    tries.begin({**ROW, "stamp": "two"})


def test_what_ended_with_its_job_is_forgiven(tmp_path: Path) -> None:
    tries = book(tmp_path)
    for _ in range(2 * MAX_TRIES):
        tries.begin(ROW)
        tries.forgive()
    tries.begin(ROW)


def test_a_computer_that_is_lost_is_no_fault_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.parallel.rows.tries.this_process", lambda: "")  # Ray may be up here
    tries = book(tmp_path)
    for _ in range(2 * MAX_TRIES):
        tries.begin(ROW, blameless=lambda process: process == "")
    tries.begin(ROW)


class Shy:
    """A worker whose process dies at a row: seen from inside one process, it raises."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __call__(self, row: dict[str, object]) -> dict[str, object]:
        self.calls.append(str(row["case_id"]))
        if row["case_id"] == "bad":
            raise KeyboardInterrupt  # nothing of the worker catches it, as nothing catches SIGKILL
        return {"case_id": row["case_id"], "error": ""}

    def given_up(self, row: dict[str, object], message: str) -> dict[str, object]:
        return {"case_id": row["case_id"], "error": message}


def test_an_attended_worker_counts_before_it_touches_a_row(tmp_path: Path) -> None:
    calls: list[str] = []
    made: Any = attended(Shy, "job", None, book(tmp_path))
    worker = made(calls=calls)
    for _ in range(MAX_TRIES):
        with pytest.raises(KeyboardInterrupt):
            worker(ROW)
    assert "killed its worker" in worker(ROW)["error"]
    assert worker({"case_id": "good", "stamp": ""}) == {"case_id": "good", "error": ""}
    assert calls == ["bad"] * MAX_TRIES + ["good"]
