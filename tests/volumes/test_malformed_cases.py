"""Files that are sound but no case together, and settings that no case could fit, are refused."""

from typing import Any

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.nifti import check_same_grid
from engine.volumes.prepared.prepare import PrepareConfig, prepare_case
from engine.volumes.volume import Volume

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def volume(array: np.ndarray, affine: object = AFFINE, name: str = "image.nii.gz") -> Volume:
    return Volume(array, np.asarray(affine, np.float64), name)


def ball(value: int = 1, size: int = 24) -> np.ndarray:
    z, y, x = np.ogrid[:size, :size, :size]
    centre = (size - 1) / 2
    return np.where((z - centre) ** 2 + (y - centre) ** 2 + (x - centre) ** 2 < 49, value, 0)


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(VolumeError, match=r"mask.nii.gz: mask of 24 x 24 x 23.*regrid the mask"):
        check_same_grid(volume(ball()), volume(ball()[:, :, 1:], name="mask.nii.gz"))


def test_mask_on_another_affine_is_refused() -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    with pytest.raises(VolumeError, match=r"mask.nii.gz: the affine differs .* by up to 1 mm"):
        check_same_grid(volume(ball()), volume(ball(), moved, "mask.nii.gz"))


def test_flipped_mask_is_refused() -> None:
    flipped = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    with pytest.raises(VolumeError, match="the affine differs"):
        check_same_grid(volume(ball()), volume(ball(), flipped, "mask.nii.gz"))


def test_rounded_affine_is_the_same_grid() -> None:
    check_same_grid(volume(ball()), volume(ball(), AFFINE + 1e-4, "mask.nii.gz"))


NOISE = np.random.default_rng(0).normal(100, 20, (24, 24, 24)).astype(np.float32)
CT = PrepareConfig(size_yx=(32, 32), spacing_mm_yx=2.0)
MR = PrepareConfig(modality="mr", size_yx=(32, 32), spacing_mm_yx=2.0)

CASES: dict[str, tuple[Any, ...]] = {
    "label outside the map": (NOISE, ball(9), CT, r"labels \[9\] are outside the label map"),
    "empty mask": (NOISE, ball(0), CT, "empty mask"),
    "no class in it": (
        NOISE,
        ball(9),
        CT.model_copy(update={"other_labels": "background"}),
        r"empty mask, .*found \[0, 9\]",
    ),
    "constant MR": (np.full_like(NOISE, 7), ball(), MR, "constant image, every voxel is 7"),
    "constant foreground": (
        np.where(ball() > 0, 5.0, NOISE).astype(np.float32),
        ball(),
        MR,
        "foreground's intensities are all 5",
    ),
    "preset too small": (
        NOISE,
        ball(),
        CT.model_copy(update={"size_yx": (8, 8)}),
        r"foreground measures 28 x 28 mm .y x., more than 8 x 8 pixels of 2 mm hold; use spacing",
    ),
    "contour without image": (
        None,
        ball(),
        CT.model_copy(update={"contour": "body"}),
        "contour body needs the case's image",
    ),
    "brain without image or mask": (
        None,
        ball(),
        MR.model_copy(update={"contour": "brain"}),
        "contour brain needs the case's image or a brain mask",
    ),
    "not skull-stripped": (
        NOISE,
        ball(),
        MR.model_copy(update={"contour": "brain"}),
        "not skull-stripped",
    ),
    "no body": (
        NOISE - 1100,
        ball(),
        CT.model_copy(update={"contour": "body"}),
        "no body found above -300",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case_is_refused(name: str) -> None:
    array, labels, config, message = CASES[name]
    image = None if array is None else volume(array)
    with pytest.raises(VolumeError, match=message) as caught:
        prepare_case(image, volume(labels.astype(np.int32), name="mask.nii.gz"), config, "case")
    assert ".nii.gz: " in str(caught.value)


def test_empty_brain_mask_is_refused() -> None:
    config = MR.model_copy(update={"contour": "brain"})
    empty = volume(ball(0), name="brain.nii.gz")
    with pytest.raises(VolumeError, match=r"brain.nii.gz: empty brain mask"):
        prepare_case(volume(NOISE), volume(ball(), name="mask.nii.gz"), config, "case", empty)


def test_brain_mask_on_another_grid_is_refused() -> None:
    config = MR.model_copy(update={"contour": "brain"})
    other = volume(ball(1, 22), name="brain.nii.gz")
    with pytest.raises(VolumeError, match=r"brain.nii.gz: mask of 22 .*but mask.nii.gz has 24"):
        prepare_case(volume(NOISE), volume(ball(), name="mask.nii.gz"), config, "case", other)


SETTINGS: dict[str, tuple[Any, ...]] = {
    "class beyond the names": ({"label_map": {1: 2}}, "names class 2, but class_names has 1"),
    "class without a label": ({"class_names": ("a", "b")}, r"gives no label to the classes \[2\]"),
    "negative raw label": ({"label_map": {-1: 1}}, "raw labels are 0 or more"),
    "background as class": ({"label_map": {0: 1}}, "0 stays background"),
    "negative class": ({"label_map": {1: 1, 2: -1}}, "names class"),
    "window upside down": ({"clip_hu": (300.0, -200.0)}, "clip_hu must rise"),
    "percentiles upside down": ({"mr_percentiles": (99.0, 1.0)}, "mr_percentiles must rise"),
    "no pixels": ({"size_yx": (0, 128)}, "size_yx must lie within"),
    "no spacing": ({"spacing_mm_yx": 0.0}, "greater than 0"),
    "names twice": (
        {"label_map": {1: 1, 2: 2}, "class_names": ("body", "a"), "contour": "body"},
        "class_names must differ",
    ),
    "unknown key": ({"spacing": 3.0}, "Extra inputs are not permitted"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_refused(name: str) -> None:
    settings, message = SETTINGS[name]
    with pytest.raises(ValueError, match=message):
        PrepareConfig(**settings)
