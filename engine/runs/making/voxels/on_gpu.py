"""Voxels where the model is: a GPU measures and regrids a volume in milliseconds.

The same numbers as `engine.evaluation` and `engine.volumes` compute: measures in float64 and slice
by slice, so that a volume takes about a gigabyte of the device. Works on any device of torch, which
the tests use. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.evaluation.continuity import check_joins, ratio_at_joins, roughness_of
from engine.evaluation.fidelity.ssim import KERNEL, MIN_SIZE_PX, slice_scores
from engine.evaluation.harmonization import Change
from engine.evaluation.subject import (
    LEVELS,
    MODEL_RANGE,
    Scan,
    Subject,
    kept_quantiles,
    quantile_tables,
)
from engine.volumes.prepared.prepare import Regridder
from engine.volumes.volume import Array, IntensityWindow

_SLICES_AT_ONCE = 16


class _Steps(NamedTuple):
    """Sums of absolute differences of neighbours inside the body, and the pairs' numbers."""

    through: NDArray[np.float64]  # of each z from 1
    num_through: NDArray[np.int64]
    in_plane: float
    num_in_plane: int


@dataclass(frozen=True)
class DeviceScan(Scan):
    """A scan whose measures are taken on a device.

    Attributes:
        device: torch's name of it.
    """

    device: str = "cpu"

    @cached_property
    def voxels(self) -> Tensor:
        """The image there."""
        return on_device(self.image, self.device)

    @cached_property
    def classes(self) -> Tensor:
        """The mask there."""
        return on_device(self.mask, self.device)

    def seam_ratio(self, joins: Sequence[int]) -> float:
        """See `continuity.seam_ratio`."""
        check_joins(joins, len(self.image))
        return ratio_at_joins(self._steps.through, self._steps.num_through, joins)

    @cached_property
    def roughness(self) -> float:
        """See `continuity.roughness`."""
        steps = self._steps
        through = float(steps.through.sum()), int(steps.num_through.sum())
        return roughness_of(through, (steps.in_plane, steps.num_in_plane))

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean intensity of each class, in source units."""
        size = 1 + int(self.classes.max())
        sums = torch.zeros(size, dtype=torch.float64, device=self.device)
        counts = torch.zeros(size, dtype=torch.int64, device=self.device)
        for part in _parts(len(self.image)):
            classes = self.classes[part].flatten().to(torch.int64)
            values = to_source(self.voxels[part], self.intensity).double().flatten()
            sums += torch.bincount(classes, values, minlength=size)
            counts += torch.bincount(classes, minlength=size)
        found = zip(sums.tolist()[1:], counts.tolist()[1:], self.class_names, strict=False)
        return {name: total / count for total, count, name in found if count}

    @cached_property
    def quantiles(self) -> dict[str, tuple[float, ...]]:
        """Of each class, in source units, at evenly spaced levels from 0 to 1."""
        found = {}
        for number, name in enumerate(self.class_names, start=1):
            inside = self.voxels[self.classes == number].sort().values
            if inside.numel():
                found[name] = kept_quantiles(_at_levels(inside), self.intensity)
        return found

    @cached_property
    def _steps(self) -> _Steps:
        through, counts = [], []
        in_plane = torch.zeros((), dtype=torch.float64, device=self.device)
        num_in_plane = torch.zeros((), dtype=torch.int64, device=self.device)
        for part in _parts(len(self.image)):
            onward = slice(part.start, part.stop + 1)
            values, body = self.voxels[onward].double(), self.classes[onward] > 0
            for axis in range(3):
                if axis:
                    values, body = values[:_SLICES_AT_ONCE], body[:_SLICES_AT_ONCE]
                inside = body.narrow(axis, 1, body.shape[axis] - 1)
                inside = inside & body.narrow(axis, 0, body.shape[axis] - 1)
                steps = torch.where(inside, values.diff(dim=axis).abs(), 0.0).sum((1, 2))
                if axis:
                    in_plane += steps.sum()
                    num_in_plane += inside.sum()
                else:
                    through.append(steps)
                    counts.append(inside.sum((1, 2)))
        return _Steps(
            torch.cat(through).cpu().numpy(),
            torch.cat(counts).cpu().numpy(),
            float(in_plane),
            int(num_in_plane),
        )


@dataclass(frozen=True)
class DeviceSubject(Subject):
    """A generated and a real scan, both `DeviceScan`."""

    @cached_property
    def ms_ssim(self) -> float | None:
        """See `Subject.ms_ssim`."""
        real, made = self.compared, self.made
        if real is None or min(made.image.shape[1:]) < MIN_SIZE_PX:
            return None
        assert isinstance(made, DeviceScan)
        assert isinstance(real, DeviceScan)
        scores = [
            slice_scores(
                made.voxels[part].double(), real.voxels[part].double(), MODEL_RANGE, _smooth
            )
            for part in _parts(len(made.image))
        ]
        return float(torch.cat(scores).mean())

    @cached_property
    def change(self) -> Change | None:
        """See `Subject.change`."""
        real, made = self.compared, self.made
        if real is None:
            return None
        assert isinstance(made, DeviceScan)
        assert isinstance(real, DeviceScan)
        tables = quantile_tables(made.class_names, real.quantiles, made.quantiles)
        return _change(real, made, tables)


@contextmanager
def beside_sampling(device: str) -> Iterator[None]:
    """Let what is computed here run beside the model's work, and not behind it."""
    is_gpu = torch.device(device).type == "cuda"
    with torch.cuda.stream(_stream(device)) if is_gpu else nullcontext(), torch.inference_mode():
        yield


@cache
def _stream(device: str) -> torch.cuda.Stream:
    """One for all volumes: torch keeps the memory that each stream has used."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_device(array: NDArray[Any], device: str) -> Tensor:
    """An array there; one that is read-only is copied."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def to_source(image: Tensor, intensity: IntensityWindow) -> Tensor:
    """`IntensityWindow.to_source` of a tensor."""
    unit = (image.double().clamp(-1.0, 1.0) + 1.0) / 2.0
    source = unit * (intensity.high - intensity.low) + intensity.low
    return (source.round(decimals=3) if intensity.unit == "HU" else source).float()


def _parts(depth: int) -> Iterator[slice]:
    for z in range(0, depth, _SLICES_AT_ONCE):
        yield slice(z, min(z + _SLICES_AT_ONCE, depth))


def _at_levels(ordered: Tensor) -> NDArray[np.float64]:
    """Linear quantiles of sorted values, as `numpy.quantile` has them."""
    places = LEVELS * (len(ordered) - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    index = torch.from_numpy(np.concatenate([below, above])).to(ordered.device)
    low, high = ordered[index].double().cpu().numpy().reshape(2, -1)
    return np.asarray(low + (high - low) * (places - below))


def _smooth(x: Tensor) -> Tensor:
    for axis in (1, 2):
        size = x.shape[axis] - len(KERNEL) + 1
        parts = (weight * x.narrow(axis, n, size) for n, weight in enumerate(KERNEL.tolist()))
        x = sum(parts, torch.zeros((), dtype=x.dtype, device=x.device))
    return x


def _change(
    before: DeviceScan,
    after: DeviceScan,
    tables: Mapping[int, tuple[Sequence[float], Sequence[float]]],
) -> Change | None:
    """See `harmonization.change_of`."""
    shifted = redrawn = 0.0
    count = 0
    for number, levels in tables.items():
        inside = after.classes == number
        was = to_source(before.voxels[inside], before.intensity).double()
        became = to_source(after.voxels[inside], after.intensity).double()
        matched = _interpolated(was, *levels)
        shifted += float((matched - was).abs().sum())
        redrawn += float((became - matched).abs().sum())
        count += was.numel()
    return Change(shifted / count, redrawn / count) if count else None


def _interpolated(x: Tensor, places: Sequence[float], values: Sequence[float]) -> Tensor:
    """`numpy.interp`, also where places are equal: the last of them counts."""
    at, to = (torch.tensor(side, dtype=torch.float64, device=x.device) for side in (places, values))
    last = torch.searchsorted(at, x, right=True) - 1
    low = last.clamp(0, len(at) - 2)
    width = at[low + 1] - at[low]
    slope = (to[low + 1] - to[low]) / torch.where(width > 0, width, 1.0)
    between = to[low] + slope * (x - at[low])
    exact = last.clamp(min=0)
    return torch.where((x <= at[exact]) | (last == len(at) - 1), to[exact], between)


def regridder(device: str) -> Regridder:
    """`regrid_source` on a device; weights are dense there, and products cost little."""

    def regridded(
        image: NDArray[np.float32],
        intensity: IntensityWindow,
        weights_zyx: list[NDArray[np.float64]],
    ) -> Array:
        result = to_source(on_device(image, device), intensity)
        for axis, weights in enumerate(weights_zyx):
            result = _along(result, weights, axis)
        for axis, weights in enumerate(weights_zyx):
            beyond = torch.from_numpy(np.flatnonzero(~weights.any(axis=1))).to(device)
            result.index_fill_(axis, beyond, intensity.background)
        return result.cpu().numpy()

    return regridded


def _along(values: Tensor, weights: NDArray[np.float64], axis: int) -> Tensor:
    if ((weights == 0.0) | (weights == 1.0)).all():  # a selection: no arithmetic
        rows = torch.from_numpy(np.argmax(weights, axis=1)).to(values.device)
        return values.index_select(axis, rows)
    there = on_device(weights.astype(np.float32), str(values.device))
    mixed: Tensor = torch.tensordot(there, values, dims=([1], [axis]))
    return mixed.movedim(0, axis).contiguous()
