"""Backgrounds that are not the darkest value: found, dark for the model, and back in the export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.volumes.appearance.backgrounds import find_background
from engine.volumes.appearance.contours import find_contour
from engine.volumes.prepared.prepare import PrepareConfig, prepare_case, to_native
from engine.volumes.volume import Volume

SPACING = (3.0, 3.0, 3.0)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
RNG = np.random.default_rng(0)


def ellipse(size: tuple[int, int, int] = (12, 60, 70), share: float = 0.75) -> np.ndarray:
    z, y, x = (np.linspace(-1, 1, n) for n in size)
    inside = (y[:, None] / share) ** 2 + (x[None] / share) ** 2 < 1
    return np.broadcast_to(inside, size) & (np.abs(z)[:, None, None] < 2)


def ball(size: tuple[int, int, int] = (24, 40, 44)) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    return z**2 + y**2 + x**2 < 0.5


def brain(value: float) -> np.ndarray:
    """z-scores inside, some exactly the background's value, a constant outside."""
    inside = ball()
    image = np.where(inside, RNG.normal(0, 1.5, inside.shape), value).astype(np.float32)
    image[12, 20, 22] = value
    return image


BRAIN = PrepareConfig(
    modality="mr",
    size_yx=(48, 48),
    spacing_mm_yx=3.0,
    label_map={1: 1},
    class_names=("tumour",),
    contour="brain",
)


def tumour() -> Volume:
    labels = np.zeros(ball().shape, np.int32)
    labels[10:14, 18:22, 20:26] = 1
    return Volume(labels, AFFINE, "mask")


@pytest.mark.parametrize("value", [0.0, -9.0, 7.0, 0.5])
@pytest.mark.parametrize("given", [False, True])
def test_zeros_outside_z_scores_are_the_background(value: float, given: bool) -> None:
    """With a brain mask and without: dark for the model, and exactly as it was on the way back."""
    image = Volume(brain(value), AFFINE, "image")
    mask = Volume(ball().astype(np.int32), AFFINE, "brain") if given else None
    case = prepare_case(image, tumour(), BRAIN, "case", mask)
    assert np.array_equal(case.native_mask > 0, ball())
    assert case.image is not None
    assert (case.image[case.mask == 0] == -1).all()
    assert (case.intensity.background, case.intensity.masked) == (value, True)
    back = to_native(case, case.image).array
    assert (back[~ball()] == value).all()
    inside = ball()
    inside[12, 20, 22] = False
    clipped = np.clip(image.array, case.intensity.low, case.intensity.high)
    assert np.allclose(back[inside], clipped[inside], atol=1e-5)


def test_a_padded_background_is_background_too() -> None:
    """A stripped brain of zeros outside, padded with its minimum, and padded again."""
    image = np.pad(brain(0.0), ((0, 0), (6, 6), (6, 6)), constant_values=-5.0)
    image = np.pad(image, ((0, 0), (4, 4), (4, 4)), constant_values=9.0)
    inside = np.pad(ball(), ((0, 0), (10, 10), (10, 10)))
    found = find_background(image)
    assert found is not None
    assert (found.value, found.outermost) == (0.0, 9.0)
    assert not (found.where & inside).any()
    assert np.array_equal(
        find_contour(image, found, SPACING, "brain", "mr", "made"),
        inside,
    )


def test_measured_air_is_no_constant_background() -> None:
    noisy = np.where(ellipse(), 300.0, 10.0) + RNG.normal(0, 3, ellipse().shape)
    assert find_background(noisy.astype(np.float32)) is None


def mr(body: np.ndarray) -> np.ndarray:
    """Muscle as dark as 60, fat at 500, air of 5."""
    image = np.where(body, 60.0, 5.0)
    image[body & ~ellipse(share=0.65)] = 500
    image += RNG.normal(0, 2, body.shape)
    return image.astype(np.float32)


def score(image: np.ndarray) -> np.ndarray:
    return np.asarray((image - image.mean()) / image.std(), np.float32)


def framed(image: np.ndarray, value: float) -> np.ndarray:
    return np.pad(image, ((0, 0), (8, 8), (8, 8)), constant_values=value)


def contour(image: np.ndarray, modality: str) -> np.ndarray:
    found = find_background(image)
    return find_contour(image, found, SPACING, "body", modality, "made")  # type: ignore[arg-type]


MR: dict[str, Callable[..., np.ndarray]] = {
    "as scanned": lambda a, b: framed(a, 0),
    "padding far below": lambda a, b: framed(a, -1000),
    "padding far above": lambda a, b: framed(a, 5000),
    "z-scores": lambda a, b: framed(score(a), float(score(a).min())),
    "z-scores, padded with 0": lambda a, b: framed(score(a), 0),
    "z-scores of the body, 0 outside": lambda a, b: framed(
        np.where(b, (a - a[b].mean()) / a[b].std(), 0).astype(np.float32), 0
    ),
    "0 outside the body": lambda a, b: framed(np.where(b, a, 0), 0),
    "-1000 outside the body": lambda a, b: framed(np.where(b, a, -1000), -1000),
}


@pytest.mark.parametrize("name", MR)
def test_mr_body_is_found_on_any_background(name: str) -> None:
    body = ellipse()
    found = contour(MR[name](mr(body), body), "mr")
    expected = framed(body, False)
    overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert overlap > 0.97, name


CT: dict[str, Callable[..., np.ndarray]] = {
    "clipped at -200": lambda a: a.clip(-200, 300),
    "clipped at -160": lambda a: a.clip(-160, 240),
    "padded with 0": lambda a: framed(a, 0),
    "padded with 0, clipped": lambda a: framed(a.clip(-200, 300), 0),
    "padded with 1000": lambda a: framed(a, 1000),
    "padded with -3024": lambda a: framed(a, -3024),
}


@pytest.mark.parametrize("name", CT)
def test_ct_body_is_found_on_any_background(name: str) -> None:
    body = ellipse()
    image = np.where(body, 40.0, -1000.0) + RNG.normal(0, 8, body.shape)
    found = contour(CT[name](image.astype(np.float32)), "ct")
    expected = framed(body, False) if found.shape != body.shape else body
    overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert overlap > 0.97, name


def test_ct_padding_is_dark_for_the_model() -> None:
    body = framed(ellipse(), False)
    image = framed(
        (np.where(ellipse(), 40.0, -1000.0) + RNG.normal(0, 8, ellipse().shape)), 0
    ).astype(np.float32)
    labels = np.zeros(body.shape, np.int32)
    labels[4:8, 30:40, 40:50] = 1
    config = PrepareConfig(size_yx=(96, 96), label_map={1: 1}, contour="body")
    case = prepare_case(
        Volume(image, AFFINE, "image"), Volume(labels, AFFINE, "mask"), config, "case"
    )
    assert case.image is not None
    assert (case.image[case.mask == 0] == -1).all()
    back = to_native(case, case.image)
    assert (back.array[~body][image[~body] == 0] == -200).all()


def test_a_body_without_noise_that_reaches_the_border_is_no_background() -> None:
    image = np.full((4, 60, 60), 30.0, np.float32)
    image[:, :, 50:] = -1000
    image[1:3, 20:40, 10:30] = 110
    found = contour(image, "ct")
    assert found[:, :, :50].all()
    assert not found[:, :, 50:].any()


def test_one_class_alone_keeps_the_background_as_it_is() -> None:
    """Without a contour nothing tells the patient from what lies around him."""
    image = Volume(brain(0.0), AFFINE, "image")
    case = prepare_case(image, tumour(), BRAIN.model_copy(update={"contour": "none"}), "case")
    assert not case.intensity.masked
    assert case.image is not None
    middle = case.intensity.to_model(np.array([0.0]))[0]
    assert case.image[0, 24, 2] == pytest.approx(middle)
