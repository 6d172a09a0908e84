"""What is computed of all voxels of a sampled volume: measures, the way back, the mask as seen.

On the worker's GPU where it has one (a volume of 155 slices of 512 px: 14 s of CPU for measures
and 3 s for the way back become a fraction of a second), else by NumPy; where the GPU has no memory
left, by NumPy as well. What a mask loses on the model's grid is kept for the next volume of the
same mask. Several threads may ask at once. Knows no plan and no run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.measures import measure_volume
from engine.evaluation.subject import Subject
from engine.evaluation.values import VolumeMeasures
from engine.log import get_logger
from engine.runs.making.voxels.subjects import subject_of
from engine.volumes.prepared.class_loss import ClassLoss
from engine.volumes.prepared.grid_loss import grid_loss, model_mask
from engine.volumes.prepared.prepare import to_native
from engine.volumes.prepared.store import array_digest
from engine.volumes.volume import PreparedCase, Volume

log = get_logger(__name__)

R = TypeVar("R")
_MASKS_KEPT = 4  # a volume's voxels in bytes each


@dataclass(frozen=True)
class SeenMask:
    """A case's mask as the model saw it.

    Attributes:
        mask: `z y x` classes on the scan's grid; None when it is the mask as drawn.
        loss: what the model's grid loses of each class.
        digest: of the mask on the model's grid.
    """

    mask: NDArray[np.uint8] | None
    loss: dict[str, ClassLoss]
    digest: str


class VoxelWork:
    """All that a worker computes of voxels beside sampling them.

    Args:
        device: torch's name of where the model is.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device if device.startswith("cuda") else ""
        self._is_told = False
        self._seen: OrderedDict[tuple[str, str], SeenMask] = OrderedDict()
        self._lock, self._gpu = threading.Lock(), threading.Lock()

    def measure(
        self,
        case: PreparedCase,
        image: NDArray[np.float32],
        joins: Sequence[int],
        original: PreparedCase,
    ) -> tuple[Subject, VolumeMeasures]:
        """A sampled volume as it is judged, and its measures; see `subject_of`."""

        def measured(device: str) -> tuple[Subject, VolumeMeasures]:
            subject = subject_of(case, image, joins, original, device)
            return subject, measure_volume(subject)

        return self._there(measured)

    def to_native(self, case: PreparedCase, image: NDArray[np.float32]) -> Volume:
        """A sampled volume on the mask's own grid, in source units."""

        def brought(device: str) -> Volume:
            if not device:
                return to_native(case, image)
            from engine.runs.making.voxels.on_gpu import regridder

            return to_native(case, image, regridder(device))

        return self._there(brought)

    def seen(self, case: PreparedCase) -> SeenMask:
        """A case's mask as the model sees it, and what it loses; the same for every replica."""
        digest = array_digest(case.mask)
        key = (digest, array_digest(case.native_mask))
        with self._lock:
            found = self._seen.get(key)
            if found is not None:
                self._seen.move_to_end(key)
                return found
        back = model_mask(case)
        differs = not np.array_equal(back, case.native_mask)
        found = SeenMask(back if differs else None, grid_loss(case, back), digest)
        with self._lock:
            self._seen[key] = found
            while len(self._seen) > _MASKS_KEPT:
                self._seen.popitem(last=False)
        return found

    def _there(self, work: Callable[[str], R]) -> R:
        """Work on the GPU where there is one with room; "" is without."""
        if not self._device:
            return work("")
        import torch  # not at the top: the driver names workers, and shall not load it

        from engine.runs.making.voxels.on_gpu import beside_sampling

        try:
            with self._gpu, beside_sampling(self._device):  # one volume at a time: bounded memory
                return work(self._device)
        except torch.cuda.OutOfMemoryError:
            if not self._is_told:
                self._is_told = True
                log.warning(
                    "the GPU's memory is full: volumes are measured and regridded by the CPU; "
                    "lower sampling.memory_mb to leave a gigabyte"
                )
        torch.cuda.empty_cache()
        return work("")
