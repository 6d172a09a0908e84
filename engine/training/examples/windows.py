"""Training examples: image crops, single slices, or windows of n slices with known ones.

Every example is drawn with a generator of its own, so that it does not depend on who draws it
(randomness.py). Cases are maps of files, read where they are touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from engine.errors import TrainingError
from engine.training.examples.augment import case_of
from engine.training.examples.encoding import LatentCase
from engine.training.examples.randomness import below
from models.conditions import Conditions


@dataclass(frozen=True)
class DenoiserBatch:
    """One step's examples; `m = b n` slices.

    Attributes:
        x_0: `m c h w` clean latents.
        conditions: of the m slices. In a tenth of the examples no class of the informed slice is
            known, so that an informed slice without a mask can be used as well.
        num_slices: n of a window, or None for independent slices.
    """

    x_0: Tensor
    conditions: Conditions
    num_slices: int | None


class CaseDraw:
    """Draws case numbers by weight; a moved copy has its case's weight."""

    def __init__(self, names: Sequence[str], weight: Mapping[str, float]) -> None:
        self.weights = torch.tensor([weight.get(case_of(name), 1.0) for name in names])

    def case(self, generator: Generator) -> int:
        """Number of a case."""
        return int(torch.multinomial(self.weights, 1, generator=generator))


class CropDataset:
    """Random square crops of single slices, for the autoencoder."""

    def __init__(
        self, images: Mapping[str, Tensor], crop_px: int, weight: Mapping[str, float]
    ) -> None:
        if not images:
            raise TrainingError("no case with an image to train on; prepare images beside masks")
        self.volumes = list(images.values())
        self.crop_px = min(crop_px, *self.volumes[0].shape[1:])
        self.draw = CaseDraw(list(images), weight)

    @property
    def num_cases(self) -> int:
        """Cases and copies that are drawn from."""
        return len(self.volumes)

    def batch(self, generators: Sequence[Generator]) -> Tensor:
        """`b 1 crop crop` float32 in [-1, 1], an example a generator."""
        return torch.stack([self._crop(g) for g in generators])[:, None].float()

    def plane(self, generator: Generator) -> Tensor:
        """A whole slice `1 1 y x`."""
        volume = self.volumes[self.draw.case(generator)]
        return volume[below(len(volume), generator)].float()[None, None]

    def _crop(self, generator: Generator) -> Tensor:
        volume, edge = self.volumes[self.draw.case(generator)], self.crop_px
        z, *low = (
            below(n - size + 1, generator)
            for n, size in zip(volume.shape, (1, edge, edge), strict=True)
        )
        return volume[z, low[0] : low[0] + edge, low[1] : low[1] + edge]


class LatentDataset:
    """Windows (or, with `window=1`, single slices) of latents with an informed slice.

    The informed slice comes from anywhere in the same volume, so that the model learns to carry a
    patient's appearance over a distance. Known slices lie at one end of a window, at both, or
    nowhere, as they do in propagation; in a share of the windows the informed slice itself is
    known, at its place, as in the first window of a volume with an own slice.
    """

    def __init__(
        self,
        cases: list[LatentCase],
        window: int,
        max_overlap: int,
        weight: Mapping[str, float],
        pinned_share: float = 0.0,
    ) -> None:
        self.cases = [case for case in cases if case.num_slices >= window]
        self.num_skipped = len(cases) - len(self.cases)
        if not self.cases:
            raise TrainingError(
                f"none of {len(cases)} cases has the {window} slices of a window; "
                "give longer volumes or a preset with a shorter window"
            )
        self.window, self.max_overlap = window, max_overlap
        self.pinned_share = pinned_share if window > 1 else 0.0
        self.draw = CaseDraw([case.case_id for case in self.cases], weight)

    @property
    def num_cases(self) -> int:
        """Cases and copies that are drawn from."""
        return len(self.cases)

    def batch(self, generators: Sequence[Generator]) -> DenoiserBatch:
        """A window (or slice) a generator."""
        windows, conditions = zip(*(self._example(g) for g in generators), strict=True)
        n = self.window if self.window > 1 else None
        return DenoiserBatch(torch.cat(windows), Conditions.cat(conditions), n)

    def _example(self, generator: Generator) -> tuple[Tensor, Conditions]:
        case = self.cases[self.draw.case(generator)]
        start = below(case.num_slices - self.window + 1, generator)
        source = below(case.num_slices, generator)
        pinned = self.pinned_share > 0.0 and _chance(self.pinned_share, generator)
        if pinned:
            low, high = max(0, source - self.window + 1), min(source, case.num_slices - self.window)
            start = low + below(high - low + 1, generator)
        here, there = slice(start, start + self.window), slice(source, source + 1)
        informed = draw_latent(case, there, generator)
        volume = case.conditions(source, informed, classes_known=below(10, generator) > 0)
        x_0 = draw_latent(case, here, generator)
        known = self._known(generator)
        if pinned:
            known = torch.arange(start, start + self.window) == source
            x_0[source - start] = informed[0]
        return x_0, volume.window(here.start, here.stop, known)

    def _known(self, generator: Generator) -> Tensor:
        known = torch.zeros(self.window, dtype=torch.bool)
        if self.window < 4:  # no room for known slices beside some that are made
            return known
        where = below(10, generator)  # 3 none, 3 left, 3 right, 1 both
        overlap = 1 + below(min(self.max_overlap, self.window // 2 - 1), generator)
        if 3 <= where < 6 or where == 9:
            known[:overlap] = True
        if where >= 6:
            known[-overlap:] = True
        return known


def _chance(share: float, generator: Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < share


def draw_latent(case: LatentCase, z: slice, generator: Generator) -> Tensor:
    """A posterior sample of slices `z`, `n c h w` float32."""
    mean, log_variance = case.mean[z], case.log_variance[z].float()
    noise = torch.randn(mean.shape, generator=generator)
    return mean + noise * torch.exp(0.5 * log_variance)
