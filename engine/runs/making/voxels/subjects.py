"""A generated case as the measures look at it (`engine.evaluation.measures`). Knows no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.subject import Scan, Subject
from engine.volumes.volume import PreparedCase


def subject_of(
    case: PreparedCase,
    image: NDArray[np.float32],
    joins: Sequence[int],
    original: PreparedCase | None = None,
    device: str = "",
) -> Subject:
    """A generated volume beside the real one of its mask, where there is one.

    Args:
        case: whose mask it was made for, with that mask and the volume's intensity window.
        image: generated, `z y x` in [-1, 1], on the case's prepared grid.
        joins: z at which slices z - 1 and z come from different windows.
        original: the case as it was, when its mask or window was changed: the real volume is
            measured there, and compared voxel by voxel only under the same mask.
        device: of torch, to measure on; empty is NumPy.
    """
    own = original or case
    subject, scan = _kinds(device)
    real = None
    if case.image is not None:
        real = scan(case.image, own.mask, own.class_names, own.intensity)
    made = scan(image, case.mask, case.class_names, case.intensity)
    return subject(made, real, joins, same_mask=own.mask is case.mask)


def _kinds(device: str) -> tuple[type[Subject], Callable[..., Scan]]:
    if not device:
        return Subject, Scan
    from engine.runs.making.voxels.on_gpu import DeviceScan, DeviceSubject  # which load torch

    return DeviceSubject, partial(DeviceScan, device=device)
