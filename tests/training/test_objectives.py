"""Losses: zero for a perfect network, and blind to known slices."""

from typing import cast

import torch
from torch import Tensor, nn

from engine.sampling.schedule import ScheduleConfig, make_schedule, training_target
from engine.training.ema import Ema
from engine.training.objectives import (
    JOIN_WEIGHT,
    class_weight_map,
    denoiser_loss,
    draw_timesteps,
    slice_gradient_error,
)
from engine.training.progress import Pace, learning_rate_factor
from engine.training.windows_dataset import DenoiserBatch
from models.denoiser import Denoiser
from models.presets import PRESETS

DEMO = PRESETS["demo"]
# the oracle reads x_t from the network's input, so it must come unfaded
PRESET = DEMO.model_copy(
    update={"denoiser": DEMO.denoiser.model_copy(update={"fade_noisy_input": False})}
)
SCHEDULE = make_schedule(ScheduleConfig(zero_terminal_snr=True, prediction_type="v"))


class Oracle(nn.Module):
    """Knows x_0 and so the exact v; wrong by `error` on the slices named."""

    def __init__(self, x_0: Tensor, wrong: list[int], error: float) -> None:
        super().__init__()
        self.preset, self.x_0, self.wrong, self.error = PRESET, x_0, wrong, error
        self.anchor = nn.Parameter(torch.zeros(1))
        self.timesteps: list[Tensor] = []

    def normalise_appearance(self, appearance: Tensor) -> Tensor:
        return appearance

    def forward(
        self, x: Tensor, t: Tensor, heights: Tensor, num_slices: int | None, appearance: Tensor
    ) -> Tensor:
        self.timesteps.append(t)
        x_t = x[:, :8]
        alpha, sigma = (a[:, None, None, None].float() for a in SCHEDULE.alpha_sigma(t))
        eps = (x_t - alpha * self.x_0) / sigma
        v = training_target(SCHEDULE, self.x_0, eps, t)
        v[self.wrong] += self.error
        return v


def loss_of(model: Oracle, data: DenoiserBatch, generator: torch.Generator) -> Tensor:
    return denoiser_loss(cast(Denoiser, model), SCHEDULE, data, generator)


def batch(known: list[int]) -> DenoiserBatch:
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(6, 8, 16, 16, generator=generator)
    flags = torch.zeros(6, dtype=torch.bool)
    flags[known] = True
    mask, seen = torch.zeros(6, 16, 16, 16), torch.zeros(6, 2, 1)
    return DenoiserBatch(x_0, mask, x_0, torch.rand(6, 2), flags, seen, 3)


def test_a_perfect_network_has_no_loss_and_one_timestep_a_window() -> None:
    data = batch([])
    model = Oracle(data.x_0, [], 0.0)
    loss = loss_of(model, data, torch.Generator().manual_seed(1))
    assert loss < 1e-6
    t = model.timesteps[0].reshape(2, 3)
    assert (t == t[:, :1]).all()
    assert t[0, 0] != t[1, 0]


def test_errors_on_known_slices_do_not_count_and_others_count_fully() -> None:
    data = batch([0, 3])
    generator = torch.Generator().manual_seed(1)
    assert loss_of(Oracle(data.x_0, [0, 3], 9.0), data, generator) < 1e-6
    loss = loss_of(Oracle(data.x_0, [1], 2.0), data, generator)
    torch.testing.assert_close(loss, torch.tensor(4.0 / 4), atol=1e-4, rtol=1e-4)


def test_the_average_halves_its_memory_in_its_half_life() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, half_life=50)
    nn.init.ones_(model.weight)
    for step in range(1000, 1050):
        ema.update(model, step)
    torch.testing.assert_close(ema.state["weight"], torch.tensor([[0.5]]), atol=1e-3, rtol=0)


def test_the_learning_rate_warms_up_and_decays() -> None:
    assert learning_rate_factor(0, 0.0, 100) == 0.01
    assert learning_rate_factor(100, 0.0, 100) == 1.0
    assert abs(learning_rate_factor(100, 1.0, 100) - 0.02) < 1e-9


def test_a_pace_ends_at_its_steps_and_goes_on_where_it_was() -> None:
    pace = Pace(10, None)
    pace.resume(8, 100.0)
    assert pace.elapsed_s >= 100.0
    ended = []
    for _ in range(2):
        pace.advance()
        ended.append(pace.done)
    assert ended == [False, True]
    assert Pace(10, 1.0).fraction < 0.1


def test_timesteps_lean_to_high_noise_by_their_share() -> None:
    generator = torch.Generator().manual_seed(0)
    for share, expected in ((0.0, 0.25), (0.5, 0.625), (1.0, 1.0)):
        t = draw_timesteps(4000, SCHEDULE, share, generator)
        assert t.min() >= 0
        assert t.max() <= 999
        assert abs((t >= 750).float().mean() - expected) < 0.03


def test_slice_gradients_count_what_differs_between_neighbours() -> None:
    shared, known = torch.full((6, 8, 4, 4), 3.0), torch.zeros(6, dtype=torch.bool)
    assert slice_gradient_error(shared, known, 3) == 0.0
    shared[4] = 0.0  # a right slice between two wrong ones: both pairs of its window differ by 3
    torch.testing.assert_close(slice_gradient_error(shared, known, 3), torch.tensor(9.0 * 2 / 4))
    known[4] = True  # and they are joins
    expected = torch.tensor(JOIN_WEIGHT * 9.0 * 2 / 4)
    torch.testing.assert_close(slice_gradient_error(shared, known, 3), expected)


def test_the_slice_gradient_term_is_added_with_its_weight() -> None:
    data = batch([0, 3])

    def loss(weight: float) -> float:
        model, generator = Oracle(data.x_0, [1], 2.0), torch.Generator().manual_seed(1)
        return float(denoiser_loss(cast(Denoiser, model), SCHEDULE, data, generator, 0.0, weight))

    # slice 1 is wrong by 2, its neighbours are right and one of them known: 2 of 4 pairs differ
    assert abs(loss(0.5) - loss(0.0) - 0.5 * 4.0 * (1 + JOIN_WEIGHT) / 4) < 1e-3


def test_class_weights_lie_where_the_classes_are() -> None:
    mask = torch.full((1, 2 * 16, 16, 16), -1.0)
    mask[:, 16:, 3, 4] = 1.0  # class 2 fills this position
    mask[:, 16:24, 5, 6] = 1.0  # and half of this one
    weights = class_weight_map(mask, torch.tensor([5.0, 8.0]), DEMO)
    assert weights.shape == (1, 1, 16, 16)
    assert (weights[0, 0, 3, 4], weights[0, 0, 5, 6], weights[0, 0, 0, 0]) == (9.0, 5.0, 1.0)
