import numpy as np
import pytest

from engine.runs.report.pictures import class_color, draw, place
from engine.volumes.prepared.prepare import prepare_case, to_native
from engine.volumes.volume import Volume
from tests.runs.fakes import PREPARE, make_case

TURNS = [((0, 1, 2), (False, False, False)), ((2, 0, 1), (True, False, True))]


def turned(volume: Volume, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same places in space, stored with other axes (x y z) and directions."""
    xyz = volume.array.transpose(2, 1, 0).transpose(axes)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        step[old, new] = -1 if flip else 1
        step[old, 3] = volume.array.shape[2 - old] - 1 if flip else 0
    xyz = xyz[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    array = np.ascontiguousarray(xyz.transpose(2, 1, 0))
    return Volume(array, volume.affine @ step, volume.source)


@pytest.mark.parametrize(("axes", "flips"), TURNS)
def test_pictures_do_not_depend_on_how_the_grid_is_stored(
    axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    image, labels = (turned(volume, axes, flips) for volume in make_case(0))
    case = prepare_case(image, labels, PREPARE, "case")
    assert case.image is not None
    mask = Volume(case.native_mask, case.native.affine, "case")
    subject = place(case, to_native(case, case.image), mask, (5, 10), 6)
    (z0, z1), (y0, y1), (x0, x1) = subject.frame_mm_zyx
    assert subject.image.shape == (12, 26, 28)
    assert subject.spacing_mm_zyx == pytest.approx((5, 3, 3))
    assert (z0, z1) == pytest.approx((0, 60))
    assert (y1 - y0, x1 - x0) == pytest.approx((96, 96))
    assert subject.joins_mm == pytest.approx((25, 50))
    assert subject.target_mm == pytest.approx(32.5)
    # the liver is on the patient's right: high x in RAS+, shown on the left
    where = np.argwhere(subject.mask == 1).mean(axis=0)
    assert where[2] > subject.mask.shape[2] / 2
    png = draw(subject, case.image[6], (3.0, 3.0), ("informed", "result"))
    assert png.startswith(b"\x89PNG")


def test_the_added_contour_has_a_colour_of_its_own() -> None:
    assert class_color(3, True) == class_color(5, True)
    assert class_color(1, False) not in {class_color(2, False), class_color(3, True)}
