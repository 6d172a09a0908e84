"""Training examples: image crops, single slices, or windows of n slices with known ones.

Draws from cases in memory with its own generator, so that data order is part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import TrainingError
from engine.training.latents import LatentCase
from engine.volumes.volume import PreparedCase


@dataclass(frozen=True)
class DenoiserBatch:
    """One step's examples; `m = b n` slices.

    Attributes:
        x_0: `m c h w` clean latents.
        mask: `m k h w`.
        informed: `m c h w`.
        heights: `m 2`, of the slice and of its informed slice, in [0, 1].
        known: `m` bool, slices given clean.
        appearance: `m 2 k`, class means and presence in the informed slice; all absent in a tenth
            of the examples, so that an informed slice without a mask can be used as well.
        num_slices: n of a window, or None for independent slices.
    """

    x_0: Tensor
    mask: Tensor
    informed: Tensor
    heights: Tensor
    known: Tensor
    appearance: Tensor
    num_slices: int | None


class CaseDraw:
    """Draws case numbers by weight from one generator, whose state a checkpoint keeps."""

    def __init__(self, case_ids: list[str], weight: Mapping[str, float], seed: int) -> None:
        self.weights = torch.tensor([weight.get(name, 1.0) for name in case_ids])
        self.generator = torch.Generator().manual_seed(seed)

    def case(self) -> int:
        """Number of the next case."""
        return int(torch.multinomial(self.weights, 1, generator=self.generator))

    def below(self, high: int) -> int:
        """Uniform integer in [0, high)."""
        return int(torch.randint(high, (1,), generator=self.generator))


class CropDataset:
    """Random square crops of single slices, for the autoencoder."""

    def __init__(
        self, cases: list[PreparedCase], crop_px: int, weight: Mapping[str, float], seed: int
    ) -> None:
        with_image = [case for case in cases if case.image is not None]
        if not with_image:
            raise TrainingError("no case with an image to train on; prepare images beside masks")
        self.volumes = [torch.from_numpy(case.image).half() for case in with_image]
        self.crop_px = min(crop_px, *self.volumes[0].shape[1:])
        self.draw = CaseDraw([case.case_id for case in with_image], weight, seed)

    def batch(self, size: int) -> Tensor:
        """`size 1 crop crop` float32 in [-1, 1]."""
        return torch.stack([self._crop() for _ in range(size)])[:, None].float()

    def _crop(self) -> Tensor:
        volume, edge = self.volumes[self.draw.case()], self.crop_px
        z, *low = (
            self.draw.below(n - size + 1)
            for n, size in zip(volume.shape, (1, edge, edge), strict=True)
        )
        return volume[z, low[0] : low[0] + edge, low[1] : low[1] + edge]


class LatentDataset:
    """Windows (or, with `window=1`, single slices) of latents with an informed slice.

    The informed slice comes from anywhere in the same volume, so that the model learns to carry a
    patient's appearance over a distance. Known slices lie at one end of a window, at both, or
    nowhere, as they do in propagation.
    """

    def __init__(
        self,
        cases: list[LatentCase],
        window: int,
        max_overlap: int,
        weight: Mapping[str, float],
        seed: int,
    ) -> None:
        self.cases = [case for case in cases if case.num_slices >= window]
        self.num_skipped = len(cases) - len(self.cases)
        if not self.cases:
            raise TrainingError(
                f"none of {len(cases)} cases has the {window} slices of a window; "
                "give longer volumes or a preset with a shorter window"
            )
        self.window, self.max_overlap = window, max_overlap
        self.draw = CaseDraw([case.case_id for case in self.cases], weight, seed)

    def batch(self, size: int) -> DenoiserBatch:
        """`size` windows (or slices)."""
        parts = [self._example() for _ in range(size)]
        x_0, mask, informed, heights, known, seen = (
            torch.cat(values) for values in zip(*parts, strict=True)
        )
        num_slices = self.window if self.window > 1 else None
        return DenoiserBatch(x_0, mask, informed, heights, known, seen, num_slices)

    def _example(self) -> tuple[Tensor, ...]:
        case = self.cases[self.draw.case()]
        last = max(case.num_slices - 1, 1)
        start = self.draw.below(case.num_slices - self.window + 1)
        source = self.draw.below(case.num_slices)
        z = torch.arange(start, start + self.window)
        informed = self._latent(case, torch.tensor([source])).expand(self.window, -1, -1, -1)
        heights = torch.stack([z / last, torch.full_like(z, source) / last], dim=1)
        seen = case.appearance[source] * float(self.draw.below(10) > 0)
        seen = seen.expand(self.window, -1, -1)
        return self._latent(case, z), case.mask[z].float(), informed, heights, self._known(), seen

    def _latent(self, case: LatentCase, z: Tensor) -> Tensor:
        noise = torch.randn(case.mean[z].shape, generator=self.draw.generator)
        return case.mean[z] + noise * torch.exp(0.5 * case.log_variance[z].float())

    def _known(self) -> Tensor:
        known = torch.zeros(self.window, dtype=torch.bool)
        if self.window == 1:
            return known
        where = self.draw.below(10)  # 3 none, 3 left, 3 right, 1 both
        overlap = 1 + self.draw.below(min(self.max_overlap, self.window // 2 - 1))
        if 3 <= where < 6 or where == 9:
            known[:overlap] = True
        if where >= 6:
            known[-overlap:] = True
        return known
