"""Grids: closest axes as nibabel finds them, and ways there and back that lose nothing."""

from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from engine.volumes.geometry.grids import (
    AxisMap,
    Orientation,
    prepared_affine,
    regrid,
    regrid_classes,
)

Three = tuple[float, float, float]


def dense_classes(mask: np.ndarray, weights_zyx: list[np.ndarray]) -> np.ndarray:
    """`regrid_classes` as its definition says it: all classes everywhere, with dense weights."""
    shares = [
        np.einsum("zZ,yY,xX,ZYX->zyx", *weights_zyx, (mask == label).astype(float))
        for label in range(mask.max() + 1)
    ]
    best, result = shares[0], np.zeros(shares[0].shape, np.uint8)
    for label, share in enumerate(shares[1:], start=1):
        result[share > best + 1e-6] = label
        best = np.maximum(best, share)
    return result


angles = st.tuples(*[st.floats(-180, 180)] * 3)
spacings = st.tuples(*[st.floats(0.4, 6.0)] * 3)


def affine_of(turn: Three, spacing: Three, mirrored: bool) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 0] *= -1 if mirrored else 1
    affine[:3, 3] = (3.0, -40.0, 17.5)
    return affine


@given(turn=angles, spacing=spacings, mirrored=st.booleans())
def test_canonical_axes_are_the_closest_ras(turn: Three, spacing: Three, mirrored: bool) -> None:
    affine = affine_of(turn, spacing, mirrored)
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    orientation = Orientation.closest(affine, array.shape)
    canonical = orientation.to_canonical(array)
    ras = orientation.canonical_affine(affine)
    directions = ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0)
    assert (np.diag(directions) > 0).all()
    assert np.array_equal(orientation.to_native(canonical), array)
    # the same voxel lies at the same place
    z, y, x = (int(n) for n in np.argwhere(canonical == array[1, 2, 3])[0])
    assert np.allclose(ras @ [x, y, z, 1], affine @ [3, 2, 1, 1])


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3), spacings)
def test_axes_agree_with_nibabel(order: tuple[int, int, int], signs: Three, spacing: Three) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs @ np.diag(spacing)
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    orientation = Orientation.closest(affine, array.shape)
    oracle = nib.as_closest_canonical(nib.Nifti1Image(array.transpose(2, 1, 0), affine))
    assert np.array_equal(
        orientation.to_canonical(array), np.asarray(oracle.dataobj).transpose(2, 1, 0)
    )
    assert np.allclose(orientation.canonical_affine(affine), oracle.affine)


@given(origin=st.integers(-9, 9), size=st.integers(1, 24), canonical_size=st.integers(1, 24))
def test_whole_steps_select_voxels_bit_for_bit(origin: int, size: int, canonical_size: int) -> None:
    axis = AxisMap(float(origin), 1.0, size, canonical_size)
    values = np.random.default_rng(0).normal(0, 900, (canonical_size, 2, 2)).astype(np.float32)
    weights = [axis.to_prepared(), np.eye(2), np.eye(2)]
    prepared = regrid(values, weights, -np.inf)
    for j in range(size):
        i = origin + j
        inside = 0 <= i < canonical_size
        assert np.array_equal(prepared[j], values[i]) if inside else (prepared[j] < -1e30).all()
    back = regrid(prepared, [axis.to_canonical(), np.eye(2), np.eye(2)], 7.0)
    for i in range(canonical_size):
        inside = origin <= i < origin + size
        assert np.array_equal(back[i], values[i]) if inside else (back[i] == 7.0).all()


@given(ratio=st.floats(0.3, 4.0), origin=st.floats(-3.0, 3.0))
def test_a_constant_stays_constant_and_a_ramp_a_ramp(ratio: float, origin: float) -> None:
    axis = AxisMap(origin, ratio, 16, 64)
    weights = axis.to_prepared()
    reached = weights.any(axis=1)
    assert np.allclose(weights.sum(axis=1)[reached], 1.0)
    centres = origin + ratio * np.arange(16)
    deep = (centres > ratio + 1) & (centres < 63 - ratio - 1)
    assert np.allclose((weights @ np.arange(64.0))[deep], centres[deep], atol=1e-6)


def test_coarser_grids_average_instead_of_skipping() -> None:
    stripes = np.tile([0.0, 1.0], 32).astype(np.float32)[:, None, None]
    axis = AxisMap(0.5, 2.0, 32, 64)
    coarse = regrid(stripes, [axis.to_prepared(), np.eye(1), np.eye(1)], 0.0)
    assert np.allclose(coarse[2:-2], 0.5)


def test_classes_stay_classes() -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:6, 2:6, 2:6] = 3
    mask[3:5, 3:5, 3:5] = 200
    axes = [AxisMap(-0.25, 0.5, 16, 8)] * 3
    fine = regrid_classes(mask, [axis.to_prepared() for axis in axes])
    assert fine.dtype == np.uint8
    assert set(np.unique(fine)) == {0, 3, 200}
    back = regrid_classes(fine, [axis.to_canonical() for axis in axes])
    assert np.array_equal(back, mask)


def test_prepared_affine_names_the_same_places() -> None:
    canonical = np.diag([2.0, 3.0, 4.0, 1.0])
    axes = (AxisMap(5.0, 1.0, 4, 9), AxisMap(-1.5, 2.0, 4, 9), AxisMap(0.25, 0.5, 4, 9))
    affine = prepared_affine(canonical, axes)
    assert np.allclose(affine @ [3, 2, 1, 1], canonical @ [0.25 + 1.5, -1.5 + 4, 6, 1])


ratios = st.one_of(st.just(1.0), st.floats(0.3, 3.0))


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.tuples(st.integers(-3, 3), ratios, st.integers(1, 12))] * 3),
)
def test_classes_are_those_of_the_strongest_share(
    seed: int, size_zyx: tuple[int, int, int], axes: Any
) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (3, 3, 3), dtype=np.uint8)
    mask = coarse[np.ix_(*(np.arange(n) * 3 // n for n in size_zyx))]
    maps = [AxisMap(float(o), r, n, old) for (o, r, n), old in zip(axes, size_zyx, strict=True)]
    weights = [axis.to_prepared() for axis in maps]
    np.testing.assert_array_equal(regrid_classes(mask, weights), dense_classes(mask, weights))
