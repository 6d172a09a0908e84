"""A run's own files missing, cut, empty or swapped: refused with the repair, or derived again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import EngineError, RunError, StoreError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.own_files import seal_plan
from tests.runs.fakes import FakeSampler, LoadFake, make_data, make_weights, on_disk

OLD = Path(__file__).parent / "old_runs" / "0.1.0"
FAILING = FakeSampler(fail=frozenset({"case1-r00"}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    make_data(place / "data")
    make_weights(place / "weights")
    return place


@pytest.fixture
def begun(base: Path, tmp_path: Path, no_ray: None) -> ResampleConfig:
    """A run of three volumes, of which two are there; made once and copied."""
    config = ResampleConfig(
        data=base / "data",
        weights=base / "weights",
        out=base / "run",
        informed=("own",),
        num_pictured=0,
    )
    if not base.joinpath("run").exists():
        assert resample(config, LoadFake(FAILING)).summary.committed == 2
    shutil.copytree(base / "run", tmp_path / "run")
    return config.model_copy(update={"out": tmp_path / "run"})


def cut(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))


def empty(path: Path) -> None:
    path.write_text("")


def double(path: Path) -> None:
    path.write_text(path.read_text() * 2)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00[[[")


def other_seed(path: Path) -> None:
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))


def other_weights(path: Path) -> None:
    text = path.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("weights_sha256")]
    path.write_text(text.replace(line, "weights_sha256: " + "a" * 64))


GONE = Path.unlink
Harm = tuple[str, Callable[[Path], object]]
RUN_YAML, PLAN, DIGEST = "run.yaml", "plan.jsonl", "plan.sha256"

REFUSED: list[tuple[list[Harm], str]] = [
    ([(RUN_YAML, GONE)], r"run\.yaml: missing, .* put it back from a copy"),
    ([(RUN_YAML, empty)], r"run\.yaml: not a run description .* put it back from a copy"),
    ([(RUN_YAML, garbage)], r"run\.yaml: not a run description"),
    ([(RUN_YAML, other_seed)], r"settings\.seed was 1, is now 0"),
    ([(RUN_YAML, other_weights)], r"run\.yaml: not the one that case0-r00 was made by"),
    ([(RUN_YAML, GONE), (PLAN, GONE), (DIGEST, GONE)], r"run\.yaml: missing"),
    ([(PLAN, cut)], r"plan\.jsonl: changed after it was planned .* delete it and start"),
    ([(PLAN, empty)], "changed after it was planned"),
    ([(PLAN, garbage)], "changed after it was planned"),
    ([(PLAN, double)], "changed after it was planned"),
    ([(PLAN, cut), (DIGEST, GONE)], r"not what these settings plan \(3 volumes\), .* delete the"),
    ([(PLAN, empty), (DIGEST, GONE)], "not what these settings plan"),
    ([(PLAN, double), (DIGEST, GONE)], "two volumes would have this name"),
    ([(PLAN, garbage), (DIGEST, GONE)], r"plan\.jsonl:1: not a plan row"),
    ([(PLAN, cut), (DIGEST, empty)], "not what these settings plan"),
]
DERIVED: list[list[Harm]] = [
    [(PLAN, GONE)],
    [(DIGEST, GONE)],
    [(DIGEST, empty)],
    [(DIGEST, garbage)],
    [(PLAN, GONE), (DIGEST, GONE)],
]


def harm(config: ResampleConfig, harms: list[Harm]) -> RunFolder:
    folder = RunFolder(config.out)
    for name, how in harms:
        how(on_disk(folder.root) / name)
    return folder


@pytest.mark.parametrize(("harms", "message"), REFUSED)
def test_a_run_with_a_file_missing_or_changed_is_refused(
    begun: ResampleConfig, harms: list[Harm], message: str
) -> None:
    folder = harm(begun, harms)
    before = sorted(on_disk(folder.root).rglob("*"))
    with pytest.raises((StoreError, RunError), match=message):
        resample(begun, LoadFake())
    assert set(before) >= {p for p in on_disk(folder.root).rglob("*") if p.suffix != ".tmp"}, (
        "nothing made"
    )


@pytest.mark.parametrize("harms", DERIVED)
def test_a_plan_or_digest_that_is_gone_is_derived_and_is_the_same(
    begun: ResampleConfig, harms: list[Harm]
) -> None:
    folder = RunFolder(begun.out)
    before = {name: (folder.root / name).read_text() for name in (PLAN, DIGEST)}
    harm(begun, harms)
    with pytest.raises(StoreError, match="start the run's job again with the same settings"):
        verify_run(VerifyJob(run=begun.out))
    assert resample(begun, LoadFake()).summary.committed == 3
    assert {name: (folder.root / name).read_text() for name in (PLAN, DIGEST)} == before
    assert verify_run(VerifyJob(run=begun.out)).is_sound


@pytest.mark.parametrize("harms", [h for h, _ in REFUSED if h != [(RUN_YAML, other_seed)]])
def test_verify_and_export_refuse_or_find_it_too(begun: ResampleConfig, harms: list[Harm]) -> None:
    folder = harm(begun, harms)
    with pytest.raises(EngineError):
        export_run(ExportJob(run=folder.root))
        if verify_run(VerifyJob(run=folder.root)).findings:
            raise RunError("findings")


def test_an_edited_run_yaml_is_found_by_verification(begun: ResampleConfig) -> None:
    harm(begun, [(RUN_YAML, other_seed)])
    verdict = verify_run(VerifyJob(run=begun.out))
    assert {f.kind for f in verdict.findings} == {"other origin"}
    assert len(verdict.findings) == 2


def test_a_plan_that_the_volumes_were_not_made_by_is_refused(begun: ResampleConfig) -> None:
    """Plan and digest are gone, and planning has changed since (here: the record says so)."""
    folder = harm(begun, [(PLAN, GONE), (DIGEST, GONE)])
    record = ledger.read_commit(folder, "case0-r00")
    assert record is not None
    other = record.model_copy(update={"row_sha256": "0" * 64}).sealed()
    folder.commit("case0-r00").write_text(other.model_dump_json(indent=1))
    with pytest.raises(StoreError, match=r"plan 1 volumes otherwise .* case0-r00"):
        resample(begun, LoadFake())
    assert not folder.plan.exists()


def test_a_run_killed_between_digest_and_plan_goes_on(begun: ResampleConfig) -> None:
    folder = harm(begun, [(PLAN, GONE)])
    for name in ("commits", "volumes", "attempts"):
        shutil.rmtree(on_disk(folder.root) / name)
    folder.plan_digest.write_text(f"{'0' * 64}  plan.jsonl\n")  # as if planned by other code
    assert resample(begun, LoadFake()).summary.committed == 3


def test_verification_finds_a_name_twice_even_in_a_sealed_plan(begun: ResampleConfig) -> None:
    folder = harm(begun, [(PLAN, double)])
    seal_plan(folder)
    with pytest.raises(RunError, match="two volumes would have this name"):
        verify_run(VerifyJob(run=begun.out))


def test_commits_that_are_gone_are_named(begun: ResampleConfig) -> None:
    shutil.rmtree(on_disk(RunFolder(begun.out).commits))
    with pytest.raises(RunError, match="commits: missing, so that no volume of this run exists"):
        verify_run(VerifyJob(run=begun.out))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def test_a_run_of_version_0_1_0_is_verified_and_exported(old: Path) -> None:
    verdict = verify_run(VerifyJob(run=old))
    assert (verdict.planned, verdict.committed, verdict.sound) == (3, 2, 2)
    assert verdict.is_sound
    assert len(export_run(ExportJob(run=old))) == 2
    shard = RunFolder(old).volume("case0-r00") / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-3])
    assert not verify_run(VerifyJob(run=old)).is_sound
    assert verify_run(VerifyJob(run=old, repair=True)).repaired == ["case0-r00"]


def test_a_run_of_version_0_1_0_is_not_continued(old: Path, begun: ResampleConfig) -> None:
    config = begun.model_copy(update={"out": old, "informed": ("cross",)})
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"made by version 0\.1\.0 \(run format 1; .* with --out"):
        resample(config, LoadFake())
    for path, content in before.items():
        assert path.read_bytes() == content
