"""Runs of rivals are runs like any other: planned, committed, verified, reported; no weights."""

from pathlib import Path

import numpy as np
import pytest

from engine.config import load_config
from engine.errors import ConfigError, RunError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.runs.record.records import Commit
from engine.sampling.rivals.methods import RIVALS
from tests.runs.fakes import make_data

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def rival(config: ResampleConfig) -> ResampleConfig:
    return config.model_copy(
        update={"weights": Path("nowhere"), "method": "painting", "num_pictured": 1}
    )


def test_a_rivals_run_is_made_verified_and_says_that_no_model_made_it(
    rival: ResampleConfig,
) -> None:
    assert isinstance(rival.out, Path)
    outcome = resample(rival)
    assert (outcome.summary.committed, outcome.summary.failed) == (3, 0)
    assert verify_run(VerifyJob(run=rival.out)).is_sound
    assert "painting by numbers, no model" in (rival.out / "report.html").read_text()
    identity = read_identity(RunFolder(rival.out).identity)
    assert identity.settings["method"] == "painting" and identity.weights == {}
    assert not resample(rival).worked  # finished


@pytest.mark.parametrize("method", sorted(RIVALS.keys() - {"redrawn"}))
def test_every_rival_makes_every_case(rival: ResampleConfig, method: str) -> None:
    outcome = resample(rival.model_copy(update={"method": method}))
    assert outcome.summary.failed == 0
    commit = _commit(rival, "case0-r00")
    assert commit.num_windows == 0 and commit.measures.number("seam_ratio") is None


def test_another_method_is_another_run(rival: ResampleConfig) -> None:
    resample(rival)
    with pytest.raises(RunError, match=r"settings\.method was painting, is now copy"):
        resample(rival.model_copy(update={"method": "copy"}))


def test_redrawn_comes_from_prepared_cases_of_the_same_names(
    rival: ResampleConfig, tmp_path: Path
) -> None:
    fewer = make_data(tmp_path / "fewer", num_cases=1)
    redrawn = rival.model_copy(update={"method": "redrawn", "redrawn": fewer})
    with pytest.raises(ConfigError, match="lacks case1"):
        resample(redrawn)
    other = make_data(tmp_path / "other")
    resample(redrawn.model_copy(update={"redrawn": other}))
    own = _commit(rival, "case0-r00").measures
    assert own.by_class("class_means") == pytest.approx(own.by_class("class_means_real"), abs=0.01)


def test_redrawn_without_its_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        load_config(ResampleConfig, None, ["--method", "redrawn"])
    with pytest.raises(ConfigError, match="drawn by a model"):
        load_config(ResampleConfig, None, ["--method", "copy", "--informed", "generated"])


def test_identity_of_a_changed_mask_fails_by_name(rival: ResampleConfig) -> None:
    augmented = rival.model_copy(update={"method": "identity", "augment": True})
    outcome = resample(augmented)
    assert outcome.summary.failed == 3
    failures = RunFolder(rival.out).failures
    assert isinstance(failures, Path)
    assert "its mask was changed" in failures.read_text()


def _commit(config: ResampleConfig, sample_id: str) -> Commit:
    commit = ledger.read_commit(RunFolder(config.out), sample_id)
    assert commit is not None and np.isfinite(commit.timings_s["sample"])
    return commit


def test_replicas_that_are_copies_are_warned_about(
    rival: ResampleConfig, caplog: pytest.LogCaptureFixture
) -> None:
    resample(rival.model_copy(update={"replicas": 2}))  # painting knows no seed
    assert "replicas of 3 of 3 masks that were looked at are near copies" in caplog.text
