"""How much is computed together: windows a batch, slices encoded or decoded together.

What is not set is chosen by the size of the model and, on a GPU, by its free memory.
"""

from __future__ import annotations

import torch

from engine.sampling.config import SamplingConfig
from models.presets import Preset

BUSY = 2**27  # values of the widest features of a batch that keep a large GPU busy
MOST_WINDOWS, FEWEST_WINDOWS = 32, 4
MOST_SLICES = 32  # the last batch of a volume is filled up: more would be computed in vain
PLANES_AT_ONCE = 6  # widest planes that an autoencoder holds at its full resolution
SHARE, MOST_MB = 0.25, 6500.0  # of free memory, for slices that are encoded or decoded together


def windows_at_once(config: SamplingConfig, preset: Preset, device: torch.device) -> int:
    """Most windows a batch; as many as keep a GPU busy, where no number is set."""
    if device.type != "cuda" or config.max_windows is not None:
        return config.windows_in_a_batch(device)
    values = preset.window * preset.latent_px**2 * preset.denoiser.base_channels
    most = min(MOST_WINDOWS, max(FEWEST_WINDOWS, _power_below(BUSY / values)))
    return max(1, most // 2) if config.is_guided else most


def fixed_sizes(most: int) -> tuple[int, ...]:
    """Powers of two below `most`, and `most`: the sizes of batches that a GPU sees."""
    sizes = {most, *(2**power for power in range(most.bit_length()))}
    return tuple(sorted(size for size in sizes if size <= most))


def slices_at_once(
    config: SamplingConfig, preset: Preset, device: torch.device, dtype: torch.dtype
) -> int:
    """Slices encoded or decoded together; as many as free memory takes, where none are set."""
    if device.type != "cuda" or config.decode_batch is not None:
        return config.slices_in_a_batch(device)
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return slices_that_fit(preset, dtype, (free + unused) / 2**20)


def slices_that_fit(preset: Preset, dtype: torch.dtype, free_mb: float) -> int:
    """A power of two of slices, for which a share of the free memory is enough."""
    widest = max(preset.autoencoder.block_channels[:2])  # those that see full resolution
    plane_mb = widest * preset.size_px**2 * dtype.itemsize / 2**20
    room = min(SHARE * free_mb, MOST_MB)
    return min(MOST_SLICES, max(1, _power_below(room / (PLANES_AT_ONCE * plane_mb))))


def _power_below(value: float) -> int:
    return 1 << max(0, int(value).bit_length() - 1)
