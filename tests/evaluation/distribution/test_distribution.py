"""Distances between populations: oracles (scipy, MONAI, brute force) and known orders."""

import numpy as np
import pytest
import torch
from scipy import linalg

from engine.errors import VolumeError
from engine.evaluation.distribution.frechet import Moments, frechet_distance
from engine.evaluation.distribution.kernel import kernel_distance
from engine.evaluation.distribution.protocol import SliceProtocol, slices_of, squared
from engine.evaluation.distribution.radiomics import (
    FEATURE_NAMES,
    NUM_LEVELS,
    co_occurrence,
    slice_features,
)
from tests.evaluation.patients import anatomy, degraded, scan


def features(seed: int, count: int = 60, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(8, 8))
    return rng.normal(size=(count, 8)) @ mixing + shift


def test_frechet_is_the_textbooks_with_scipys_root() -> None:
    a, b = features(0), features(1, shift=0.3)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    oracle = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(oracle, rel=1e-6)


def test_frechet_equals_monais() -> None:
    fid = pytest.importorskip("monai.metrics.fid")
    a, b = features(0), features(1, shift=0.3)
    oracle = float(fid.get_fid_score(torch.from_numpy(a), torch.from_numpy(b)))
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(oracle, rel=1e-4)


def test_moments_add_up_in_any_order_and_fewer_vectors_than_features_are_exact() -> None:
    a, b = features(0), features(1)
    parts = [Moments.of(part) for part in np.array_split(a, 5)]
    whole = parts[3] + parts[0] + parts[4] + parts[1] + parts[2]
    assert frechet_distance(whole, Moments.of(a)) == pytest.approx(0.0, abs=1e-6)
    few = Moments.of(a[:4]), Moments.of(b[:4])
    root = linalg.sqrtm(few[0].covariance @ few[1].covariance).real
    oracle = np.square(few[0].mean - few[1].mean).sum()
    oracle += np.trace(few[0].covariance + few[1].covariance - 2 * root)
    assert frechet_distance(*few) == pytest.approx(oracle, rel=1e-4)


def test_kernel_distance_is_the_unbiased_sum_over_pairs() -> None:
    a, b = features(0, 7), features(1, 5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 8 + 1) ** 3)

    same = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    same += np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    oracle = same - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(oracle, rel=1e-9)


def test_distances_grow_with_the_shift_and_vanish_between_halves() -> None:
    a = features(0, 400)
    shifts = [features(1, 400, shift) for shift in (0.0, 0.5, 2.0)]
    for distances in (
        [frechet_distance(Moments.of(a), Moments.of(b)) for b in shifts],
        [kernel_distance(a, b) for b in shifts],
    ):
        assert distances == sorted(distances)
        assert abs(distances[0]) < 0.1 * distances[2]


def test_many_vectors_go_in_subsets_that_a_seed_decides() -> None:
    a, b = features(0, 1200), features(1, 1100, 0.5)
    assert kernel_distance(a, b, 1) == kernel_distance(a, b, 1)
    assert kernel_distance(a, b, 1) == pytest.approx(kernel_distance(a, b, 2), rel=0.2)


def test_one_vector_or_other_features_are_refused() -> None:
    for distance in (kernel_distance, lambda a, b: frechet_distance(Moments.of(a), Moments.of(b))):
        with pytest.raises(VolumeError, match="two or more"):
            distance(features(0), features(1, 1))
        with pytest.raises(VolumeError, match="of the same kind"):
            distance(features(0), features(1)[:, :4])


def test_co_occurrence_counts_pairs_inside_the_body() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, NUM_LEVELS, (9, 11))
    body = rng.random((9, 11)) < 0.7
    counts = np.zeros((NUM_LEVELS, NUM_LEVELS))
    for y, x in np.argwhere(body):
        for dy, dx in ((0, 2), (2, 2), (2, 0), (2, -2)):
            v, u = y + dy, x + dx
            if v < 9 and 0 <= u < 11 and body[v, u]:
                counts[levels[y, x], levels[v, u]] += 1
                counts[levels[v, u], levels[y, x]] += 1
    np.testing.assert_allclose(co_occurrence(levels, body, 2), counts / counts.sum())


def test_radiomics_order_degradations_by_their_texture() -> None:
    body = anatomy(1) > 0

    def moments(image: np.ndarray, scale: np.ndarray) -> Moments:
        return Moments.of(
            np.stack([slice_features(image[z], body[z]) for z in range(len(image))]) / scale
        )

    raw = np.stack([slice_features(scan(1)[z], body[z]) for z in range(32)])
    assert raw.shape == (32, len(FEATURE_NAMES)) and np.isfinite(raw).all()
    scale = np.maximum(raw.std(axis=0), 1e-6)
    real = Moments.of(raw / scale)
    again = frechet_distance(moments(scan(1, 1), scale), real)
    for name in ("blurred", "painted", "noisy", "other patient"):
        assert frechet_distance(moments(degraded(name), scale), real) > 2 * again, name


def test_a_constant_slice_has_features() -> None:
    found = slice_features(np.zeros((8, 8), np.float32), np.ones((8, 8), bool))
    assert np.isfinite(found).all()


def test_protocol_takes_slices_with_body_evenly_and_pads_them() -> None:
    image, body = scan(1), anatomy(1) > 0
    body[:10] = False
    protocol = SliceProtocol(max_slices=5, size_px=96)
    planes = list(slices_of(image, body, "axial", protocol))
    assert len(planes) == 5
    np.testing.assert_array_equal(planes[0], image[10])
    np.testing.assert_array_equal(planes[-1], image[-1])
    coronal = next(slices_of(image, anatomy(1) > 0, "coronal", protocol))
    assert coronal.shape == (32, 64)
    square = squared(coronal, 96)
    assert square.shape == (96, 96)
    assert (square[:20] == -1).all()  # padded above and below
    assert square[48, 48] == pytest.approx(coronal[16, 32], abs=0.3)
    assert not list(slices_of(image, np.zeros_like(body), "axial", protocol))


def test_squared_is_torchs_bilinear_resize() -> None:
    plane = np.random.default_rng(0).uniform(-1, 1, (50, 50)).astype(np.float32)
    oracle = torch.nn.functional.interpolate(
        torch.from_numpy(plane)[None, None], size=96, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(squared(plane, 96), oracle[0, 0].numpy(), atol=1e-5)
