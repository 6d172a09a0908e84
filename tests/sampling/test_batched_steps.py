"""A batch's steps, done together, are those of its windows, done one by one: to the bit."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from engine.sampling.batching.batcher import Batcher
from engine.sampling.propagation.slice_noise import SliceNoise
from engine.sampling.propagation.volume_state import (
    DenoiseItem,
    Denoising,
    Place,
    VolumeState,
    accept_all,
    show_all,
)
from engine.sampling.propagation.windows import WindowPlan, plan_windows
from tests.sampling.harness import SHAPE, SOLVERS, denoising

LENGTHS = (30, 12, 5, 41)


def drifting(item: DenoiseItem) -> Tensor:
    """Wrong about everything, and different for every window and step."""
    return torch.tanh(item.x) + 0.01 * item.window.start + 0.1 * item.level.sigma


def volumes(how: Denoising, chained: bool) -> list[VolumeState]:
    return [
        VolumeState(key, f"v{key}", 1, (length, *SHAPE), how, chained)
        for key, length in enumerate(LENGTHS)
    ]


def plans() -> list[WindowPlan]:
    return [plan_windows(length, 8, 2, length // 3) for length in LENGTHS]


def alone(how: Denoising, chained: bool) -> list[Tensor]:
    made = volumes(how, chained)
    for volume, plan in zip(made, plans(), strict=True):
        for window in plan.windows:
            for evaluation in range(len(how.walk)):
                volume.accept(window, evaluation, drifting(volume.show(window, evaluation)))
    return [volume.latents for volume in made]


def together(how: Denoising, chained: bool) -> tuple[list[Tensor], int]:
    """Latents, and how many evaluations one batch has mixed at most."""
    made, mixed = volumes(how, chained), 0
    batcher = Batcher(8, 1e9)
    waiting = list(zip(made, plans(), strict=True))
    for _ in range(2):
        volume, plan = waiting.pop(0)
        batcher.add(volume.key, plan, len(how.walk), 1.0)
    while batch := batcher.next_batch():
        if waiting:  # the others come later, when those before are amid a window
            volume, plan = waiting.pop(0)
            batcher.add(volume.key, plan, len(how.walk), 1.0)
        places = [Place(made[job.volume], job.window, job.evaluation) for job in batch]
        estimates = [drifting(item) for item in show_all(places)]
        finite, rows = accept_all(places, estimates)
        assert finite.all() and sorted(rows) == list(range(len(batch)))
        mixed = max(mixed, len({job.evaluation for job in batch}))
        batcher.advance(batch)
    return [volume.latents for volume in made], mixed


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_together_equals_one_by_one(solver: str, conditioned: bool, chained: bool) -> None:
    how = denoising(solver, 4, conditioned)
    found, mixed = together(how, chained)
    assert mixed >= 2, "the batches have not mixed steps"
    for volume, expected in zip(found, alone(how, chained), strict=True):
        assert torch.equal(volume, expected)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_3m", "unipc", "euler"])
def test_together_equals_one_by_one_with_resampling(solver: str) -> None:
    how = denoising(solver, 4, conditioned=False, num_resamples=2)
    found, _ = together(how, chained=False)
    for volume, expected in zip(found, alone(how, chained=False), strict=True):
        assert torch.equal(volume, expected)


def test_the_flags_say_which_estimate_is_not_finite() -> None:
    how = denoising("ddim", 4, conditioned=True)
    made = volumes(how, chained=False)
    places = [
        Place(v, plan.first, 0) for v, plan in zip(made, plans(), strict=True)
    ]  # the third has a shorter window: a group of its own
    estimates = [drifting(item) for item in show_all(places)]
    estimates[1][0, 0, 0, 0] = torch.inf
    estimates[2][-1, -1, -1, -1] = torch.nan
    finite, rows = accept_all(places, estimates)
    assert {row for row, fine in zip(rows, finite.tolist(), strict=True) if not fine} == {1, 2}


def test_nothing_has_moved_when_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in the second group: the batch is tried again, from the same place."""
    how = denoising("dpmpp_2m", 4, conditioned=True)
    made = volumes(how, chained=False)
    places = [Place(v, plan.first, 0) for v, plan in zip(made, plans(), strict=True)]
    estimates = [drifting(item) for item in show_all(places)]

    def fails(self: object, state: object, x_0: Tensor, noise: object = None) -> object:
        if x_0.shape[1] != 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(how.solver, state, x_0, noise)  # type: ignore[arg-type]

    real = type(how.solver).step
    with monkeypatch.context() as patched:
        patched.setattr(type(how.solver), "step", fails)
        with pytest.raises(torch.OutOfMemoryError):
            accept_all(places, estimates)
    assert [place.flight.state.index for place in places] == [0, 0, 0, 0]
    accept_all(places, estimates)
    assert [place.flight.state.index for place in places] == [1, 1, 1, 1]


@pytest.mark.parametrize("needed", [None, (4, 5), ()])
def test_noise_drawn_ahead_is_the_same(needed: Sequence[int] | None) -> None:
    now = SliceNoise(SHAPE, 1, "s", torch.device("cpu"))
    with ThreadPoolExecutor(1) as thread:
        ahead = SliceNoise(SHAPE, 1, "s", torch.device("cpu"), thread)
        ahead.draw_ahead(3, 9, "step 2")
        whole = now.of(3, 9, "step 2")
        assert torch.equal(ahead.of(3, 9, "step 2"), whole)
        assert torch.equal(ahead.of(3, 9, "step 2"), whole), "a second time, with nothing ahead"
    part = now.of(3, 9, "step 2", needed)
    for z in range(3, 9):
        drawn = needed is None or z in needed
        assert torch.equal(part[z - 3], whole[z - 3] if drawn else torch.zeros(SHAPE))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddpm"])
@pytest.mark.parametrize("conditioned", [False, True])
def test_a_volume_whose_noise_a_thread_draws_is_the_same(solver: str, conditioned: bool) -> None:
    how = denoising(solver, 3, conditioned)
    plan = plan_windows(20, 8, 2, 9)
    with ThreadPoolExecutor(1) as thread:
        made = [VolumeState(0, "s", 1, (20, *SHAPE), how, thread=each) for each in (None, thread)]
        for volume in made:
            for window in plan.windows:
                for evaluation in range(3):
                    volume.accept(window, evaluation, drifting(volume.show(window, evaluation)))
    assert torch.equal(made[0].latents, made[1].latents)
