"""What goes into the sampler and what comes out, on the model's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import SamplingError
from engine.volumes.volume import IntensityWindow, PreparedCase
from models.weights.manifest import Manifest


@dataclass(frozen=True)
class RealCase:
    """The case whose mask is sampled. No model looks at it; rivals do (`engine.sampling.rivals`).

    Attributes:
        case_id: its name.
        image: `z y x` in [-1, 1] by `intensity`; None without an image, or where its mask was
            changed, so that it is no image of the mask.
        intensity: window of the volume to be made.
    """

    case_id: str
    image: NDArray[np.float32] | None
    intensity: IntensityWindow


@dataclass(frozen=True)
class SampleRequest:
    """One volume to make.

    Attributes:
        sample_id: names the sample; part of its randomness.
        seed: of the run.
        mask: `z y x` classes on the model's grid.
        informed: `y x` float32 slice in [-1, 1]; None has the weights' position model draw one at
            `informed_position`, by seed and sample_id.
        informed_mask: `y x` classes of that slice, or None where they are not known; tells a model
            that paints masks how bright each class is.
        informed_position: height of that slice in its own volume, 0 to 1.
        start: z where the first window starts; None puts the window around the informed height.
        real: the mask's own case, for rivals only.
        pinned: z of the slice of this volume that the informed slice is: it is known before the
            others are made (`SamplingConfig.pin_informed`). None when it is of another patient.
    """

    sample_id: str
    seed: int
    mask: NDArray[np.uint8]
    informed: NDArray[np.float32] | None
    informed_position: float
    informed_mask: NDArray[np.uint8] | None = None
    start: int | None = None
    real: RealCase | None = None
    pinned: int | None = None

    @classmethod
    def own(cls, case: PreparedCase, seed: int) -> SampleRequest:
        """The paper's test setting: a case's mask with its own middle slice.

        Raises:
            SamplingError: the case has no image.
        """
        if case.image is None:
            raise SamplingError(f"{case.case_id}: has no image to take an informed slice from")
        z = len(case.image) // 2
        height = z / max(len(case.image) - 1, 1)
        return cls(case.case_id, seed, case.mask, case.image[z], height, case.mask[z], pinned=z)

    def check(self, manifest: Manifest) -> None:
        """Refuse what the model cannot take.

        Raises:
            SamplingError: names the sample, what does not fit and what to do.
        """
        edge, name = manifest.preset.size_px, self.sample_id
        if self.mask.ndim != 3 or self.mask.shape[1:] != (edge, edge) or not len(self.mask):
            raise SamplingError(
                f"{name}: mask of {self.mask.shape}, but the model takes z x {edge} x {edge}; "
                "prepare with the preset's size_yx"
            )
        given = self.informed
        if given is not None and (given.shape != (edge, edge) or not np.isfinite(given).all()):
            raise SamplingError(f"{name}: the informed slice must be {edge} x {edge} and finite")
        if int(self.mask.max(initial=0)) > manifest.num_classes:
            raise SamplingError(
                f"{name}: mask has class {int(self.mask.max())}, the model knows "
                f"{manifest.num_classes}; prepare with the label map of its training"
            )
        if given is None and self.informed_mask is not None:
            raise SamplingError(
                f"{name}: a slice that is yet to be drawn has no mask; leave it out"
            )
        if self.pinned is not None and not (
            given is not None and 0 <= self.pinned < len(self.mask)
        ):
            raise SamplingError(
                f"{name}: slice {self.pinned} cannot be pinned; give the informed slice, and its z "
                f"from 0 to {len(self.mask) - 1}"
            )
        if self.informed_mask is not None and self.informed_mask.shape != (edge, edge):
            raise SamplingError(f"{name}: the informed slice's mask must be {edge} x {edge}")


@dataclass(frozen=True)
class SampledVolume:
    """A finished volume on the model's grid.

    Attributes:
        image: `z y x` float32 in [-1, 1].
        joins: z such that slices z - 1 and z were made in different windows.
        num_windows: windows denoised.
        timings_s: seconds by stage (encode, denoise, decode); in a shared batch a volume's part.
        informed: `y x` the informed slice that was drawn for it; None when one was given.
    """

    image: NDArray[np.float32]
    joins: tuple[int, ...]
    num_windows: int
    timings_s: dict[str, float]
    informed: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Outcome:
    """How one request ended: exactly one of `volume` and `error` is there."""

    sample_id: str
    volume: SampledVolume | None = None
    error: SamplingError | None = None

    def result(self) -> SampledVolume:
        """The volume.

        Raises:
            SamplingError: there is none, and why.
        """
        if self.error is not None:
            raise self.error
        assert self.volume is not None
        return self.volume
