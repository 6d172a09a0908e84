import errno
import json
from pathlib import Path

import pytest

from engine.errors import RunError, StoreError, fault_of, remedy_of
from engine.evaluation.values import VolumeMeasures
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.records import Attempt, Commit
from engine.storage.durable import store_writing
from engine.volumes.store import hash_tree
from tests.runs.fakes import on_disk

MEASURES = VolumeMeasures(unit="HU", values={"seam_ratio": 1.0, "roughness": 1.0})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def stage(folder: RunFolder, attempt: Attempt, content: str = "voxels") -> Path:
    staged = on_disk(ledger.staging_place(folder, attempt))
    (staged / "0").mkdir(parents=True)
    (staged / "0" / "c").write_text(content)
    return staged


def commit(folder: RunFolder, attempt: Attempt, content: str = "voxels") -> Commit:
    def record(files: dict[str, str]) -> Commit:
        return Commit(
            sample_id=attempt.sample_id,
            case_id="case",
            informed_case="case",
            informed_z=0,
            target_z=0,
            seed=0,
            attempt=attempt.number,
            files=files,
            config_sha256="",
            weights_sha256="",
            num_windows=1,
            joins=(),
            size_zyx=(1, 1, 1),
            timings_s={},
            peak_memory_mb=0.0,
            measures=MEASURES,
            committed_at=0.0,
        )

    return ledger.commit(folder, attempt, stage(folder, attempt, content), hash_tree, record)


def test_a_committed_sample_exists_with_the_hashes_of_its_files(folder: RunFolder) -> None:
    assert ledger.read_commit(folder, "a") is None
    made = commit(folder, ledger.begin_attempt(folder, "a", "w"))
    assert ledger.read_commit(folder, "a") == made
    assert ledger.read_commits(folder, ["b", "a"]) == {"a": made}
    assert hash_tree(folder.volume("a")) == made.files
    assert not list(folder.staging.iterdir())
    assert ledger.read_attempts(folder, "a")[0].outcome == "committed"


def test_a_volume_without_its_record_does_not_exist_and_is_replaced(folder: RunFolder) -> None:
    folder.volume("a").mkdir(parents=True)
    (folder.volume("a") / "torn").write_text("half")
    assert ledger.read_commit(folder, "a") is None
    commit(folder, ledger.begin_attempt(folder, "a", "w"))
    assert not (folder.volume("a") / "torn").exists()
    assert not list(folder.staging.iterdir())


def test_the_first_of_two_commits_stays(folder: RunFolder) -> None:
    slow = ledger.begin_attempt(folder, "a", "lost node")
    first = commit(folder, ledger.begin_attempt(folder, "a", "w"), "voxels")
    assert commit(folder, slow, "others") == first
    assert hash_tree(folder.volume("a")) == first.files
    assert not list(folder.staging.iterdir())


def test_three_failures_quarantine_a_sample_over_restarts(folder: RunFolder) -> None:
    for number in (1, 2, 3):
        assert ledger.num_failures(folder, "a") == number - 1
        ledger.fail(folder, ledger.begin_attempt(folder, "a", "w"), f"reason {number}")
    with pytest.raises(RunError, match=r"a: quarantined after 3 .* remove .*attempts/a"):
        ledger.begin_attempt(folder, "a", "w")
    assert len(folder.failures.read_text().splitlines()) == 3
    ledger.begin_attempt(folder, "b", "w")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EIO, "look at that computer's disks"),
        (errno.EMFILE, "look at that computer's disks"),
    ],
)
def test_a_machines_fault_is_held_against_nobody(
    folder: RunFolder, number: int, remedy: str
) -> None:
    place = Path(str(folder.root))
    with pytest.raises(StoreError) as caught, store_writing(place / "x", place / "y"):
        raise OSError(number, "what the system calls it, in whatever language")
    error = caught.value
    for _ in range(5):
        attempt = ledger.begin_attempt(folder, "a", "w", "case7")
        ledger.fail(folder, attempt, str(error), fault=fault_of(error), remedy=remedy_of(error))
    assert ledger.num_failures(folder, "a") == 0
    line = json.loads(folder.failures.read_text().splitlines()[0])
    assert (line["case"], line["attempt"]) == ("case7", 1)
    assert "in whatever language" in line["cause"]
    assert remedy in line["remedy"]


def test_words_of_a_message_decide_nothing(folder: RunFolder) -> None:
    for _ in range(3):
        attempt = ledger.begin_attempt(folder, "a", "w")
        ledger.fail(folder, attempt, "no such class: 'No space left', 'Permission denied'")
    assert ledger.num_failures(folder, "a") == 3


def test_a_volume_refused_for_good_is_quarantined_at_once(folder: RunFolder) -> None:
    ledger.fail(folder, ledger.begin_attempt(folder, "a", "w"), "too dark", final=True)
    with pytest.raises(RunError, match="quarantined"):
        ledger.begin_attempt(folder, "a", "w")


def test_a_worker_killed_with_company_is_nobodys_failure_yet(folder: RunFolder) -> None:
    for name in "ab":
        ledger.begin_attempt(folder, name, "killed worker", alone=False)
    assert ledger.needs_alone(folder, "a")
    assert ledger.begin_attempt(folder, "a", "w").number == 2
    assert [a.outcome for a in ledger.read_attempts(folder, "a")] == ["lost", None]
    assert ledger.num_failures(folder, "a") == 1, "alone and open: killed again, for all we know"
    assert ledger.num_failures(folder, "b") == 0
    assert not folder.failures.exists()


def test_killed_workers_count_but_a_killed_job_does_not(folder: RunFolder) -> None:
    ledger.begin_attempt(folder, "a", "killed worker")
    ledger.begin_attempt(folder, "a", "went down with the job")
    assert "killed worker was killed" in folder.failures.read_text()
    assert ledger.num_failures(folder, "a") == 2
    ledger.mark_interrupted(folder, ["a", "never tried"])
    ledger.mark_interrupted(folder, ["a"])
    assert ledger.num_failures(folder, "a") == 1
    assert ledger.begin_attempt(folder, "a", "w").number == 3


def test_a_damaged_record_is_named(folder: RunFolder) -> None:
    folder.commit("a").write_text('{"sample_id": "a"')
    with pytest.raises(StoreError, match=r"commits/a\.json: cannot read this commit record"):
        ledger.read_commit(folder, "a")


def test_clear_staging_removes_leftovers(folder: RunFolder) -> None:
    stage(folder, ledger.begin_attempt(folder, "a", "w"))
    ledger.clear_staging(folder)
    assert not list(folder.staging.iterdir())


def test_a_lost_computer_is_no_fault_of_the_sample_that_was_alone_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    lost = {"n1", "n2", "n3"}
    for node in ("n1", "n2", "n3", "n4"):
        ledger.begin_attempt(folder, "s", "w", node=node, blameless=lost.__contains__)
    assert ledger.num_failures(folder, "s") == 1  # the open one
    # a computer's workers can die before Ray knows that the computer is gone
    known: set[str] = set()
    for node in ("n5", "n6"):
        ledger.begin_attempt(folder, "s", "w", node=node, blameless=known.__contains__)
    assert ledger.num_failures(folder, "s") == 3
    known = {"n4", "n5", "n6"}
    ledger.begin_attempt(folder, "s", "w", node="n7", blameless=known.__contains__)
    assert ledger.num_failures(folder, "s") == 1
    with pytest.raises(RunError, match="quarantined"):
        for _ in range(3):
            ledger.begin_attempt(folder, "s", "w", node="n7", blameless=known.__contains__)
