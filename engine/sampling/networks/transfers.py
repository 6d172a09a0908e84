"""Arrays to the device and images back, without making the host wait for the device's queue."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.log import get_logger

log = get_logger(__name__)


def to_device(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """The same values on the device; a GPU takes them from pinned memory in its own time."""
    tensor = (
        values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    )
    if device.type != "cuda":
        return tensor.to(device)
    room = host_room(tuple(tensor.shape), tensor.dtype, device)
    return room.copy_(tensor).to(device, non_blocking=True)


def host_room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host memory that a GPU can write to by itself, where the system gives some."""
    if device.type == "cuda":
        try:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError as error:
            log.warning("no pinned memory, so transfers are slower: %s", error)
    return torch.empty(shape, dtype=dtype)
