"""A rival as a sampler: requests in, volumes out, like `engine.sampling.sampler.Sampler`.

What it must know beside the request is handed in: training cases, and for the redrawn truth another
scan of the same case. Knows no torch, no files and no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.errors import SamplingError
from engine.sampling.request import RealCase, SampledVolume, SampleRequest
from engine.sampling.rivals import atlas
from engine.sampling.rivals.matching import match_quantiles
from engine.sampling.rivals.methods import RIVALS, rival_digest
from engine.sampling.rivals.painting import Means, complete, means_in, paint
from engine.volumes.volume import PreparedCase

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Background:
    """What a rival may know beside a request.

    Attributes:
        training: (patient, case) of the training cases, read one after the other; empty is none.
        patients: case -> patient, so that no atlas holds the patient who is asked for.
        num_classes: classes beside background.
        contour: number of the class that preparing added around the organs; 0 is none.
        another_scan: reads the other draw of a case, for the redrawn truth.
    """

    training: Callable[[], Iterable[tuple[str, PreparedCase]]]
    patients: Mapping[str, str]
    num_classes: int
    contour: int = 0
    another_scan: Callable[[str], PreparedCase] | None = None


class RivalSampler:
    """Makes volumes by one of the methods of `RIVALS`."""

    def __init__(self, method: str, background: Background) -> None:
        self.weights_sha256 = rival_digest(method)
        self._method, self._background = method, background
        self._makers: dict[str, Callable[[SampleRequest, Image], Image]] = {
            "painting": self._painted,
            "atlas": self._atlas,
            "copy": lambda request, informed: np.repeat(informed[None], len(request.mask), 0),
            "identity": lambda request, _: self._real(request),
            "quantiles": self._matched,
            "redrawn": lambda request, _: self._redrawn(request),
        }
        assert self._makers.keys() == RIVALS.keys()

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume; it has no windows and no joins.

        Raises:
            SamplingError: the request lacks what the method looks at.
        """
        started = time.perf_counter()
        if request.informed is None:
            raise SamplingError(
                f"{request.sample_id}: {self._method} draws no informed slice; use informed own, "
                "cross or fixed"
            )
        image = self._makers[self._method](request, request.informed)
        if on_window is not None:
            on_window(1, 1)
        seconds = time.perf_counter() - started
        return SampledVolume(np.asarray(image, np.float32), (), 0, {self._method: seconds})

    @cached_property
    def _aligned(self) -> list[atlas.AlignedCase]:
        cases = (
            atlas.align(patient, case.image, case.mask)
            for patient, case in self._background.training()
            if case.image is not None
        )
        return [case for case in cases if case is not None]

    def _others(self, request: SampleRequest) -> list[atlas.AlignedCase]:
        """The training cases of other patients."""
        real = request.real
        own = None if real is None else self._background.patients.get(real.case_id, real.case_id)
        return [case for case in self._aligned if case.patient != own]

    def _means(self, request: SampleRequest, informed: Image) -> Means:
        known = {} if request.informed_mask is None else means_in(informed, request.informed_mask)
        wanted = set(np.unique(request.mask).tolist())
        usual = {} if wanted <= known.keys() else atlas.usual_means(self._others(request))
        return complete(known, usual, max(self._background.num_classes, *wanted))

    def _painted(self, request: SampleRequest, informed: Image) -> Image:
        return paint(request.mask, self._means(request, informed))

    def _atlas(self, request: SampleRequest, informed: Image) -> Image:
        mean = atlas.mean_image(self._others(request))
        if mean is None:
            raise SamplingError(
                f"{request.sample_id}: no training case of another patient has an image, so there "
                "is no atlas; add training cases, or use --method painting"
            )
        means = self._means(request, informed)
        image = atlas.lay_onto(mean, request.mask, means[0])
        image = _as_bright(image, request, informed)
        contour = self._background.contour
        organs = (request.mask > 0) & (request.mask != contour)
        if contour == 0:  # all classes are organs, and nothing of the mean would be left
            return image
        return np.where(organs, paint(request.mask, means), image)

    def _matched(self, request: SampleRequest, informed: Image) -> Image:
        if request.informed_mask is None:
            raise SamplingError(
                f"{request.sample_id}: the informed slice has no mask, so its classes' "
                "distributions are not known; give a slice of a prepared case"
            )
        return match_quantiles(self._real(request), request.mask, informed, request.informed_mask)

    def _real(self, request: SampleRequest) -> Image:
        if request.real is None or request.real.image is None:
            raise SamplingError(
                f"{request.sample_id}: {self._method} needs the mask's own real volume, and the "
                "case has no image or its mask was changed; use another --method"
            )
        return request.real.image

    def _redrawn(self, request: SampleRequest) -> Image:
        self._real(request)
        real, read = request.real, self._background.another_scan
        assert isinstance(real, RealCase) and read is not None
        other = read(real.case_id)
        if other.image is None or other.image.shape != request.mask.shape:
            raise SamplingError(
                f"{request.sample_id}: the other draw of {real.case_id} has no image on the same "
                "grid; make and prepare it with the same settings but for --draw"
            )
        return real.intensity.to_model(other.intensity.to_source(other.image))


def _as_bright(image: Image, request: SampleRequest, informed: Image) -> Image:
    """An atlas shifted so that its body has the informed slice's mean at the slice's height."""
    z = round(request.informed_position * (len(image) - 1))
    seen = None if request.informed_mask is None else request.informed_mask > 0
    body = request.mask[z] > 0
    if seen is None or not seen.any() or not body.any():
        return image
    shift = float(informed[seen].mean()) - float(image[z][body].mean())
    shifted = np.where(request.mask > 0, image + np.float32(shift), image)
    return np.clip(shifted, -1.0, 1.0)
