"""Outlines compared, seen and fitted, on small discs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.evaluation.outlines import Outline, fit_into, judge_drawn, misfit

NONE = np.zeros((40, 40), np.bool_)


def disc(radius: float, y: float = 19.5, x: float = 19.5) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:40, :40]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2, np.bool_)


def outline(body: NDArray[np.bool_], organs: NDArray[np.bool_] = NONE) -> Outline:
    return Outline(body, organs, (2.0, 2.0))


def test_a_mask_fits_itself_and_not_a_smaller_body() -> None:
    organ = disc(3, y=5.0)
    assert misfit(outline(disc(17), organ), outline(disc(17))) == (0.0, 0.0)
    away, outside = misfit(outline(disc(17), organ), outline(disc(9)))
    assert away == pytest.approx(1 - (9 / 17) ** 2, abs=0.02)
    assert outside == 1.0
    assert misfit(outline(NONE), outline(NONE)) == (0.0, 0.0)


def test_a_fit_scales_about_the_grids_centre_and_shifts() -> None:
    fit = fit_into(outline(disc(8)), outline(disc(10, x=22.5)))
    assert fit is not None
    assert fit.scale_yx == pytest.approx((1.25, 1.25))
    assert fit.shift_mm_yx == pytest.approx((0.0, 6.0))
    large = fit_into(outline(disc(4)), outline(disc(17)))
    assert large is not None
    assert large.scale_yx == (1.5, 1.5), "more would not be the same anatomy"
    assert fit_into(outline(NONE), outline(disc(4))) is None


def test_a_drawn_slice_is_judged_by_the_outline_seen_in_it() -> None:
    drawn = np.where(disc(9), 0.2, -1.0).astype(np.float32)
    assert judge_drawn(drawn, disc(9).astype(np.uint8), 0.1) == ()
    (flag,) = judge_drawn(drawn, disc(15).astype(np.uint8), 0.1)
    assert flag == "generated slice's outline disagrees with the mask's by 0.64"
