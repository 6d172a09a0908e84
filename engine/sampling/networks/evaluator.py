"""Evaluations of the denoiser for batches of a few sizes, each recorded once on a GPU.

A batch of windows is laid out in buffers of the next larger size, and the rows behind it compute
what nobody reads. So a GPU sees few shapes: kernels are chosen, compiled and recorded once for
each. Windows share no arithmetic, so that a window's numbers are its own. Without sizes (a CPU) the
network gets the batch as it is. Knows no solver and no volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.log import get_logger
from engine.memory import is_out_of_memory
from engine.sampling.networks.recording import Recording
from models.conditions import Conditions

Evaluate = Callable[..., tuple[Tensor, Tensor]]
MOST_RECORDED = 16  # sizes times kinds; others are evaluated launch by launch
log = get_logger(__name__)


@dataclass(frozen=True)
class Windows:
    """What the network is told of m windows of n slices.

    Attributes:
        x: `n c h w` noisy latents of each.
        t: `m` float64 timesteps.
        alpha: `m` float64 signal amplitudes.
        given: packed conditions of each.
        deep: `n c h w` features to go on from, of each; None computes them.
    """

    x: Sequence[Tensor]
    t: Tensor
    alpha: Tensor
    given: Sequence[Conditions]
    deep: Sequence[Tensor] | None = None


class Evaluator:
    """The denoiser with its batches in order.

    Args:
        evaluate: a `Denoiser`'s call, `(x, t, alpha, conditions, num_slices, deep)` to output and
            deep features.
        sizes: numbers of windows, ascending, that it is evaluated for; none: any.
        window: slices of a whole window; only those are recorded.
        make_recording: None evaluates launch by launch.
        keeps_deep: whether anybody wants the deep features.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        sizes: Sequence[int] = (),
        window: int = 0,
        make_recording: Callable[[], Recording] | None = None,
        keeps_deep: bool = False,
    ) -> None:
        self._evaluate, self._sizes = evaluate, sizes
        self._window, self._make_recording = window, make_recording
        self._keeps_deep = keeps_deep
        self._places: dict[_Key, _Buffers] = {}

    def __call__(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """Output and, where it is kept, deep features of all windows; the caller's to keep.

        Returns:
            `(m n) c h w` each.

        Raises:
            OutOfMemoryError: there is no memory for a batch of this size.
        """
        num, size = len(windows.x), len(windows.x[0])
        padded = next((s for s in self._sizes if s >= num), None)
        if padded is None:
            return self._plainly(windows, size)
        key = _Key(padded, size, windows.deep is not None)
        try:
            buffers = self._places.get(key) or self._new_buffers(key, windows)
            buffers.fill(windows)
            outputs = buffers.run(self._outputs)
            own = [values[: num * size].clone() for values in outputs]
        except RuntimeError as error:
            if is_out_of_memory(error):
                self._places.pop(key, None)  # what this size holds makes room for smaller ones
            raise
        return own[0], own[1] if self._keeps_deep else None

    def _plainly(self, windows: Windows, size: int) -> tuple[Tensor, Tensor | None]:
        t, alpha = (values.repeat_interleave(size) for values in (windows.t, windows.alpha))
        deep = None if windows.deep is None else torch.cat(list(windows.deep))
        given = Conditions.cat([without_mask(given) for given in windows.given])
        return self._evaluate(torch.cat(list(windows.x)), t, alpha, given, size, deep)

    def _outputs(self, *inputs: object) -> tuple[Tensor, ...]:
        output, deep = self._evaluate(*inputs)
        return (output, deep) if self._keeps_deep else (output,)

    def _new_buffers(self, key: _Key, windows: Windows) -> _Buffers:
        recording = None
        recorded = sum(place.is_recorded for place in self._places.values())
        if key.size == self._window and recorded < MOST_RECORDED:
            recording = self._make_recording() if self._make_recording is not None else None
        self._places[key] = _Buffers(key, windows, recording)
        return self._places[key]


class _Key(NamedTuple):
    num: int
    size: int
    from_deep: bool


class _Buffers:
    """Inputs of one size at one place in memory, and the recording that reads them there."""

    def __init__(self, key: _Key, like: Windows, recording: Recording | None) -> None:
        rows = key.num * key.size
        self._size, self._recording = key.size, recording
        self.is_recorded = recording is not None
        self._outputs: tuple[Tensor, ...] | None = None
        self._x = _room(rows, like.x[0])
        self._t, self._alpha = like.t.new_zeros(rows), like.alpha.new_ones(rows)
        rooms: dict[str, Any] = {
            name: None if values is None else _room(rows, values)
            for name, values in vars(without_mask(like.given[0])).items()
        }
        self._given = Conditions(**rooms)
        self._deep = None if like.deep is None else _room(rows, like.deep[0])
        self._holds: list[Conditions] = []

    def fill(self, windows: Windows) -> None:
        """Lay a batch out in the first rows; conditions that lie there already are not copied."""
        num = len(windows.x)
        _put(windows.x, self._x)
        self._t.view(-1, self._size)[:num] = windows.t[:, None]
        self._alpha.view(-1, self._size)[:num] = windows.alpha[:, None]
        if windows.deep is not None:
            assert self._deep is not None
            _put(windows.deep, self._deep)
        same = len(self._holds) >= num and all(
            held is given for held, given in zip(self._holds, windows.given, strict=False)
        )
        if same:
            return
        parts = [vars(without_mask(given)) for given in windows.given]
        for name, room in vars(self._given).items():
            if room is not None:
                _put([part[name] for part in parts], room)
        self._holds = list(windows.given)

    def run(self, evaluate: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What the network gives for all rows; the next run may overwrite it."""

        def compute() -> tuple[Tensor, ...]:
            return evaluate(self._x, self._t, self._alpha, self._given, self._size, self._deep)

        if self._recording is None:
            return compute()
        if self._outputs is not None:
            self._recording.replay()
            return self._outputs
        try:
            self._outputs = self._recording.record(compute)
        except RuntimeError as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__context__ or error):
                raise torch.OutOfMemoryError(f"out of memory recording a batch ({error})") from None
            log.warning("a batch cannot be recorded and is evaluated launch by launch: %s", error)
            self._recording, self.is_recorded = None, False
            return compute()
        return self._outputs


def scalars(device: torch.device, *rows: Sequence[float]) -> tuple[Tensor, ...]:
    """Numbers of a batch, float64, as tensors on the device by one copy that nobody waits for."""
    table = torch.tensor(rows, dtype=torch.float64, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True).unbind()


def without_mask(given: Conditions) -> Conditions:
    """Packed conditions without the mask, which is among the packed channels: copied in vain."""
    if given.packed is None:
        return given
    return replace(given, mask=given.mask[:, :0])


def _room(rows: int, like: Tensor) -> Tensor:
    """Zeros for rows like these, laid out in memory as they are."""
    room = like.new_zeros((rows, *like.shape[1:]))
    last = torch.channels_last
    if like.ndim == 4 and like.is_contiguous(memory_format=last) and not like.is_contiguous():
        return room.contiguous(memory_format=last)
    return room


def _put(parts: Sequence[Tensor], room: Tensor) -> None:
    """Write parts one after the other into the first rows."""
    rows = sum(len(part) for part in parts)
    torch.cat(list(parts), out=room[:rows])
