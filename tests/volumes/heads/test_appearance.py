"""Signals: which tissue is brighter at which contrast, individuals, texture, sites."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from engine.errors import ConfigError
from engine.volumes.heads import HeadConfig, make_head
from engine.volumes.heads.appearance import make_signal
from engine.volumes.heads.contrasts import CONTRASTS, Contrast, draw_signals
from engine.volumes.heads.fields import smooth_field, stream
from engine.volumes.heads.sites import SITES, find_site, lay_grid, scan
from engine.volumes.heads.structures import where
from tests.volumes.heads.small_head import small_anatomy

CLEAN = dataclasses.replace(find_site("A"), noise=0.0, bias=0.0, surface=0.0)
ORDER: dict[Contrast, tuple[str, ...]] = {  # from dark to bright
    "t1": ("lateral_ventricle", "cortex", "thalamus", "white_matter"),
    "t2": ("white_matter", "thalamus", "cortex", "lateral_ventricle"),
    "flair": ("lateral_ventricle", "white_matter", "cortex", "hyperintensity"),
}


def rng(name: str, number: int = 0) -> np.random.Generator:
    return stream(7, name, "small", number)


def means_of(image: NDArray[np.generic], names: tuple[str, ...]) -> list[float]:
    tissues = small_anatomy().tissues
    return [float(image[where(tissues, name)].mean()) for name in names]


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("individual", range(4))
def test_tissues_have_the_order_of_their_contrast(contrast: Contrast, individual: int) -> None:
    head = make_head(small_anatomy(), HeadConfig(contrast=contrast, site="A"), 7, individual)
    means = means_of(head.image.array, ORDER[contrast])
    assert means == sorted(means)
    assert means[-1] > 1.2 * means[0]


def test_individuals_differ_and_one_has_the_same_draw_at_every_contrast() -> None:
    t1, again, other = (draw_signals("t1", rng("signals", n)) for n in (0, 0, 1))
    assert t1 == again
    assert t1["cortex"] != other["cortex"]
    t2 = draw_signals("t2", rng("signals"))
    assert t1["eye"] / 0.20 == pytest.approx(t2["eye"] / 1.50), "the same share of the table"


def test_texture_is_correlated_and_of_its_tissue() -> None:
    anatomy = small_anatomy()
    signals = draw_signals("flair", rng("signals"))
    one, two = (make_signal(anatomy, signals, "flair", rng("texture", n)) for n in (0, 1))
    white = where(anatomy.tissues, "white_matter")
    assert 0.01 < one[white].std() / one[white].mean() < 0.2
    assert not np.array_equal(one, two)
    assert one[white].mean() == pytest.approx(two[white].mean(), rel=0.05)
    deep = np.s_[30:34, 40:56, 28:36]
    near = np.corrcoef(one[deep][:, 1:].ravel(), one[deep][:, :-1].ravel())[0, 1]
    assert near > 0.4


def test_the_cerebellum_has_fissures_of_fluid() -> None:
    anatomy = small_anatomy()
    signals = draw_signals("t2", rng("signals"))
    fluid = binary_dilation(where(anatomy.tissues, "csf"), iterations=3)
    cortex = where(anatomy.tissues, "cerebellar_cortex") & ~fluid
    with_fluid, without = (
        make_signal(anatomy, {**signals, "csf": value}, "t2", rng("texture"))[cortex]
        for value in (1.4, signals["cerebellar_cortex"])
    )
    brighter = with_fluid - without
    assert brighter.min() > -1e-3
    assert 0.05 < (brighter > 0.1).mean() < 0.7, "between the folia, not in them"


@pytest.mark.parametrize("scale_mm", [0.0, 0.8, 4.0])
def test_fields_have_unit_deviation(scale_mm: float) -> None:
    fields = np.stack([smooth_field(rng("field", n), (48, 40, 44), scale_mm) for n in range(8)])
    assert fields.shape == (8, 48, 40, 44)
    assert fields.std() == pytest.approx(1.0, abs=0.08)
    assert abs(fields.mean()) < 0.25


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 3.0, 2.5])
def test_thick_slices_average_what_lies_in_them(slice_mm: float) -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-3, 4, 10)
    site = dataclasses.replace(CLEAN, slice_mm=slice_mm, blur_mm=0.0)
    grid = lay_grid(site, (60, 8, 9), affine)
    assert grid.spacing_mm_zyx == (slice_mm, 1.0, 1.0)
    height = np.broadcast_to(np.linspace(0.2, 1.2, 60, dtype=np.float32)[:, None, None], (60, 8, 9))
    image = scan(np.ascontiguousarray(height), site, grid, rng("bias"), rng("noise"))
    assert image.shape == (int(60 // slice_mm), 8, 9)
    z_mm = grid.affine[2, 3] + grid.affine[2, 2] * np.arange(len(image)) - 10
    expected = site.units * (0.2 + z_mm / 59)
    assert np.abs(image[:, 4, 4] - expected).max() <= 1.0, "each slice lies where its affine says"


def test_finer_voxels_than_the_maps_and_unknown_sites_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"site A: voxels of 0\.5 mm over a label map of 1 mm"):
        lay_grid(dataclasses.replace(CLEAN, slice_mm=0.5), (60, 8, 8), np.eye(4))
    with pytest.raises(ConfigError, match="head site 'E'; choose one of A, B, C, D"):
        find_site("E")


def test_sites_differ_in_grid_units_and_noise() -> None:
    anatomy = small_anatomy()
    heads = {s.name: make_head(anatomy, HeadConfig(site=s.name, stripped=False), 7) for s in SITES}
    spacings = [head.image.spacing_mm_zyx[0] for head in heads.values()]
    assert spacings == [1.0, 3.0, 5.0, 2.0]
    brains = {n: h.image.array[h.labels.array == 1].mean() for n, h in heads.items()}
    assert brains["C"] > brains["A"] > brains["B"] > brains["D"]
    air = {n: h.image.array[:, :4, :4].mean() / brains[n] for n, h in heads.items()}
    assert all(share > 0.01 for share in air.values()), "noise of a magnitude has a mean"
    assert air["D"] == max(air.values())


def test_an_image_of_the_whole_head_shows_skull_and_skin() -> None:
    anatomy = small_anatomy()
    whole = make_head(anatomy, HeadConfig(site="A", stripped=False, contrast="t1"), 7).image.array
    skin, bone, muscle = (
        float(whole[where(anatomy.tissues, name)].mean())
        for name in ("skin", "bone", "soft_tissue")
    )
    assert skin > 2 * bone
    assert muscle > 2 * bone
