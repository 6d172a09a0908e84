"""Measures of a generated volume beside the real one of its mask, taken when a run is evaluated.

Too slow to be taken of every volume that is made. The same entries as in `measures.py`; a new
comparison is one entry here. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.continuity import roughness, seam_ratio
from engine.evaluation.fidelity.errors import class_absolute_errors, mean_absolute_error
from engine.evaluation.fidelity.means import mean_errors
from engine.evaluation.fidelity.views import Plane, ms_ssim_view
from engine.evaluation.measures import INTENSITY, Measure
from engine.evaluation.subject import Scan, Subject
from engine.evaluation.texture.detail import (
    detail_deviations,
    noise_spectra,
    spectrum_distance,
)
from engine.evaluation.texture.edges import edge_match
from engine.evaluation.texture.flicker import brightness_flicker, flicker
from engine.evaluation.values import Value

_RANGE = 2.0
_NO_TRUTH = "the mask was changed, or its case has no image: there is no real volume to compare"
_TOO_SMALL = "a side is shorter than one window of 7 voxels, or there is no body"

Compare = Callable[[Scan, Scan], Value]


def _compared(compare: Compare, empty: Value = None) -> Callable[[Subject], Value]:
    """Of the generated volume and the real one of the same mask, where there is one."""

    def compute(subject: Subject) -> Value:
        real = subject.compared
        return empty if real is None else compare(subject.made, real)

    return compute


def _view(made: Scan, real: Scan, plane: Plane, *, in_body: bool = False) -> Value:
    body = real.body if in_body else None
    return ms_ssim_view(made.image, real.image, _RANGE, plane, body)


def _ratio(made: float | None, real: float | None) -> float | None:
    return None if made is None or not real else made / real


def _relative(
    measure: Callable[[NDArray[np.float32], NDArray[np.bool_]], float | None],
) -> Callable[[Subject], Value]:
    """A measure of the generated volume over that of the real one, in the real one's body."""
    return _compared(
        lambda made, real: _ratio(measure(made.image, real.body), measure(real.image, real.body))
    )


def _detail_ratios(made: Scan, real: Scan) -> Value:
    found, true = (detail_deviations(s.image, real.mask, real.class_names) for s in (made, real))
    return {name: found[name] / true[name] for name in found if true[name] > 0}


def _spectrum_distances(made: Scan, real: Scan) -> Value:
    found, true = (noise_spectra(s.image, real.mask, real.class_names) for s in (made, real))
    distances = {name: spectrum_distance(found[name], true[name]) for name in found}
    return {name: value for name, value in distances.items() if value is not None}


def _edge(made: Scan, real: Scan, which: int) -> Value:
    match = edge_match(made.image, real.image, real.mask)
    return None if match is None else float(match[which])


def _seam_relative(subject: Subject) -> Value:
    real = subject.real
    if real is None or not subject.joins:
        return None
    made = seam_ratio(subject.made.image, subject.joins, subject.made.body)
    return _ratio(made, seam_ratio(real.image, subject.joins, real.body))


def _mean_absolute(made: Scan, real: Scan) -> Value:
    return mean_absolute_error(made.source, real.source, real.body)


def _class_absolute(made: Scan, real: Scan) -> Value:
    return class_absolute_errors(made.source, real.source, real.mask, real.class_names)


def _fidelity(name: str, title: str, meaning: str, plane: Plane, *, in_body: bool) -> Measure:
    return Measure(
        name, "", 4, title, meaning,
        compute=_compared(partial(_view, plane=plane, in_body=in_body)),
        group="fidelity", best=1.0, absent=_TOO_SMALL,
    )  # fmt: skip


COMPARISONS: tuple[Measure, ...] = (
    _fidelity("ms_ssim_axial", "MS-SSIM, axial", "the paper's: mean over axial slices", "axial",
              in_body=False),
    _fidelity("ms_ssim_coronal", "coronal", "mean over coronal slices, as many of the finest "
              "scales as fit", "coronal", in_body=False),
    _fidelity("ms_ssim_sagittal", "sagittal", "mean over sagittal slices", "sagittal",
              in_body=False),
    _fidelity("ms_ssim_3d", "3D", "with three-dimensional windows", "volume", in_body=False),
    _fidelity("ms_ssim_body", "axial, body", "windows whose centre lies inside the body only",
              "axial", in_body=True),
    _fidelity("ms_ssim_body_3d", "3D, body", "three-dimensional windows, inside the body only",
              "volume", in_body=True),
    Measure(
        "mae", INTENSITY, 3, "mean absolute error", "of a voxel inside the body",
        compute=_compared(_mean_absolute), group="fidelity", best=0.0, absent=_NO_TRUTH,
    ),
    Measure(
        "class_mae", INTENSITY, 3, "absolute error by class", "of a voxel inside the class",
        compute=_compared(_class_absolute, {}), by_class=True, group="fidelity", best=0.0,
        absent=_NO_TRUTH,
    ),
    Measure(
        "class_bias", INTENSITY, 3, "mean error by class",
        "generated minus real mean inside the class",
        compute=_compared(lambda made, real: mean_errors(made.means, real.means), {}),
        by_class=True, group="fidelity", best=0.0, absent=_NO_TRUTH,
    ),
    Measure(
        "detail_ratio", "", 4, "detail by class",
        "standard deviation of what is finer than 1.5 pixels inside the class over the real one's; "
        "below 1 is blurred",
        compute=_compared(_detail_ratios, {}), by_class=True, group="texture", best=1.0,
        absent="no class has 200 voxels away from its border",
    ),
    Measure(
        "spectrum_distance", "", 4, "noise spectrum by class",
        "mean magnitude of the ratio of the noise power spectra, in decades",
        compute=_compared(_spectrum_distances, {}), by_class=True, group="texture", best=0.0,
        absent="no class has 200 voxels away from its border",
    ),
    Measure(
        "edge_agreement", "", 4, "edge agreement",
        "correlation of in-plane gradients near the mask's borders with the real ones",
        compute=_compared(partial(_edge, which=0)), group="texture", best=1.0,
        absent="the mask has no border, or an image no gradient there",
    ),
    Measure(
        "edge_strength", "", 4, "edge strength",
        "mean in-plane gradient near the mask's borders over the real one",
        compute=_compared(partial(_edge, which=1)), group="texture", best=1.0,
        absent="the mask has no border, or an image no gradient there",
    ),
    Measure(
        "seam_relative", "", 4, "seams",
        "seam ratio over the real volume's own at the same z",
        compute=_seam_relative, group="texture", best=1.0,
        absent="the volume has no window joins, or its case no image",
    ),
    Measure(
        "roughness_relative", "", 4, "roughness along z",
        "through-plane over in-plane gradient, over the real volume's own",
        compute=_relative(roughness), group="texture", best=1.0,
        absent="an image is constant in-plane, or has one slice",
    ),
    Measure(
        "flicker_relative", "", 4, "flicker",
        "what neighbouring slices take back of each other's changes, over the real volume's own",
        compute=_relative(flicker), group="texture", best=1.0,
        absent="fewer than three slices with body",
    ),
    Measure(
        "brightness_flicker_relative", "", 4, "flicker of brightness",
        "the same of the slices' mean brightness",
        compute=_relative(brightness_flicker), group="texture", best=1.0,
        absent="fewer than three slices with body",
    ),
)  # fmt: skip
"""All comparisons, in the order of tables."""


def compare_volume(subject: Subject) -> tuple[dict[str, Value], dict[str, str]]:
    """All comparisons of one volume.

    Returns:
        Values by name; and why each of the others is absent.
    """
    values: dict[str, Value] = {}
    absent: dict[str, str] = {}
    for measure in COMPARISONS:
        assert measure.compute is not None
        value = measure.rounded(measure.compute(subject))
        if value is None or value == {}:
            absent[measure.name] = _NO_TRUTH if subject.compared is None else measure.absent
        else:
            values[measure.name] = value
    return values, absent
