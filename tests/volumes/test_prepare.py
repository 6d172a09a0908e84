"""Preparing a case and going back: classes, contour, grid, intensities."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from engine.errors import VolumeError
from engine.volumes.heads.labels import HEAD_PRESETS
from engine.volumes.layouts import find_cases
from engine.volumes.nifti import read_image, read_labels, write_nifti
from engine.volumes.prepared.prepare import (
    ABDOMEN_CT,
    BRAIN_FLAIR,
    PRESETS,
    PrepareConfig,
    mask_to_native,
    prepare_case,
    to_native,
)
from engine.volumes.volume import Volume

Three = tuple[float, float, float]
RAS = np.diag([3.0, 3.0, 3.0, 1.0])
PLAIN = PrepareConfig(
    size_yx=(40, 40), label_map={2: 1, 7: 2, 9: 2}, class_names=("a", "b"), clip_hu=(-200, 300)
)


def grid(
    turn: Three = (0, 0, 0),
    order: tuple[int, int, int] = (0, 1, 2),
    signs: Three = (1, 1, 1),
    spacing: Three = (3.0, 3.0, 3.0),
) -> np.ndarray:
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine[:3, :3] = turned @ (np.eye(3)[:, order] * signs) @ np.diag(spacing)
    affine[:3, 3] = (-31.0, 12.5, 7.25)
    return affine


def scan(
    affine: np.ndarray = RAS, size: tuple[int, int, int] = (20, 24, 28), unit: str = "HU"
) -> tuple[Volume, Volume]:
    """Whole HU everywhere, three raw labels in a box off the centre."""
    rng = np.random.default_rng(5)
    image = rng.integers(-1000, 1200, size).astype(np.float32)
    labels = np.zeros(size, np.int32)
    labels[4:14, 5:18, 6:22] = 2
    labels[6:10, 8:12, 9:13] = 7
    labels[7:9, 13:15, 15:18] = 9
    return Volume(image, affine, "image.nii.gz"), Volume(labels, affine, "mask.nii.gz")


GRIDS = {
    "RAS": RAS,
    "LPS": grid(signs=(-1, -1, 1)),
    "sagittal": grid(order=(2, 0, 1), signs=(1, -1, -1)),
    "coronal": grid(order=(0, 2, 1), signs=(-1, 1, 1)),
    "oblique": grid(turn=(12, -7, 20), signs=(-1, -1, 1)),
    "oblique sagittal": grid(turn=(-15, 9, 4), order=(1, 2, 0), signs=(1, -1, 1)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_going_back_is_exact_where_nothing_was_interpolated(name: str, tmp_path: Path) -> None:
    """Own grid, orientation codes and intensities, through a file and all."""
    image, labels = scan(GRIDS[name])
    write_nifti(tmp_path / "mask.nii.gz", labels)
    labels = read_labels(tmp_path / "mask.nii.gz")
    case = prepare_case(image, labels, PLAIN, "case")
    assert case.image is not None
    back = to_native(case, case.image)
    write_nifti(tmp_path / "back.nii.gz", back)
    read = read_image(tmp_path / "back.nii.gz")
    assert np.array_equal(read.affine, labels.affine)
    assert read.header == labels.header
    # every voxel with a class came through the prepared grid: whole HU, clipped to the window
    inside = case.native_mask > 0
    assert np.array_equal(read.array[inside], np.clip(image.array, -200, 300)[inside])
    cropped = read.array != np.clip(image.array, -200, 300)
    assert (read.array[cropped] == case.intensity.background).all()
    assert np.array_equal(mask_to_native(case, case.mask).array, case.native_mask)


@given(
    turn=st.tuples(*[st.floats(-40, 40)] * 3),
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(*[st.floats(1.0, 5.0)] * 3),
)
def test_prepared_voxels_lie_where_they_lay(
    turn: Three, order: tuple[int, int, int], signs: Three, spacing: Three
) -> None:
    """On any grid: the brightest spot keeps its place in mm to within half a coarse voxel."""
    affine = grid(turn, order, signs, spacing)
    _, labels = scan(affine)
    image = np.full(labels.size_zyx, -200, np.float32)
    image[8:11, 10:13, 12:15] = 300
    config = PLAIN.model_copy(update={"size_yx": (96, 96), "spacing_mm_yx": 2.0})
    case = prepare_case(Volume(image, affine, "image"), labels, config, "case")
    assert case.image is not None
    place = case.affine @ [*_centre(case.image + 1), 1]
    assert np.allclose(place, affine @ [13, 11, 9, 1], atol=0.51 * max(*spacing, 2.0))
    directions = case.affine[:3, :3] / np.linalg.norm(case.affine[:3, :3], axis=0)
    assert (np.diag(directions) > 0).all()
    back = to_native(case, case.image)
    assert np.allclose(_centre(back.array + 200), [13, 11, 9], atol=0.51 * 5.0)
    assert back.affine is labels.affine


def _centre(weights: np.ndarray) -> list[float]:
    axes = np.meshgrid(*[np.arange(n) for n in weights.shape], indexing="ij")
    total = weights.sum()
    return [float((axis * weights).sum() / total) for axis in reversed(axes)]


@pytest.mark.parametrize("spacing_z", [None, 1.5, 4.0])
def test_smooth_images_survive_interpolation(spacing_z: float) -> None:
    affine = grid(signs=(-1, -1, 1), spacing=(2.0, 2.5, 2.0))
    z, y, x = np.mgrid[:20, :24, :28]
    smooth = (100 * np.sin(z / 4) + 60 * np.cos(y / 5) + 2 * x).astype(np.float32)
    _, labels = scan(affine)
    config = PLAIN.model_copy(
        update={"size_yx": (64, 64), "spacing_mm_yx": 1.5, "spacing_mm_z": spacing_z}
    )
    case = prepare_case(Volume(smooth, affine, "image"), labels, config, "case")
    assert case.image is not None
    back = to_native(case, case.image)
    inside = case.native_mask > 0
    error = np.abs(back.array - smooth)[inside]
    assert error.mean() < 5.0  # of an amplitude of 160
    returned = mask_to_native(case, case.mask).array
    overlap = 2 * ((returned > 0) & inside).sum() / ((returned > 0).sum() + inside.sum())
    assert overlap > 0.9


def test_labels_become_classes() -> None:
    image, labels = scan()
    case = prepare_case(image, labels, PLAIN, "case")
    assert case.native_mask.dtype == case.mask.dtype == np.uint8
    assert np.array_equal(case.native_mask == 1, labels.array == 2)
    assert np.array_equal(case.native_mask == 2, np.isin(labels.array, (7, 9)))
    assert case.class_names == ("a", "b")
    assert case.num_classes == 2
    assert case.size_zyx == (10, 40, 40)  # all z with foreground, the preset's pixels


def test_other_labels_become_background_only_when_told() -> None:
    image, labels = scan()
    labels.array[0, 0, 0] = 55
    with pytest.raises(VolumeError, match=r"labels \[55\] are outside the label map \[2, 7, 9\]"):
        prepare_case(image, labels, PLAIN, "case")
    message = PLAIN.model_copy(update={"other_labels": "background"})
    assert prepare_case(image, labels, message, "case").native_mask[0, 0, 0] == 0
    mapped = PLAIN.model_copy(update={"label_map": {**PLAIN.label_map, 55: 0}})
    assert prepare_case(image, labels, mapped, "case").native_mask[0, 0, 0] == 0


def test_foreground_is_centred_and_padding_is_black() -> None:
    image, labels = scan()
    case = prepare_case(image, labels, PLAIN, "case")
    assert case.image is not None
    rows = np.flatnonzero((case.mask > 0).any(axis=(0, 2)))
    columns = np.flatnonzero((case.mask > 0).any(axis=(0, 1)))
    assert abs((rows[0] + rows[-1]) / 2 - 19.5) <= 0.5
    assert abs((columns[0] + columns[-1]) / 2 - 19.5) <= 0.5
    assert (case.image[:, 0] == -1).all()
    assert (case.image[:, :, -1] == -1).all()
    assert case.image.min() == -1
    assert case.image.max() == 1


def test_margin_keeps_slices_around_the_foreground() -> None:
    image, labels = scan()
    wide = PLAIN.model_copy(update={"margin_slices": 5})
    assert prepare_case(image, labels, wide, "case").size_zyx[0] == 10 + 4 + 5  # 4 are left below


def test_mr_window_comes_from_the_foreground() -> None:
    image, labels = scan()
    config = PLAIN.model_copy(update={"modality": "mr", "mr_percentiles": (1.0, 99.0)})
    case = prepare_case(image, labels, config, "case")
    low, high = np.percentile(image.array[labels.array > 0], (1.0, 99.0))
    assert (case.intensity.low, case.intensity.high) == (low, high)
    assert case.intensity.unit == "a.u."


def test_mask_without_image_is_prepared() -> None:
    _, labels = scan()
    case = prepare_case(None, labels, PLAIN, "case")
    assert case.image is None
    assert case.intensity.unit == "HU"
    made = np.zeros(case.size_zyx, np.float32)
    assert to_native(case, made).array.max() == 50  # the window's middle


def test_brain_contour_is_a_class_of_its_own() -> None:
    image, labels = scan()
    brain = np.zeros(labels.size_zyx, np.int32)
    brain[2:18, 2:22, 3:25] = 1
    config = PLAIN.model_copy(update={"modality": "mr", "contour": "brain"})
    mask = Volume(brain, labels.affine, "brain.nii.gz")
    case = prepare_case(image, labels, config, "case", mask)
    assert case.class_names == ("a", "b", "brain")
    assert np.array_equal(case.native_mask == 3, (brain > 0) & (labels.array == 0))
    assert case.size_zyx[0] == 16


def test_image_of_another_case_is_refused_on_the_way_back() -> None:
    image, labels = scan()
    case = prepare_case(image, labels, PLAIN, "case")
    with pytest.raises(VolumeError, match="not on the prepared grid"):
        to_native(case, np.zeros((3, 40, 40), np.float32))
    with pytest.raises(VolumeError, match="not on the prepared grid"):
        mask_to_native(case, np.zeros((3, 40, 40), np.uint8))


def test_too_large_a_patient_is_told_which_preset_holds_him() -> None:
    size = (4, 60, 130)
    body = np.full(size, -1000, np.float32)
    body[:, 10:50, 2:128] = 30
    labels = np.zeros(size, np.int32)
    labels[:, 20:30, 40:60] = 5
    affine = np.diag([3.2, 3.2, 3.0, 1.0])
    image, mask = Volume(body, affine, "image"), Volume(labels, affine, "mask")
    with pytest.raises(VolumeError, match=r"mask: the foreground measures 128 x 403 mm .*wide"):
        prepare_case(image, mask, ABDOMEN_CT, "case")
    assert prepare_case(image, mask, PRESETS["abdomen_ct_wide"], "case").class_names[-1] == "body"


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("jobs/configs/prepare_*")))
def test_configuration_files_are_the_presets(path: Path) -> None:
    name = path.stem.removeprefix("prepare_")
    raw = yaml.safe_load(path.read_text())["prepare"]
    assert PrepareConfig.model_validate(raw) == {**PRESETS, **HEAD_PRESETS}[name]
    assert set(raw) == set(PrepareConfig.model_fields)


@pytest.mark.real
def test_real_abdomen_comes_back_exactly(real_data: Path) -> None:
    files = find_cases(real_data / "Dataset002_AbdomenCT")[0]
    assert files.image is not None
    image, labels = read_image(files.image), read_labels(files.mask)
    case = prepare_case(image, labels, ABDOMEN_CT, files.case_id)
    assert case.image is not None
    assert case.size_zyx == (112, 128, 128)
    back = to_native(case, case.image)
    assert np.array_equal(back.array, np.clip(image.array, -200, 300))  # nothing lies outside
    assert (back.header, back.size_zyx) == (labels.header, image.size_zyx)
    for raw, own in ABDOMEN_CT.label_map.items():
        assert (case.native_mask[labels.array == raw] == own).all()
    assert np.array_equal(mask_to_native(case, case.mask).array, case.native_mask)
    # liver is on the patient's right (RAS: high x), the spleen on the left; the body is closed
    x_of = [np.flatnonzero((case.mask == c).any(axis=(0, 1))).mean() for c in (1, 3)]
    assert x_of[0] > x_of[1] + 20
    share = (case.mask > 0).mean(axis=(1, 2))
    assert (share > 0.3).all()
    middle = case.mask[56] > 0
    assert middle[40:90, 64].all()


@pytest.mark.real
def test_real_brain_comes_back_to_its_own_grid(real_data: Path, tmp_path: Path) -> None:
    cases = find_cases(real_data / "Dataset001_BrainFLAIR")
    files = next(case for case in cases if case.split == "test")
    assert files.image is not None
    assert files.brain_mask is not None
    image, labels = read_image(files.image), read_labels(files.mask)
    brain = read_labels(files.brain_mask)
    case = prepare_case(image, labels, BRAIN_FLAIR, files.case_id, brain)
    assert case.image is not None
    assert np.allclose(np.linalg.norm(case.affine[:3, :3], axis=0), (1.5, 1.5, 3.0))
    assert np.array_equal(case.native_mask > 0, (brain.array > 0) | (labels.array > 0))
    write_nifti(tmp_path / "back.nii.gz", to_native(case, case.image))
    back = read_image(tmp_path / "back.nii.gz")
    assert np.array_equal(back.affine, labels.affine)
    assert back.header == labels.header
    inside = case.native_mask > 0
    want = np.clip(image.array, case.intensity.low, case.intensity.high)
    assert np.corrcoef(back.array[inside], want[inside])[0, 1] > 0.95
