"""Masks to condition channels, every distinct plane once.

Replicas, informed slices and mask augmentations use the same planes again, and so do the empty ends
of a mask. A plane is known by its bytes, so that nothing can be mistaken for it. Knows no request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.sampling.networks.transfers import to_device

KEPT_MB = 512.0


class MaskPlanes:
    """Encoded planes, the last used ones kept.

    Args:
        encode: at most `num` planes `b y x` of classes, and `num`, to `b k h w` channels.
        device: where they are needed.
        kept_mb: bound of what is kept, planes and channels counted.
    """

    def __init__(
        self,
        encode: Callable[[Tensor, int], Tensor],
        device: torch.device,
        kept_mb: float = KEPT_MB,
    ) -> None:
        self._encode, self._device, self._room = encode, device, int(kept_mb * 2**20)
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def encoded(self, mask: NDArray[np.uint8], batch: int) -> Tensor:
        """Channels `z k h w` of a mask `z y x`, at most `batch` planes encoded together."""
        planes = [plane.tobytes() for plane in mask]
        missing = {plane: z for z, plane in reversed([*enumerate(planes)])}
        found = {plane: self._kept[plane] for plane in missing if plane in self._kept}
        rows = sorted(z for plane, z in missing.items() if plane not in found)
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            channels = self._encode(to_device(mask[part], self._device), batch).clone()
            found.update({planes[z]: channels[row] for row, z in enumerate(part)})
        self._keep(found)
        return torch.stack([found[plane] for plane in planes])

    def _keep(self, used: dict[bytes, Tensor]) -> None:
        for plane, channels in used.items():
            self._kept[plane] = channels
            self._kept.move_to_end(plane)
        size = sum(len(plane) + channels.nbytes for plane, channels in self._kept.items())
        while size > self._room:
            plane, channels = self._kept.popitem(last=False)
            size -= len(plane) + channels.nbytes
