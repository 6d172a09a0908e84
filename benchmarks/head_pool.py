"""Heads on the card: slices, masks and latents of all training cases, and batches drawn from them.

Everything that a training step needs lies on the device, and every draw is a few kernels there.
Cases may come while the training runs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.training.examples.windows import DenoiserBatch
from head_cases import Bytes, load_case
from models.autoencoder import Autoencoder
from models.conditions import Conditions
from models.mask_encoding import class_appearance
from models.presets import Preset

_ENCODE_BATCH = 256


class HeadPool:
    """Cases on a device, slice behind slice.

    Args:
        preset: of the model.
        num_classes: background not counted.
        max_slices: room for so many.
        device: where they lie.
    """

    def __init__(
        self, preset: Preset, num_classes: int, max_slices: int, device: torch.device
    ) -> None:
        self.preset, self.num_classes, self.device = preset, num_classes, device
        edge, low = preset.size_px, preset.latent_px
        latent = (max_slices, preset.autoencoder.latent_channels, low, low)
        self.images = torch.zeros(max_slices, edge, edge, dtype=torch.uint8, device=device)
        self.masks = torch.zeros_like(self.images)
        self.means = torch.zeros(latent, dtype=torch.bfloat16, device=device)
        self.spreads = torch.zeros_like(self.means)
        self.appearance = torch.zeros(max_slices, 2, num_classes, device=device)
        self.first = torch.zeros(0, dtype=torch.int64, device=device)
        self.sizes = torch.zeros(0, dtype=torch.int64, device=device)
        self.num_slices = self.num_encoded = 0
        self._seen: set[str] = set()

    @property
    def num_cases(self) -> int:
        """Cases that are drawn from."""
        return len(self._seen)

    def look(self, folders: list[Path], at_most: int = 1000) -> int:
        """Take in the cases that lie in `folders` by now; the number of new ones."""
        found = [path for folder in folders for path in sorted(folder.glob("[!.]*.case.*"))]
        new = [path for path in found if path.name not in self._seen][:at_most]
        for path in new:
            self._seen.add(path.name)
            self._add(load_case(path))
        return len(new)

    def _add(self, case: Bytes) -> None:
        size = len(case.image)
        if size < self.preset.window or self.num_slices + size > len(self.images):
            return
        here = slice(self.num_slices, self.num_slices + size)
        self.images[here] = torch.from_numpy(case.image).to(self.device)
        self.masks[here] = torch.from_numpy(case.mask).to(self.device)
        self.appearance[here] = class_appearance(
            self._floats(self.images[here]), self.masks[here], self.num_classes
        )
        start = torch.tensor([self.num_slices], device=self.device)
        self.first = torch.cat([self.first, start])
        self.sizes = torch.cat([self.sizes, torch.tensor([size], device=self.device)])
        self.num_slices += size

    @torch.no_grad()
    def encode(self, autoencoder: Autoencoder) -> None:
        """Latents of the slices that have none yet."""
        while self.num_encoded < self.num_slices:
            stop = min(self.num_encoded + _ENCODE_BATCH, self.num_slices)
            here = slice(self.num_encoded, stop)
            with torch.autocast(self.device.type, torch.bfloat16):
                moments = autoencoder.encode(self._floats(self.images[here])[:, None])
            self.means[here] = moments.mean.to(torch.bfloat16)
            self.spreads[here] = (0.5 * moments.log_variance.float()).exp().to(torch.bfloat16)
            self.num_encoded = stop

    def planes(self, count: int) -> Tensor:
        """Random slices, half of them mirrored, `b 1 y x` in [-1, 1]."""
        chosen = torch.randint(self.num_slices, (count,), device=self.device)
        planes = self._floats(self.images[chosen])[:, None]
        return torch.cat([planes[: count // 2], planes[count // 2 :].flip(-1)])

    def batch(self, count: int, pinned_share: float, max_overlap: int = 4) -> DenoiserBatch:
        """Windows of whole cases, with the informed slice and the known ones as in propagation.

        Args:
            count: windows.
            pinned_share: of the windows hold their informed slice, and it is known.
            max_overlap: most known slices at an end.
        """
        n, device = self.preset.window, self.device
        case = torch.randint(len(self.first), (count,), device=device)
        first, size = self.first[case], self.sizes[case]
        source = (torch.rand(count, device=device) * size).long()
        pinned = torch.rand(count, device=device) < pinned_share
        low = torch.where(pinned, (source - n + 1).clamp(min=0), 0)
        high = torch.where(pinned, torch.minimum(source, size - n), size - n)
        start = low + (torch.rand(count, device=device) * (high - low + 1)).long()
        z = start[:, None] + torch.arange(n, device=device)
        known = self._ends(count, max_overlap) & ~pinned[:, None]
        known |= (z == source[:, None]) & (pinned | (torch.rand(count, device=device) < 0.7))[
            :, None
        ]
        return self._assemble(first, size, source, z, known)

    def _ends(self, count: int, max_overlap: int) -> Tensor:
        """Known slices at the left end, the right, both or none, `b n` bool."""
        n, device = self.preset.window, self.device
        where = torch.randint(10, (count, 1), device=device)  # 2 none, 4 left, 3 right, 1 both
        overlap = 1 + torch.randint(max_overlap, (count, 1), device=device)
        overlap = torch.where(torch.rand(count, 1, device=device) < 0.5, max_overlap, overlap)
        row = torch.arange(n, device=device)
        left = ((where >= 2) & (where < 6)) | (where == 9)
        return (left & (row < overlap)) | ((where >= 6) & (row >= n - overlap))

    def _assemble(
        self, first: Tensor, size: Tensor, source: Tensor, z: Tensor, known: Tensor
    ) -> DenoiserBatch:
        rows, n = (first[:, None] + z).flatten(), z.shape[1]
        mean = self.means[rows].float()
        x_0 = mean + torch.randn_like(mean) * self.spreads[rows].float()
        is_source = (z == source[:, None]).flatten()
        x_0 = torch.where(is_source[:, None, None, None], mean, x_0)
        there = first + source
        told = (torch.rand(len(first), 1, 1, device=self.device) < 0.9).float()
        last = (size - 1).clamp(min=1).float()
        heights = torch.stack(
            [z / last[:, None], (source / last)[:, None].expand(-1, n)], dim=-1
        ).flatten(0, 1)
        conditions = Conditions(
            mask=self._encoded_masks(rows),
            informed=self.means[there].float().repeat_interleave(n, 0),
            heights=heights.float(),
            known=known.flatten(),
            appearance=(self.appearance[there] * told).repeat_interleave(n, 0),
        )
        return DenoiserBatch(x_0, conditions, n)

    def _encoded_masks(self, rows: Tensor) -> Tensor:
        """What `one_hot_fractions` gives where sub-pixels are the image's own pixels."""
        sub = self.preset.denoiser.mask_subpixels
        assert sub == self.preset.autoencoder.factor
        classes = torch.arange(1, self.num_classes + 1, dtype=torch.uint8, device=self.device)
        planes = (self.masks[rows][:, None] == classes[:, None, None]).float() * 2.0 - 1.0
        return F.pixel_unshuffle(planes, sub)

    def _floats(self, values: Tensor) -> Tensor:
        return values.float() / 127.5 - 1.0
