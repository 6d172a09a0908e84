"""Whose appearance a volume gets: the choice of the informed slice. Pure; reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import SamplingError
from engine.sampling.noise import noise_seed

InformedSource = Literal["own", "cross"]


@dataclass(frozen=True)
class InformedChoice:
    """Slice `z` of the prepared image of `case_id`."""

    case_id: str
    z: int


def choose_informed(
    source: InformedSource,
    case_id: str,
    num_slices: int,
    with_image: Mapping[str, int],
    seed: int,
    sample_id: str,
) -> InformedChoice:
    """Choose the informed slice of one sample.

    `own` is the case's middle slice (the paper's test setting). `cross` (the paper's IC) draws
    another case by hash(seed, sample_id) and takes its slice at the same relative height.

    Args:
        source: own or cross.
        case_id: whose mask is sampled.
        num_slices: slices of that mask.
        with_image: prepared slices of every case that has an image.
        seed: of the run.
        sample_id: of the sample.

    Raises:
        SamplingError: no image to take a slice from.
    """
    if source == "own":
        if case_id not in with_image:
            raise SamplingError(f"{case_id}: has no image of its own; use informed cross")
        return InformedChoice(case_id, with_image[case_id] // 2)
    others = sorted(name for name in with_image if name != case_id)
    if not others:
        raise SamplingError(f"{case_id}: no other case has an image; use informed own")
    chosen = others[noise_seed(seed, sample_id, 0, "informed case") % len(others)]
    height = (num_slices // 2) / max(num_slices - 1, 1)
    return InformedChoice(chosen, round(height * (with_image[chosen] - 1)))
