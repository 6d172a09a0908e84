"""The tables as a whole: enough of them, and no two messages alike."""

from __future__ import annotations

import pytest

from tests.hostile import (
    test_finished_runs,
    test_make_phantoms,
    test_prepare_dataset,
    test_resample,
    test_sites_and_lesions,
)
from tests.hostile.room import Attack

TABLES: dict[str, dict[str, Attack]] = {
    "prepare_dataset": test_prepare_dataset.ATTACKS,
    "make_phantoms": test_make_phantoms.ATTACKS,
    "resample_abdomen": test_resample.ATTACKS,
    "resample_abdomen again": test_finished_runs.RESAMPLE,
    "resample_brain": test_resample.BRAIN,
    "harmonize_sites": test_sites_and_lesions.SITES,
    "edit_lesions": test_sites_and_lesions.EDITS,
    "verify_run": test_finished_runs.VERIFY,
    "export_volumes": test_finished_runs.EXPORT,
}


def test_there_are_attacks_enough() -> None:
    """Those on train_model are in tests/training/test_hostile_job.py, where its fixtures are."""
    assert sum(len(table) for table in TABLES.values()) >= 60


@pytest.mark.parametrize("job", TABLES)
def test_each_attack_of_a_job_has_a_message_of_its_own(job: str) -> None:
    expected = [case.expected for case in TABLES[job].values()]
    assert len(set(expected)) == len(expected)
    assert min(len(text) for text in expected) > 8
