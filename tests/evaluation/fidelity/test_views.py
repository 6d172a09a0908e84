"""MS-SSIM of planes, volumes and bodies: MONAI agrees, and the order of degradations is right."""

import numpy as np
import pytest
import torch

from engine.errors import VolumeError
from engine.evaluation.fidelity.ssim import ms_ssim
from engine.evaluation.fidelity.views import Plane, ms_ssim_view, num_scales
from tests.evaluation.patients import anatomy, degraded, scan

WEIGHTS = np.array((0.0448, 0.2856, 0.3001, 0.2363, 0.1333))


def volume(seed: int, size: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.uniform(-1, 1, (2, *(n // 4 + 1 for n in size)))
        .repeat(4, 1)
        .repeat(4, 2)
        .repeat(4, 3)[:, : size[0], : size[1], : size[2]]
    )


def test_axial_view_is_the_papers_measure() -> None:
    truth, other = volume(0, (4, 120, 130))
    made = 0.8 * truth + 0.2 * other
    assert ms_ssim_view(made, truth, 2.0) == pytest.approx(ms_ssim(made, truth, 2.0), abs=1e-5)


@pytest.mark.parametrize("plane", ["coronal", "sagittal", "volume"])
def test_equals_monai(plane: Plane) -> None:
    regression = pytest.importorskip("monai.metrics.regression")
    truth, other = volume(1, (30, 44, 60))
    made = 0.8 * truth + 0.2 * other
    axis = {"coronal": 1, "sagittal": 2, "volume": None}[plane]
    if axis is None:
        pair = [torch.from_numpy(a).float()[None, None] for a in (made, truth)]
    else:
        moved = [np.ascontiguousarray(np.moveaxis(a, axis, 0)) for a in (made, truth)]
        pair = [torch.from_numpy(a).float()[:, None] for a in moved]
    scales = num_scales(min(pair[0].shape[2:]))
    assert 1 < scales < 5
    weights = WEIGHTS[:scales] / WEIGHTS[:scales].sum()
    oracle = regression.compute_ms_ssim(
        *pair, 3 if axis is None else 2, data_range=2.0, kernel_size=7, weights=weights.tolist()
    )
    assert ms_ssim_view(made, truth, 2.0, plane) == pytest.approx(float(oracle.mean()), abs=2e-4)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "volume"])
def test_every_degradation_is_below_another_draw_of_the_truth(plane: Plane) -> None:
    """Texture is random, and no model can guess it: another draw is the ceiling. Blur and a little
    noise pass it, which is why `texture` exists."""
    truth, body = scan(1), anatomy(1) > 0
    ceiling = ms_ssim_view(scan(1, draw=1), truth, 2.0, plane, body)
    assert ceiling is not None
    for name in ("other patient", "upside down", "repeated slice"):
        found = ms_ssim_view(degraded(name), truth, 2.0, plane, body)
        assert found is not None and found < ceiling, name
    assert ms_ssim_view(truth, truth, 2.0, plane, body) == pytest.approx(1.0, abs=1e-5)
    noise = np.random.default_rng(0).normal(size=truth.shape)
    scores = [ms_ssim_view(truth + s * noise, truth, 2.0, plane, body) for s in (0.05, 0.2, 0.5)]
    assert scores == sorted(scores, key=lambda s: -(s or 0.0))


def test_background_does_not_count_in_the_body() -> None:
    truth, mask = scan(1), anatomy(1)
    made = degraded("noisy")
    whole = ms_ssim_view(made, truth, 2.0)
    inside = ms_ssim_view(made, truth, 2.0, body=mask > 0)
    assert whole is not None and inside is not None and inside < whole
    spoiled = np.where(ndimage_far(mask), 1.0, made)
    assert ms_ssim_view(spoiled, truth, 2.0, body=mask > 0) == pytest.approx(inside, abs=0.01)


def ndimage_far(mask: np.ndarray) -> np.ndarray:
    """Far from the body: no window centred inside reaches there at the finest scales."""
    far = np.zeros(mask.shape, bool)
    far[:, :2, :2] = True
    return far


def test_what_cannot_be_had_is_absent() -> None:
    small = np.zeros((3, 64, 64), np.float32)
    assert ms_ssim_view(small, small, 2.0, "coronal") is None
    assert ms_ssim_view(small, small, 2.0, body=np.zeros(small.shape, bool)) is None
    with pytest.raises(VolumeError, match="one grid"):
        ms_ssim_view(small, small[:2], 2.0)
