"""What a plan multiplies and what the gates do, over whole jobs with a fake sampler and no Ray."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.resample_brain as brain_job
from engine.config import load_config
from engine.errors import (
    ConfigError,
    RunError,
    SamplingError,
    StoreError,
    StoreUnreachableError,
    VolumeError,
    WeightsError,
)
from engine.evaluation.outlines import Outline, fit_into, organs_outside, outline_disagreement
from engine.runs.jobs import finishing
from engine.runs.jobs.resample import BrainConfig, ResampleConfig, resample, resample_brain
from engine.runs.making.quality import QualityConfig
from engine.runs.planning.gate import GateConfig, as_change
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.runs.record.plan import read_plan
from engine.sampling.request import SampledVolume, SampleRequest
from engine.volumes.mask_changes import apply_change
from engine.volumes.nifti import write_nifti
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.store import read_ome_zarr
from engine.volumes.volume import Volume
from tests.runs.fakes import FakeSampler, LoadFake, make_case, make_data

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def small(config: ResampleConfig) -> ResampleConfig:
    return config.model_copy(update={"num_pictured": 1})


def made(config: ResampleConfig, **update: Any) -> list[str]:
    """Samples of a finished job."""
    outcome = resample(config.model_copy(update=update), LoadFake())
    assert outcome.summary.failed == 0
    return [v.sample_id for v in outcome.summary.volumes]


def test_masks_times_sources_times_augmentations_times_replicas(small: ResampleConfig) -> None:
    names = made(
        small,
        cases=("case0", "case1"),
        informed=("own", "cross", "fixed"),
        slices=("case2:3",),
        augment=True,
        augmentations=2,
        replicas=2,
    )
    assert len(names) == len(set(names)) == 2 * 3 * 2 * 2
    assert "case1-fixed-a01-r01" in names
    rows = {row.sample_id: row for row in read_plan(RunFolder(small.out).plan)}
    for row in rows.values():
        (change,) = row.changes
        assert any(change.rotate_deg_zyx)
        assert (row.informed_case == row.case_id) == (row.informed == "own")
    assert rows["case0-fixed-a00-r00"].informed_z == 3


def test_a_plan_that_was_changed_by_hand_is_refused(small: ResampleConfig) -> None:
    made(small)
    plan = RunFolder(small.out).plan
    whole = plan.read_text()
    plan.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # one row less, and valid
    with pytest.raises(StoreError, match=r"plan.jsonl: changed after it was planned .* put back"):
        made(small)
    plan.write_text(whole)
    assert len(made(small)) == 3


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            StoreUnreachableError("s3://b/r: does not answer; check"),
            StoreUnreachableError,
            "^s3://",
        ),
        (
            OSError(28, "No space left on device"),
            RunError,
            "No space left.*what is committed stays",
        ),
    ],
)
def test_a_report_that_cannot_be_written_says_why_once(
    small: ResampleConfig,
    error: Exception,
    kind: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(finishing, "write_report", failing)
    with pytest.raises(kind, match=message):
        made(small)


def test_an_augmented_mask_is_the_one_that_is_stored(small: ResampleConfig) -> None:
    made(small, augment=True)
    folder = RunFolder(small.out)
    row = read_plan(folder.plan)[1]
    assert small.data is not None
    case = read_prepared(small.data / row.mask_source)
    expected = apply_change(case.mask, row.changes[0], (5.0, 3.0, 3.0))
    _, mask, attributes = read_ome_zarr(folder.volume(row.sample_id))
    assert (mask.array != case.native_mask).any()
    overlap = (mask.array == 1).sum() / (expected == 1).sum()
    assert overlap == pytest.approx(1.0, abs=0.1)
    assert attributes["provenance"]["changes"][0] == row.changes[0].model_dump(mode="json")
    commit = ledger.read_commit(folder, row.sample_id)
    assert commit is not None
    assert commit.measures.number("ms_ssim") is None, "another mask is no likeness to claim"


def test_one_patient_with_two_cases_is_not_another_patient(tmp_path: Path) -> None:
    from engine.runs.planning.rows import CaseFacts, PlanSettings, plan_rows

    facts = {
        f"p{p}_{visit}": CaseFacts(10, True, patient=f"p{p}") for p in range(3) for visit in "ab"
    }
    rows = list(plan_rows(facts, list(facts), PlanSettings(("cross",), replicas=20)))
    assert all(row.informed_case[:2] != row.case_id[:2] for row in rows)
    asked = PlanSettings(("cross",), replicas=40, same_patient=True)
    rows = list(plan_rows(facts, list(facts), asked))
    assert any(row.informed_case[:2] == row.case_id[:2] for row in rows)
    assert all(row.informed_case != row.case_id for row in rows)
    with pytest.raises(SamplingError, match="no other case has an image"):
        list(plan_rows({k: v for k, v in facts.items() if k[:2] == "p0"}, ["p0_a"], PlanSettings()))


def test_patients_are_named_by_a_pattern(small: ResampleConfig) -> None:
    with pytest.raises(SamplingError, match="of another patient"):
        made(small, informed=("cross",), patient_pattern="^(case)")
    with pytest.raises(ConfigError, match="does not match the case id 'case0'"):
        made(small, informed=("cross",), patient_pattern="^pat([0-9]+)")


def test_a_file_can_be_the_informed_slice(small: ResampleConfig, tmp_path: Path) -> None:
    image, _ = make_case(7)
    path = tmp_path / "mine.nii.gz"
    write_nifti(path, image)
    names = made(small, informed=("fixed",), slices=(f"{path}:4",))
    assert len(names) == 3
    row = read_plan(RunFolder(small.out).plan)[0]
    assert (row.informed_case, row.informed_z) == ("mine", 4)
    stored = read_prepared(RunFolder(small.out).root / "informed" / "mine.zarr")
    assert stored.image is not None
    assert (stored.image[4] > -0.9).mean() > 0.2
    write_nifti(path, Volume(np.abs(image.array), image.affine, "mr"))
    with pytest.raises(VolumeError, match="no CT in HU"):
        made(small, informed=("fixed",), slices=(str(path),))
    for wrong, message in (("nobody:3", "neither a case"), ("case0:99", "slices 0 to 11")):
        with pytest.raises(ConfigError, match=message):
            made(small, informed=("fixed",), slices=(wrong,))


def test_run_yaml_holds_the_sampling_that_the_weights_ask_for(small: ResampleConfig) -> None:
    made(small)
    sampling = read_identity(RunFolder(small.out).identity).settings["sampling"]
    assert (sampling["solver"], sampling["num_inference_steps"]) == ("dpmpp_2m", 5)
    path = small.weights / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "solver": "ddim"}))
    with pytest.raises(RunError, match=r"settings\.sampling\.solver was dpmpp_2m, is now ddim"):
        made(small)


def test_a_generated_slice_needs_a_position_model(small: ResampleConfig) -> None:
    with pytest.raises(WeightsError, match="needs a position model, and these weights have none"):
        made(small, informed=("generated",))
    assert not RunFolder(small.out).plan.exists()


@pytest.mark.parametrize("policy", ["warn", "redraw", "edit", "skip", "off"])
def test_the_gate_does_what_it_is_told(small: ResampleConfig, policy: str) -> None:
    assert small.data is not None
    path = small.data / "case2.zarr"
    case = read_prepared(path)  # a slim patient: everybody's organs would hang over
    y, x = np.mgrid[: case.mask.shape[1], : case.mask.shape[2]]
    slim = ((y - 16) ** 2 + (x - 16) ** 2 < 49)[None] & (case.mask > 0)
    write_prepared(path, replace(case, mask=np.where(slim, case.mask, 0).astype(np.uint8)))
    gate = GateConfig(policy=policy, num_draws=8)
    outcome = resample(small.model_copy(update={"informed": ("cross",), "gate": gate}), LoadFake())
    rows = read_plan(RunFolder(small.out).plan)
    verdicts = [row.gate.verdict if row.gate else "unchecked" for row in rows]
    odd = {"warn": "warned", "redraw": "warned", "edit": "edited", "skip": "skipped"}
    if policy == "off":
        assert set(verdicts) == {"unchecked"}
    else:
        assert set(verdicts) <= {"fits", "redrawn", odd[policy]}
        assert verdicts[2] == odd[policy], "the slim patient fits nobody"
        assert ("redrawn" in verdicts) <= (policy == "redraw")
    skipped = verdicts.count("skipped")
    assert outcome.summary.skipped == skipped
    assert outcome.summary.planned == outcome.summary.committed == len(rows) - skipped
    for row, verdict in zip(rows, verdicts, strict=True):
        assert [c.purpose for c in row.changes] == (["fit"] if verdict == "edited" else [])


def test_a_mask_is_fitted_into_the_outline() -> None:
    y, x = np.mgrid[:40, :48]
    mask = ((y - 19) / 15) ** 2 + ((x - 23) / 18) ** 2 < 1
    small = ((y - 22) / 12) ** 2 + ((x - 25) / 13) ** 2 < 1
    spacing = (2.0, 2.0)
    organs = mask & (y < 8)
    assert outline_disagreement(mask, small) > 0.35
    assert organs_outside(organs, small) == 1.0
    change = as_change(fit_into(Outline(mask, organs, spacing), Outline(small, organs, spacing)))
    volume = np.repeat(mask[None].astype(np.uint8), 3, axis=0)
    fitted = apply_change(volume, change, (5.0, 2.0, 2.0))[1] > 0
    assert outline_disagreement(fitted, small) < 0.1


class Flat(FakeSampler):
    """Grey volumes for its first tries of every sample."""

    def sample(self, request: SampleRequest, on_window: Any = None) -> SampledVolume:
        volume = super().sample(request, on_window)
        tries = self.seen.count(request.sample_id)
        if tries > 2 and "case1" in request.sample_id:
            return volume
        return SampledVolume(volume.image * 0.001, volume.joins, volume.num_windows, {})


@pytest.mark.parametrize("policy", ["mark", "retry", "quarantine", "off"])
def test_the_quality_gate_does_what_it_is_told(small: ResampleConfig, policy: str) -> None:
    quality = QualityConfig(policy=policy)
    config = small.model_copy(update={"quality": quality})
    summary = resample(config, LoadFake(Flat())).summary
    folder = RunFolder(small.out)
    commits = ledger.read_commits(folder, [f"case{n}-r00" for n in range(3)])
    if policy == "quarantine":
        assert (summary.committed, summary.quarantined) == (0, 3)
        line = json.loads(folder.failures.read_text().splitlines()[0])
        assert "refused by the quality gate" in line["cause"]
        assert line["case"] == line["sample_id"].removesuffix("-r00")
        assert "quality.policy mark" in line["remedy"]
        return
    assert summary.committed == 3
    flags = {name: commit.quality.flags for name, commit in commits.items()}
    if policy == "off":
        assert not any(flags.values())
    elif policy == "mark":
        assert all("of the intensity range" in f[0] for f in flags.values())
        assert summary.flagged == 3
        assert "of the intensity range" in folder.report.read_text()
    else:
        assert [bool(f) for f in flags.values()] == [True, False, True]
        assert [c.quality.retries for c in commits.values()] == [2, 2, 2]
        assert len({c.seed for c in commits.values()}) == 3, "the next seed is the sample's own"


def test_weights_of_another_modality_are_refused(small: ResampleConfig) -> None:
    path = small.weights / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "modality": "mr"}))
    with pytest.raises(WeightsError, match=r"prepared as ct, but the weights .* trained on mr"):
        made(small)


def test_brains_need_data_with_a_brain_contour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_config(BrainConfig, brain_job.DEFAULTS) == BrainConfig()
    with pytest.raises(ConfigError, match="without the brain contour"):
        resample_brain(BrainConfig(data=make_data(tmp_path / "data")), LoadFake())
    assert brain_job.main([]) == 2
    assert "no data; give --data" in capsys.readouterr().err
