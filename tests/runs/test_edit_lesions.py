"""Counterfactuals: the mask changes where it was asked to, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jobs.edit_lesions as job
from engine.errors import ConfigError, RunError, SamplingError, VolumeError
from engine.runs.jobs.edit_lesions import EditConfig, edit_lesions
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import read_plan
from engine.volumes.nifti import write_nifti
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import read_ome_zarr
from engine.volumes.volume import Volume
from tests.runs.fakes import FakeSampler, LoadFake, make_case, make_data, make_weights, on_disk

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def config(tmp_path: Path) -> EditConfig:
    return EditConfig(
        data=make_data(tmp_path / "data"),
        weights=make_weights(tmp_path / "weights"),
        out=tmp_path / "run",
        cases=("case1",),
        classes=("spleen",),
        num_pictured=1,
    )


def mask_of(config: EditConfig, name: str) -> np.ndarray:
    _, mask, _ = read_ome_zarr(RunFolder(config.out).volume(name))
    return mask.array


def test_a_lesion_moves_by_millimetres_and_the_rest_stays(config: EditConfig) -> None:
    moved = config.model_copy(update={"shift_mm_zyx": (0.0, 0.0, -6.0), "keep_original": True})
    assert edit_lesions(moved, LoadFake()).summary.committed == 2
    before, after = mask_of(config, "case1-original-r00"), mask_of(config, "case1-edit-r00")
    assert config.data is not None
    np.testing.assert_array_equal(before, read_prepared(config.data / "case1.zarr").native_mask)
    # the native grid is LPS: 6 mm towards the left are two voxels of 3 mm forward in x
    shift = np.argwhere(after == 2).mean(axis=0) - np.argwhere(before == 2).mean(axis=0)
    np.testing.assert_allclose(shift, (0, 0, 2), atol=0.2)
    np.testing.assert_array_equal(after > 0, before > 0)
    np.testing.assert_array_equal(after == 1, (before == 1) & (after != 2))


def test_a_removed_lesion_is_healed(config: EditConfig) -> None:
    edit_lesions(config.model_copy(update={"remove": True}), LoadFake())
    after = mask_of(config, "case1-edit-r00")
    assert not (after == 2).any()
    assert config.data is not None
    before = read_prepared(config.data / "case1.zarr").native_mask
    np.testing.assert_array_equal(after > 0, before > 0)


def test_the_slice_shows_neither_the_old_lesion_nor_the_new(config: EditConfig) -> None:
    edit_lesions(config.model_copy(update={"remove": True, "classes": ("spleen",)}), LoadFake())
    (row,) = read_plan(RunFolder(config.out).plan)
    assert config.data is not None
    case = read_prepared(config.data / "case1.zarr")
    assert row.informed_case == "case1"
    assert not (case.mask[row.informed_z] == 2).any()


def test_a_drawn_mask_that_changes_after_planning_is_refused(
    config: EditConfig, tmp_path: Path
) -> None:
    _, labels = make_case(1)
    path = tmp_path / "drawn.nii.gz"
    drawn = labels.array.astype(np.uint8)
    write_nifti(path, Volume(drawn, labels.affine, "drawn"))
    config = config.model_copy(update={"drawn": path, "num_pictured": 0})
    name = "case1-edit-r00"
    edit_lesions(config, LoadFake(FakeSampler(fail=frozenset({name}))))
    kept = on_disk(config.out) / "masks" / "case1.nii.gz"
    write_nifti(kept, Volume(drawn[:, ::-1].copy(), labels.affine, "drawn"))
    assert edit_lesions(config, LoadFake()).summary.failed == 1
    message = ledger.read_attempts(RunFolder(config.out), name)[-1].error or ""
    assert "masks/case1.nii.gz: changed after the run was planned" in message


def test_a_drawn_mask_is_taken_as_it_is(config: EditConfig, tmp_path: Path) -> None:
    _, labels = make_case(1)
    drawn = np.where(labels.array == 2, 0, labels.array)
    drawn[5:8, 10:14, 10:14] = 2
    path = tmp_path / "drawn.nii.gz"
    write_nifti(path, Volume(drawn.astype(np.uint8), labels.affine, "drawn"))
    edit_lesions(config.model_copy(update={"drawn": path}), LoadFake())
    after = mask_of(config, "case1-edit-r00")
    np.testing.assert_array_equal(np.where(after == 3, 0, after), drawn)
    changed = config.model_copy(update={"drawn": path})
    write_nifti(path, Volume(np.zeros_like(drawn, dtype=np.uint8), labels.affine, "drawn"))
    with pytest.raises(VolumeError, match="empty mask"):
        edit_lesions(changed, LoadFake())
    drawn[0, 13, 13] = 1
    write_nifti(path, Volume(drawn.astype(np.uint8), labels.affine, "drawn"))
    with pytest.raises(RunError, match="drawn mask was"):
        edit_lesions(changed, LoadFake())
    write_nifti(path, Volume(drawn[1:].astype(np.uint8), labels.affine, "drawn"))
    with pytest.raises(VolumeError, match="regrid the mask"):
        edit_lesions(changed, LoadFake())


@pytest.mark.parametrize(
    ("update", "kind", "message"),
    [
        ({}, ConfigError, "no edit"),
        ({"remove": True, "classes": ("tumour",)}, ConfigError, r"\['tumour'\].* liver, spleen"),
        ({"remove": True, "component": 9}, SamplingError, "the mask has 1"),
        ({"remove": True, "data": None}, ConfigError, "no data"),
        ({"remove": True, "cases": ("nobody",)}, RunError, r"\['nobody'\]"),
    ],
)
def test_impossible_edits_are_refused(
    config: EditConfig, update: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        edit_lesions(config.model_copy(update=update), LoadFake())
    assert not RunFolder(config.out).plan.exists()


def test_two_edits_at_once_are_one_too_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("remove: true\nscale: 2.0\n")
    assert job.main(["--config", str(path)]) == 2
    assert "give one edit" in capsys.readouterr().err


def drawing(tmp_path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> Path:
    _, labels = make_case(1)
    path = tmp_path / "lesion.nii.gz"
    write_nifti(path, Volume(edit(labels.array).astype(np.uint8), labels.affine, "drawn"))
    return path


def blob(labels: np.ndarray) -> np.ndarray:
    """A lesion alone, with a drawing tool's label 1."""
    alone = np.zeros_like(labels)
    alone[5:8, 10:13, 10:13] = 1
    return alone


def corner(labels: np.ndarray) -> np.ndarray:
    outside = np.zeros_like(labels)
    outside[:, 0, 0] = 1
    return outside


def test_a_lesion_drawn_alone_is_refused_and_what_would_vanish_is_named(
    config: EditConfig, tmp_path: Path
) -> None:
    alone = config.model_copy(update={"drawn": drawing(tmp_path, blob), "classes": None})
    with pytest.raises(
        VolumeError,
        match=r"part of a mask: spleen of case1 would vanish.*raw label 1 is liver.*--drawn-class",
    ):
        edit_lesions(alone, LoadFake())
    assert not RunFolder(config.out).plan.exists()


def test_drawn_class_is_laid_over_the_cases_own_mask(config: EditConfig, tmp_path: Path) -> None:
    path = drawing(tmp_path, blob)
    message = config.model_copy(update={"drawn": path, "drawn_class": "spleen", "classes": None})
    edit_lesions(message, LoadFake())
    after = mask_of(config, "case1-edit-r00")
    assert config.data is not None
    own = read_prepared(config.data / "case1.zarr").native_mask
    _, labels = make_case(1)
    drawn = blob(labels.array) > 0
    np.testing.assert_array_equal(after, np.where(drawn, 2, own))
    (row,) = read_plan(RunFolder(config.out).plan)
    assert not drawn[row.informed_z].any(), "the slice shows no drawn lesion"


@pytest.mark.parametrize(
    ("edit", "update", "kind", "message"),
    [
        (blob, {"drawn_class": "tumour"}, ConfigError, "'tumour' is not in the data; it has liver"),
        (lambda a: a, {"drawn_class": "liver"}, VolumeError, r"labels \[1, 2\], and --drawn-cl"),
        (lambda a: a * 0, {"drawn_class": "liver"}, VolumeError, "nothing is drawn"),
        (corner, {"drawn_class": "liver"}, VolumeError, "outside the body"),
        (lambda a: blob(a) * 9, {}, VolumeError, r"outside the label map.*--drawn-class NAME"),
        (lambda a: blob(a) * 9, {"drawn_labels": "classes"}, VolumeError, "not class numbers 1"),
    ],
)
def test_drawings_that_cannot_be_meant_are_refused(
    config: EditConfig,
    tmp_path: Path,
    edit: Callable[[np.ndarray], np.ndarray],
    update: dict[str, object],
    kind: type[Exception],
    message: str,
) -> None:
    drawn = {"drawn": drawing(tmp_path, edit), "classes": None, **update}
    with pytest.raises(kind, match=message):
        edit_lesions(config.model_copy(update=drawn), LoadFake())


def test_a_whole_mask_may_be_said_to_be_one(config: EditConfig, tmp_path: Path) -> None:
    path = drawing(tmp_path, blob)
    whole = config.model_copy(update={"drawn": path, "drawn_whole": True, "classes": None})
    edit_lesions(whole, LoadFake())
    _, labels = make_case(1)
    after = mask_of(config, "case1-edit-r00")
    np.testing.assert_array_equal(np.where(after == 3, 0, after), blob(labels.array))


def test_what_says_how_a_drawing_is_meant_needs_one() -> None:
    with pytest.raises(ValueError, match="say what drawn is"):
        EditConfig(drawn_class="liver", remove=True)
    with pytest.raises(ValueError, match="one structure"):
        EditConfig(drawn=Path("a.nii.gz"), cases=("a",), drawn_class="b", drawn_whole=True)
