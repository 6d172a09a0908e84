"""Contours: the body without its table, closed; the brain of a stripped volume."""

import numpy as np
import pytest

from engine.volumes.appearance.contours import body_contour, brain_contour, mr_body_threshold

SPACING = (3.0, 3.0, 3.0)


def patient() -> tuple[np.ndarray, np.ndarray]:
    """A body with a lung and a gas bubble, and a table that touches the back."""
    _, y, x = np.mgrid[:10, :80, :80]
    body = ((y - 40) / 22.0) ** 2 + ((x - 40) / 32.0) ** 2 < 1
    image = np.where(body, 40.0, -1000.0)
    image[(y - 40) ** 2 + (x - 25) ** 2 < 64] = -850
    image[5, 38:42, 50:54] = -900
    image[:, 17:19, 5:75] = 200.0  # touches the body at y = 18
    return image.astype(np.float32), body


def test_body_is_closed_and_the_table_gone() -> None:
    image, body = patient()
    found = body_contour(image, SPACING, -300.0, "made")
    assert found[5, 40, 25]  # lung
    assert found[5, 39, 51]  # gas
    assert not found[:, 17:19, :25].any()
    assert not found[:, 17:19, 55:].any()
    overlap = 2 * (found & body).sum() / (found.sum() + body.sum())
    assert overlap > 0.99


@pytest.mark.parametrize("spacing", [(5.0, 0.8, 0.8), (3.0, 1.5, 1.5)])
def test_body_reaches_the_cut_edge_of_the_scan(spacing: tuple[float, float, float]) -> None:
    image = np.full((4, 60, 60), 30.0, np.float32)
    image[:, :, 50:] = -1000
    found = body_contour(image, spacing, -300.0, "made")
    assert found[:, :, :50].all()
    assert not found[:, :, 50:].any()


def test_dark_muscle_is_inside_on_mr() -> None:
    _, y, x = np.mgrid[:6, :80, :80]
    radius = np.hypot(y - 40, x - 40)
    image = np.where(radius < 30, 10.0, 0.0)
    image[(radius > 26) & (radius < 30)] = 600
    image = (image + np.random.default_rng(0).normal(0, 2, image.shape)).astype(np.float32)
    threshold = mr_body_threshold(image)
    found = body_contour(image, SPACING, threshold, "made", dark_inside=True)
    assert np.array_equal(found, radius < 30)


def test_brain_is_everything_but_the_background() -> None:
    z, y, x = np.mgrid[:20, :20, :20]
    brain = (z - 10) ** 2 + (y - 10) ** 2 + (x - 10) ** 2 < 64
    image = np.where(brain, np.random.default_rng(0).uniform(-3, 4, brain.shape), -3.16)
    image[10, 10, 10] = -3.16  # a hole
    assert np.array_equal(brain_contour(image.astype(np.float32), "made"), brain)


def test_thin_chest_wall_stays_and_its_lung_is_inside() -> None:
    """A wall of three voxels between air and lung is no table."""
    _, y, x = np.mgrid[:6, :90, :110]
    body = ((y - 45) / 34.0) ** 2 + ((x - 55) / 44.0) ** 2 < 1
    lung = (((y - 45) / 31.0) ** 2 + ((x - 55) / 41.0) ** 2 < 1) & (abs(x - 55) > 10)
    image = np.where(body, 40.0, -1000.0)
    image[lung] = -850
    image[:, 9:11, 5:105] = 200.0
    found = body_contour(image.astype(np.float32), SPACING, -300.0, "made")
    assert found[lung].all()
    assert (found ^ body).mean() < 0.005
