"""Prepared data that changes after a run was planned: refused by name, made when it is put back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.jobs.job import Outcome
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import read_plan
from engine.volumes.nifti import write_nifti
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.prepared.store import read_prepared_header, write_prepared
from tests.runs.fakes import PREPARE, FakeSampler, LoadFake, make_case, on_disk

NAME = "case1-r00"
FAILING = FakeSampler(fail=frozenset({NAME}))
Edit = Callable[[dict[str, Any]], object]
pytestmark = pytest.mark.usefixtures("no_ray")


def run(config: ResampleConfig, sampler: FakeSampler | None = None) -> Outcome:
    return resample(config, LoadFake(sampler or FakeSampler()))


def other_mask(path: Path) -> None:
    """Another patient's mask, properly prepared under the same id."""
    image, labels = make_case(1)
    labels.array[:] = labels.array[:, ::-1].copy()
    write_prepared(path, prepare_case(image, labels, PREPARE, "case1"))


def other_image(path: Path) -> None:
    image, labels = make_case(1)
    image.array[:] += 40
    write_prepared(path, prepare_case(image, labels, PREPARE, "case1"))


def attributes(edit: Edit) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        raw = json.loads((path / "zarr.json").read_text())
        edit(raw["attributes"])
        (path / "zarr.json").write_text(json.dumps(raw))

    return harm


HARMS: dict[str, Callable[[Path], None]] = {
    "mask": other_mask,
    "image": other_image,
    "window": attributes(lambda a: a["intensity"].update(high=2 * a["intensity"]["high"])),
    "mirrored": attributes(
        lambda a: a["native"]["affine"].__setitem__(0, [-v for v in a["native"]["affine"][0]])
    ),
    "spacing": attributes(lambda a: a["affine"][2].__setitem__(2, 4.0)),
    "classes": attributes(lambda a: a["class_names"].reverse()),
    "header": attributes(lambda a: a["native"].update(header="AAAA")),
    "contour": attributes(lambda a: a.update(contour=None)),
}


@pytest.mark.parametrize("name", ["mask", "window", "mirrored"])
def test_a_case_that_changed_is_refused_until_it_is_put_back(
    config: ResampleConfig, name: str
) -> None:
    config = config.model_copy(update={"num_pictured": 0})
    assert run(config, FAILING).summary.committed == 2
    folder = RunFolder(config.out)
    assert config.data is not None
    path = Path(str(config.data)) / "case1.zarr"
    shutil.copytree(path, on_disk(config.out) / "kept.zarr")
    HARMS[name](path)
    for _ in range(ledger.MAX_FAILURES + 1):
        sampler = FakeSampler()
        summary = run(config, sampler).summary
        assert (summary.committed, summary.failed, summary.quarantined) == (2, 1, 0)
        assert not sampler.seen, "refused before it is sampled"
    message = ledger.read_attempts(folder, NAME)[-1].error or ""
    assert "case1.zarr: changed after the run was planned" in message
    assert "put it back as it was" in message
    shutil.rmtree(path)
    (on_disk(config.out) / "kept.zarr").rename(path)
    assert run(config).summary.committed == 3
    assert verify_run(VerifyJob(run=config.out)).is_sound


def test_the_slice_of_another_case_counts_as_well(config: ResampleConfig) -> None:
    """Case 0 takes its slice from case 1, which changes."""
    config = config.model_copy(
        update={"informed": ("fixed",), "slices": ("case1:3",), "num_pictured": 0}
    )
    run(config, FakeSampler(fail=frozenset({"case0-r00"})))
    other_image(Path(str(config.data)) / "case1.zarr")
    assert run(config).summary.failed == 1
    message = ledger.read_attempts(RunFolder(config.out), "case0-r00")[-1].error or ""
    assert "case1.zarr: changed after" in message


def test_a_slice_file_is_kept_as_it_was_planned(config: ResampleConfig, tmp_path: Path) -> None:
    image, _ = make_case(2)
    write_nifti(tmp_path / "ref.nii.gz", image)
    config = config.model_copy(
        update={
            "informed": ("fixed",),
            "slices": (f"{tmp_path / 'ref.nii.gz'}:4",),
            "num_pictured": 0,
        }
    )
    run(config, FAILING)
    kept = on_disk(config.out) / "informed" / "ref.zarr"
    (row, *_) = read_plan(RunFolder(config.out).plan)
    assert row.informed_sha256 == read_prepared_header(kept).digest
    HARMS["window"](kept)
    assert run(config).summary.failed == 1
    message = ledger.read_attempts(RunFolder(config.out), NAME)[-1].error or ""
    assert "ref.zarr: changed after" in message


def test_the_digest_covers_all_of_a_case(tmp_path: Path) -> None:
    """Written twice the same; any array or number that differs shows."""
    path = tmp_path / "case1.zarr"
    image, labels = make_case(1)
    case = prepare_case(image, labels, PREPARE, "case1")
    digests = set()
    for _ in range(2):
        write_prepared(path, case)
        digests.add(read_prepared_header(path).digest)
    assert len(digests) == 1
    for name, harm in HARMS.items():
        write_prepared(path, case)
        harm(path)
        digest = read_prepared_header(path).digest
        assert digest not in digests, name
        digests.add(digest)
