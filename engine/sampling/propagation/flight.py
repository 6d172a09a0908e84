"""Windows between their first and their last evaluation, and what is done with many at once.

Windows that stand at the same evaluation move together: their tensors are stacked, and known
slices, finiteness and the solver's step are a few operations for all of them, element by element,
so that a window's numbers do not depend on its company. Knows no volume and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine.sampling.diffusion.schedule import Level
from engine.sampling.propagation.inpainting import KnownSlices
from engine.sampling.propagation.windows import Window
from engine.sampling.solvers.state import Solver, SolverState


@dataclass(frozen=True)
class Denoising:
    """How every window of a job is denoised.

    Attributes:
        solver: the steps.
        walk: solver steps in the order they are done (inpainting.resampling_walk).
        conditioned: known slices are shown clean and flagged, else put at the step's noise level.
    """

    solver: Solver
    walk: tuple[int, ...]
    conditioned: bool


@dataclass(frozen=True)
class DenoiseItem:
    """One window of a batch, as the model sees it.

    Attributes:
        volume: key of the volume it belongs to.
        window: which slices.
        x: `n c h w`, at the noise level of the step, known slices pinned.
        known: `n` bool, slices shown clean (conditioned inpainting only).
        t: timestep.
        level: amplitudes of signal and noise in x.
        evaluation: how many evaluations of this window came before.
        informed: `1 c h w` latent that replaces the patient's informed slice, and its z; None
            keeps the patient's.
        memory: what the model keeps for this window between evaluations.
    """

    volume: int
    window: Window
    x: Tensor
    known: Tensor
    t: float
    level: Level
    evaluation: int
    informed: tuple[Tensor, int] | None
    memory: dict[str, Any]


@dataclass
class Flight:
    """A window in flight.

    Attributes:
        window: which slices.
        state: of its solver.
        known: its given slices.
        shown_clean: `n` bool, of them those that the model is told to trust.
        informed: see `DenoiseItem`.
        fixed_eps: `n c h w` noise of known slices, where all steps share one draw.
        memory: see `DenoiseItem`.
    """

    window: Window
    state: SolverState
    known: KnownSlices
    shown_clean: Tensor
    informed: tuple[Tensor, int] | None
    fixed_eps: Tensor | None
    memory: dict[str, Any] = field(default_factory=dict)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """`b ...` of equal tensors; one alone is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def stacked_known(flights: Sequence[Flight]) -> KnownSlices:
    """Given slices of all flights, `b n ...`."""
    flags = stack([flight.known.flags for flight in flights])
    latents = stack([flight.known.latents for flight in flights])
    return KnownSlices(flags, latents, flights[0].known.conditioned)


def stacked_state(flights: Sequence[Flight]) -> SolverState:
    """One state of `b n c h w` tensors for flights that stand at the same evaluation."""
    states = [flight.state for flight in flights]
    histories = zip(*(state.history for state in states), strict=True)
    anchors = [state.anchor for state in states if state.anchor is not None]
    assert len(anchors) in (0, len(states)) and len({state.index for state in states}) == 1
    return SolverState(
        stack([state.x for state in states]),
        states[0].index,
        tuple(stack(estimates) for estimates in histories),
        stack(anchors) if anchors else None,
    )


def share_out(state: SolverState, flights: Sequence[Flight]) -> None:
    """Give every flight its part of a stacked state."""
    for row, flight in enumerate(flights):
        flight.state = SolverState(
            state.x[row],
            state.index,
            tuple(estimates[row] for estimates in state.history),
            None if state.anchor is None else state.anchor[row],
        )


def pin_known(flights: Sequence[Flight], level: Level, eps: Sequence[Tensor] | None) -> None:
    """Set known slices of flights at one noise level to what the model expects there.

    Args:
        flights: at the same evaluation.
        level: of that evaluation.
        eps: `n c h w` of each flight; None where known slices are shown clean.
    """
    if not any(flight.window.known for flight in flights):
        return
    x = stack([flight.state.x for flight in flights])
    pinned = stacked_known(flights).pin(x, level, None if eps is None else stack(eps))
    for flight, row in zip(flights, pinned, strict=True):
        flight.state = replace(flight.state, x=row)
