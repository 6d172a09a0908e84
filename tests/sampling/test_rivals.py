"""Rivals make what they say they make, and look at nothing that they may not see."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import SamplingError
from engine.sampling.request import RealCase, SampleRequest
from engine.sampling.rivals.matching import match_quantiles
from engine.sampling.rivals.methods import RIVALS
from engine.sampling.rivals.sampler import Background, RivalSampler
from engine.volumes.volume import IntensityWindow, NativeGrid, PreparedCase

WINDOW = IntensityWindow(-200.0, 300.0, "HU", -1000.0)
CONTOUR = 3


def case(name: str, brightness: float, *, shift: int = 0, seed: int = 0) -> PreparedCase:
    """A body with organ 1 in all slices and organ 2 in the upper ones; noise of its own."""
    mask = np.zeros((10, 24, 24), np.uint8)
    mask[:, 4 + shift : 20, 4:20] = CONTOUR
    mask[:, 8:14, 6:10] = 1
    mask[6:, 8:14, 12:16] = 2
    table = np.array([-1.0, brightness, brightness + 0.2, brightness - 0.3])
    image = table[mask] + 0.02 * np.random.default_rng(seed).normal(size=mask.shape)
    return PreparedCase(
        case_id=name, image=image.astype(np.float32), mask=mask, affine=np.eye(4),
        native=NativeGrid(np.eye(4), (10, 24, 24), b""), native_mask=mask, intensity=WINDOW,
        num_classes=3, class_names=("liver", "spleen", "body"), contour="body",
    )  # fmt: skip


TRAINING = [case(f"c{n}", 0.1 * n, shift=n, seed=n) for n in range(3)]


def ask(own: PreparedCase, z: int = 2, appearance: PreparedCase | None = None) -> SampleRequest:
    shown = appearance or own
    assert shown.image is not None
    real = RealCase(own.case_id, own.image, own.intensity)
    return SampleRequest(
        own.case_id, 0, own.mask, shown.image[z], z / 9, shown.mask[z], real=real
    )  # fmt: skip


def rival(method: str, training: Iterable[PreparedCase] = TRAINING) -> RivalSampler:
    cases = [(one.case_id, one) for one in training]
    return RivalSampler(method, Background(lambda: cases, {}, 3, CONTOUR))


def test_painting_has_the_slices_means_and_the_training_cases_where_a_class_is_not_in_it() -> None:
    own = TRAINING[0]
    assert own.image is not None
    image = rival("painting").sample(ask(own)).image
    slice_mean = own.image[2][own.mask[2] == 1].mean()
    np.testing.assert_allclose(image[own.mask == 1], slice_mean, atol=1e-5)
    others = [c.image[c.mask == 2].mean() for c in TRAINING[1:] if c.image is not None]
    np.testing.assert_allclose(image[own.mask == 2], np.mean(others), atol=1e-5)


def test_no_atlas_and_no_mean_holds_the_patient_who_is_asked_for() -> None:
    own = TRAINING[1]
    assert own.image is not None
    poisoned = replace(own, image=np.full_like(own.image, 0.9))
    for method in ("painting", "atlas"):
        clean = rival(method).sample(ask(own)).image
        with_own = rival(method, [TRAINING[0], poisoned, TRAINING[2]]).sample(ask(own)).image
        np.testing.assert_array_equal(clean, with_own)


def test_atlas_of_equal_cases_is_that_case_with_its_organs_painted() -> None:
    twins = [case(f"t{n}", 0.1) for n in range(2)]  # the same voxels under other names
    own = case("own", 0.1)
    image = rival("atlas", twins).sample(ask(own)).image
    assert own.image is not None
    contour = own.mask == CONTOUR
    away = np.abs(image[contour] - own.image[contour])
    assert away.mean() < 0.02  # regridded there and back
    assert np.unique(image[own.mask == 1]).size == 1
    assert np.unique(image[own.mask == 0]).size == 1


def test_atlas_takes_the_slices_brightness() -> None:
    own = case("own", 0.1)
    dark, bright = (case("x", b) for b in (0.1, 0.4))
    images = [rival("atlas").sample(ask(own, appearance=a)).image for a in (dark, bright)]
    contour = own.mask == CONTOUR
    difference = float(images[1][contour].mean() - images[0][contour].mean())
    assert difference == pytest.approx(0.3, abs=0.02)


def test_copy_is_the_slice_everywhere_and_identity_the_case() -> None:
    request = ask(TRAINING[0])
    assert request.informed is not None
    copied = rival("copy").sample(request).image
    assert all(np.array_equal(plane, request.informed) for plane in copied)
    np.testing.assert_array_equal(rival("identity").sample(request).image, TRAINING[0].image)


def test_quantile_matching_gives_each_class_the_slices_distribution_in_the_same_order() -> None:
    own, other = TRAINING[0], case("other", 0.5, seed=9)
    assert own.image is not None and other.image is not None
    z = 7  # shows both organs
    image = match_quantiles(own.image, own.mask, other.image[z], other.mask[z])
    for number in (1, 2):
        inside, goal = own.mask == number, other.image[z][other.mask[z] == number]
        assert image[inside].mean() == pytest.approx(goal.mean(), abs=0.01)
        assert image[inside].std() == pytest.approx(goal.std(), rel=0.3)
        order = np.argsort(own.image[inside])
        assert (np.diff(image[inside][order]) >= 0).all()
    below = match_quantiles(own.image, own.mask, other.image[2], other.mask[2])
    np.testing.assert_array_equal(below[own.mask == 2], own.image[own.mask == 2])


def test_redrawn_takes_the_other_draw_into_the_volumes_own_window() -> None:
    own, wide = case("own", 0.1), IntensityWindow(-400.0, 600.0, "HU", -1000.0)
    other = replace(case("own", 0.1, seed=5), intensity=wide)
    sampler = RivalSampler("redrawn", Background(list, {}, 3, CONTOUR, lambda _: other))
    image = sampler.sample(ask(own)).image
    assert other.image is not None
    np.testing.assert_allclose(
        WINDOW.to_source(image), np.clip(wide.to_source(other.image), -200, 300), atol=1e-3
    )


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("painting", {"informed": None, "informed_mask": None}, "draws no informed slice"),
        ("quantiles", {"informed_mask": None}, "no mask"),
        ("identity", {"real": RealCase("c0", None, WINDOW)}, "needs the mask's own real volume"),
    ],
)
def test_what_a_method_cannot_do_is_said(method: str, change: dict[str, object], says: str) -> None:
    with pytest.raises(SamplingError, match=says):
        rival(method).sample(replace(ask(TRAINING[0]), **change))  # type: ignore[arg-type]


def test_no_atlas_without_other_patients() -> None:
    with pytest.raises(SamplingError, match="no training case of another patient"):
        rival("atlas", TRAINING[:1]).sample(ask(TRAINING[0]))


def test_every_rival_is_another_source_of_a_run() -> None:
    digests = {rival(method).weights_sha256 for method in RIVALS}
    assert len(digests) == len(RIVALS)
