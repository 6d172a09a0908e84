"""A mask on another grid than its image: which of header and voxels is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.geometry.mask_fit import find_placing, mirrored
from engine.volumes.geometry.same_grid import check_same_grid
from engine.volumes.layouts import find_cases
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.phantoms.phantom import make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.volume import Volume


@cache
def phantom() -> tuple[Volume, Volume]:
    made = make_phantom(3, 2)
    return made.image, made.labels


def flipped(mask: Volume, axes: str, *, header: bool = True) -> Volume:
    """The voxels run the other way; with `header`, the affine says so."""
    places = ["zyx".index(axis) for axis in axes]
    step = np.eye(4)
    for axis in axes:
        x = "xyz".index(axis)
        step[x, x], step[x, 3] = -1, mask.size_zyx[2 - x] - 1
    affine = mask.affine @ step if header else mask.affine
    return Volume(np.flip(mask.array, tuple(places)), affine, "mask.nii.gz")


def turned(mask: Volume) -> Volume:
    """x y z stored as z x y, and the header says so."""
    step = np.zeros((4, 4))
    step[0, 1] = step[1, 2] = step[2, 0] = step[3, 3] = 1
    array = mask.array.transpose(2, 1, 0).transpose(2, 0, 1).transpose(2, 1, 0)
    return Volume(np.ascontiguousarray(array), mask.affine @ step, "mask.nii.gz")


def with_affine(mask: Volume, affine: np.ndarray) -> Volume:
    return Volume(mask.array, affine, "mask.nii.gz")


def explanation(image: Volume, mask: Volume) -> str:
    with pytest.raises(VolumeError) as caught:
        check_same_grid(image, mask)
    return str(caught.value)


@pytest.mark.parametrize("axes", ["x", "y", "z", "xy", "xyz"])
def test_flipped_axes_that_the_header_tells_are_to_be_regridded(axes: str) -> None:
    image, labels = phantom()
    message = explanation(image, flipped(labels, axes))
    assert "the header is right, so regrid the mask onto it (nearest neighbour)" in message
    assert "give it" not in message


def test_axes_in_another_order_are_to_be_regridded() -> None:
    image, labels = phantom()
    message = explanation(image, turned(labels))
    assert "mask.nii.gz: mask of 126 x 96 x 70 voxels" in message or "voxels, but" in message
    assert "the header is right, so regrid" in message


LIES: dict[str, Callable[..., np.ndarray]] = {
    "identity": lambda affine, size: np.eye(4),
    "identity of ITK": lambda affine, size: np.diag([-1.0, -1, 1, 1]),
    "spacing only": lambda affine, size: np.diag([3.0, 3, 3, 1]),
    "x the other way": lambda affine, size: flipped(phantom()[1], "x").affine,
    "x and y the other way": lambda affine, size: flipped(phantom()[1], "xy").affine,
    "z the other way": lambda affine, size: flipped(phantom()[1], "z").affine,
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_to_be_replaced(name: str) -> None:
    image, labels = phantom()
    message = explanation(image, with_affine(labels, LIES[name](labels.affine, labels.size_zyx)))
    assert "its voxels fit as they are stored" in message
    assert "give it the image's sform and qform, and leave its voxels as they are" in message
    assert "regrid" not in message


@pytest.mark.parametrize("axes", ["x", "y", "xy", "z"])
def test_voxels_mirrored_under_a_lying_header_are_to_be_turned(axes: str) -> None:
    image, labels = phantom()
    message = explanation(image, with_affine(flipped(labels, axes), np.eye(4)))
    along = " and ".join(axes)
    assert f"its voxels fit only flipped along {along}, and neither" in message


def test_what_voxels_do_not_show_is_not_claimed() -> None:
    """A mask of one voxel's shift, a ball on noise, a mask beside a mask."""
    image, labels = phantom()
    moved = labels.affine.copy()
    moved[0, 3] += 1.0
    noise = Volume(
        np.random.default_rng(0).normal(0, 1, image.size_zyx).astype(np.float32),
        image.affine,
        "image.nii.gz",
    )
    other = flipped(labels, "x")
    for pair in ((image, with_affine(labels, moved)), (noise, other), (labels, other)):
        message = explanation(*pair)
        assert "look at both in a viewer" in message
        assert "fit" not in message


def test_a_mirrored_mask_with_its_images_header_is_told() -> None:
    image, labels = phantom()
    assert mirrored(image.array, labels.array) == ""
    for axes, along in (("x", "along x"), ("y", "along y"), ("xy", "along x and y")):
        assert mirrored(image.array, flipped(labels, axes).array) == along
    case = prepare_case(image, flipped(labels, "x", header=False), ABDOMEN_CT, "case")
    (note,) = case.notes
    assert "fit the image much better flipped along x" in note
    assert prepare_case(image, labels, ABDOMEN_CT, "case").notes == ()


@pytest.mark.real
def test_real_masks_fit_as_they_are(real_data: Path) -> None:
    folders = ("Dataset001_BrainFLAIR", "Dataset002_AbdomenCT", "Dataset003_AbdomenMR")
    for files in (case for name in folders for case in find_cases(real_data / name)[-2:]):
        assert files.image is not None
        image, labels = read_image(files.image), read_labels(files.mask)
        assert mirrored(image.array, labels.array) == "", files.case_id
        placing = find_placing(image, with_affine(labels, np.eye(4)))
        assert placing is not None, files.case_id
        assert placing.where == "stored"
        placing = find_placing(image, flipped(labels, "x"))
        assert placing is not None, files.case_id
        assert placing.where == "header"
