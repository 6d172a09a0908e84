from pathlib import Path

import numpy as np
import pytest

from engine.errors import WeightsError
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import InformedSource, PlanRow
from engine.sampling.config import SamplingConfig
from engine.volumes.nifti import check_same_grid
from engine.volumes.prepared.prepare import to_native
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import hash_tree, read_ome_zarr
from models.weights.manifest import weights_sha256
from tests.runs.fakes import FakeSampler, LoadFake, make_data, make_weights, on_disk


@pytest.fixture
def task(tmp_path: Path) -> WorkerTask:
    RunFolder(tmp_path / "run").create()
    weights = make_weights(tmp_path / "weights")
    return WorkerTask(
        root=tmp_path / "run",
        data=make_data(tmp_path / "data", without_image=("case2",)),
        weights=weights,
        sampling=SamplingConfig(),
        settings_sha256="settings",
        weights_sha256=weights_sha256(weights),
        code="code",
        num_threads=1,
    )


def plan(case_id: str, informed: InformedSource = "cross") -> PlanRow:
    facts = {
        name: CaseFacts(12 + 2 * n, n < 2) for n, name in enumerate(("case0", "case1", "case2"))
    }
    return build_plan(facts, [case_id], informed, 1, 5)[0]


def run(task: WorkerTask, row: PlanRow, sampler: FakeSampler | None = None) -> dict[str, str]:
    return ResampleWorker(task, LoadFake(sampler or FakeSampler()))({"plan": row.model_dump_json()})


def test_a_row_becomes_a_committed_volume_on_the_masks_own_grid(task: WorkerTask) -> None:
    row = plan("case1", "own")
    assert run(task, row)["status"] == "committed"
    folder = RunFolder(task.root)
    commit = ledger.read_commit(folder, row.sample_id)
    assert commit is not None
    assert hash_tree(folder.volume(row.sample_id)) == commit.files
    image, mask, attributes = read_ome_zarr(folder.volume(row.sample_id))
    case = read_prepared(task.data / "case1.zarr")
    check_same_grid(image, mask)
    assert np.array_equal(image.affine, case.native.affine)
    assert np.array_equal(mask.array, case.native_mask)
    assert image.header == case.native.header
    assert attributes["synthetic"] is True
    assert attributes["intensity_unit"] == "HU"
    window = attributes["intensity_window"]
    assert (window["low"], window["high"], window["unit"]) == (-200.0, 300.0, "HU")
    assert "bone and metal 300" in window["note"]
    assert attributes["provenance"]["seed"] == 5
    assert attributes["provenance"]["weights_sha256"] == task.weights_sha256
    assert (commit.joins, commit.num_windows, commit.target_z) == ((5, 10), 3, 7)
    assert image.size_zyx == commit.size_zyx == (14, 26, 28)
    assert image.array.min() >= -200.0
    assert image.array.max() <= 300.0


def test_measures_are_taken_beside_the_real_volume(task: WorkerTask) -> None:
    for name in ("case0", "case2"):
        run(task, plan(name))
    with_image, without = (
        ledger.read_commit(RunFolder(task.root), f"{name}-r00") for name in ("case0", "case2")
    )
    assert with_image is not None
    assert without is not None
    real = with_image.measures.by_class("class_means_real")
    assert real["liver"] == pytest.approx(110, abs=3)
    assert real["spleen"] == pytest.approx(80, abs=3)
    assert without.measures.by_class("class_means_real") == {}
    assert without.measures.number("roughness_real") is None
    assert without.measures.number("roughness") is not None


def test_the_same_row_gives_the_same_bytes_on_every_attempt(
    task: WorkerTask, tmp_path: Path
) -> None:
    row = plan("case0")
    run(task, row)
    folder = RunFolder(task.root)
    first = ledger.read_commit(folder, row.sample_id)
    folder.commit(row.sample_id).unlink()
    run(task, row)
    again = ledger.read_commit(folder, row.sample_id)
    assert first is not None
    assert again is not None
    assert (again.attempt, again.files) == (2, first.files)


def test_errors_become_status_rows_and_end_in_quarantine(task: WorkerTask) -> None:
    row = plan("case0")
    bad = FakeSampler(fail=frozenset({row.sample_id}))
    for _ in range(3):
        status = run(task, row, bad)
        assert status["status"] == "failed"
        assert "told to fail" in status["message"]
    assert run(task, row)["status"] == "quarantined"
    assert bad.seen == [row.sample_id] * 3
    assert not list(RunFolder(task.root).staging.iterdir())


def test_voxels_that_are_not_finite_are_refused(task: WorkerTask) -> None:
    row = plan("case0")
    status = run(task, row, FakeSampler(nan=frozenset({row.sample_id})))
    assert status["status"] == "failed"
    assert "not finite" in status["message"]
    assert ledger.read_commit(RunFolder(task.root), row.sample_id) is None


def test_a_damaged_case_fails_alone(task: WorkerTask) -> None:
    shard = next(
        p
        for p in (on_disk(task.data) / "case0.zarr" / "mask").rglob("*")
        if p.is_file() and p.name == "0"
    )
    shard.write_bytes(shard.read_bytes()[:-4] + b"torn")
    assert "damaged" in run(task, plan("case0", "own"))["message"]
    assert run(task, plan("case1", "own"))["status"] == "committed"


def test_a_committed_row_is_not_made_again(task: WorkerTask) -> None:
    row, sampler = plan("case0"), FakeSampler()
    for _ in range(2):
        assert run(task, row, sampler)["status"] == "committed"
    assert sampler.seen == [row.sample_id]


def test_the_native_volume_is_the_sampled_one(task: WorkerTask) -> None:
    """What `to_native` gives for the fake's own image is what lies on disk."""
    row = plan("case0", "own")
    run(task, row)
    case = read_prepared(task.data / "case0.zarr")
    assert case.image is not None
    image, _, _ = read_ome_zarr(RunFolder(task.root).volume(row.sample_id))
    smooth = to_native(case, np.broadcast_to(0.6 * case.image[row.informed_z], case.image.shape))
    body = case.native_mask > 0
    assert np.corrcoef(image.array[body], smooth.array[body])[0, 1] > 0.5


def test_a_worker_with_other_weights_refuses_to_work(task: WorkerTask) -> None:
    """Its machine has another copy, or somebody exchanged the file after planning."""

    def exchanged(weights: Path, *_: object) -> FakeSampler:
        path = weights / "denoiser.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        return FakeSampler()

    with pytest.raises(WeightsError, match="other weights than the run was planned with"):
        ResampleWorker(task, exchanged)
