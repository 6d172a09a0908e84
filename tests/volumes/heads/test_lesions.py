"""Lesions: inside the white matter, irregular, growing, in BraTS's classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from engine.errors import VolumeError
from engine.volumes.heads import HeadConfig, make_anatomy, make_head
from engine.volumes.heads.fields import stream
from engine.volumes.heads.labels import FIRST_LESION
from engine.volumes.heads.lesions import EDEMA, ENHANCING, NECROSIS, NON_ENHANCING, plan_lesion
from engine.volumes.heads.structures import where
from engine.volumes.volume import Volume
from tests.volumes.heads.small_head import small_anatomy, small_labels


@pytest.mark.parametrize("number", range(4))
def test_lesions_lie_inside_the_white_matter_and_hang_together(number: int) -> None:
    anatomy = small_anatomy()
    mask = plan_lesion(anatomy, stream(1, "lesion", "small", number)).mask()
    assert where(anatomy.tissues, "white_matter")[mask > 0].all()
    assert ndimage.label(mask > 0)[1] == 1
    assert set(np.unique(mask)) == {0, NECROSIS, EDEMA, NON_ENHANCING, ENHANCING}


def test_a_lesion_grows_around_what_it_was() -> None:
    plan = plan_lesion(small_anatomy(), stream(1, "lesion", "small"))
    masks = [plan.mask(growth) > 0 for growth in (0.3, 0.6, 1.0)]
    sizes = [int(mask.sum()) for mask in masks]
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    assert masks[2][masks[1]].all()
    assert masks[1][masks[0]].all()


def test_necrosis_lies_innermost_and_edema_outermost() -> None:
    plan = plan_lesion(small_anatomy(), stream(1, "lesion", "small"))
    mask = plan.mask()
    times = [plan.time[mask == kind].mean() for kind in (NECROSIS, ENHANCING, EDEMA)]
    assert times == sorted(times)


def test_lesions_are_irregular() -> None:
    mask = plan_lesion(small_anatomy(), stream(1, "lesion", "small")).mask(0.5) > 0
    surface = mask & ~ndimage.binary_erosion(mask)
    distance = np.linalg.norm(np.argwhere(surface) - np.argwhere(mask).mean(axis=0), axis=1)
    assert distance.std() / distance.mean() > 0.08, "a ball has about 0.03"


@pytest.mark.parametrize(("contrast", "brighter"), [("flair", True), ("t2", True), ("t1", False)])
def test_edema_shows_as_its_contrast_has_it(contrast: str, brighter: bool) -> None:
    head = make_head(small_anatomy(), HeadConfig(site="A", contrast=contrast, lesions=True), seed=1)
    image, labels = head.image.array, head.labels.array
    edema = image[labels == FIRST_LESION + EDEMA - 1].mean()
    assert (edema > 1.1 * image[labels == 1].mean()) is np.bool_(brighter)


def test_growth_is_in_the_labels_of_a_case() -> None:
    sizes = [
        int((make_head(small_anatomy(), config, seed=1).labels.array >= FIRST_LESION).sum())
        for config in (HeadConfig(lesions=True, growth=0.4), HeadConfig(lesions=True))
    ]
    assert 0 < sizes[0] < sizes[1]


def test_no_room_for_a_lesion_is_said() -> None:
    labels = small_labels()
    white = np.isin(labels, (2, 41))
    labels[white] = 3
    labels[20, 30:34, 30:34] = 2
    anatomy = make_anatomy(Volume(labels, np.eye(4), "thin"), "thin")
    with pytest.raises(VolumeError, match="thin: too little white matter for a lesion"):
        plan_lesion(anatomy, stream(1, "lesion", "thin"))
