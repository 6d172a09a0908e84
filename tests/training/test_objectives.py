"""Losses: zero for a perfect network, and blind to known slices."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from engine.sampling.diffusion.schedule import (
    PredictionType,
    ScheduleConfig,
    make_schedule,
    predicted_x_0,
    training_target,
)
from engine.training.config import TrainConfig
from engine.training.examples.randomness import example_generators
from engine.training.examples.windows import DenoiserBatch
from engine.training.losses.objectives import (
    JOIN_WEIGHT,
    NoiseDraw,
    Objective,
    class_weight_map,
    denoiser_loss,
    draw_noise,
    slice_gradient_error,
)
from engine.training.losses.timesteps import TimestepDraw, loss_weights
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.pace import Pace, learning_rate_factor
from models.conditions import Conditions
from models.denoiser.unet import Denoiser
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

    def forward(
        self, x_t: Tensor, t: Tensor, alpha: Tensor, conditions: Conditions, num_slices: int | None
    ) -> tuple[Tensor, None]:
        self.timesteps.append(t)
        alpha, sigma = (a[:, None, None, None].float() for a in SCHEDULE.alpha_sigma(t))
        eps = (x_t - alpha * self.x_0) / sigma
        v = training_target(SCHEDULE, self.x_0, eps, t)
        v[self.wrong] += self.error
        return v, None


def draw_of(data: DenoiserBatch, dropout: float = 0.0) -> NoiseDraw:
    examples = len(data.x_0) // (data.num_slices or 1)
    numbers = example_generators(1, "test", 0, range(examples))
    return draw_noise(data, SCHEDULE, TimestepDraw(), dropout, numbers)


def loss_of(model: Oracle, data: DenoiserBatch, objective: Objective | None = None) -> Tensor:
    draw = draw_of(data)
    return denoiser_loss(
        cast(Denoiser, model), SCHEDULE, data, draw, objective or Objective()
    ).total


def batch(known: list[int]) -> DenoiserBatch:
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(6, 8, 16, 16, generator=generator)
    flags = torch.zeros(6, dtype=torch.bool)
    flags[known] = True
    mask, seen = torch.zeros(6, 16, 16, 16), torch.zeros(6, 2, 1)
    return DenoiserBatch(x_0, Conditions(mask, x_0, torch.rand(6, 2), flags, seen), 3)


def test_a_perfect_network_has_no_loss_and_one_timestep_a_window() -> None:
    data = batch([])
    model = Oracle(data.x_0, [], 0.0)
    loss = loss_of(model, data)
    assert loss < 1e-6
    t = model.timesteps[0].reshape(2, 3)
    assert (t == t[:, :1]).all()
    assert t[0, 0] != t[1, 0]


def test_errors_on_known_slices_do_not_count_and_others_count_fully() -> None:
    data = batch([0, 3])
    assert loss_of(Oracle(data.x_0, [0, 3], 9.0), data) < 1e-6
    loss = loss_of(Oracle(data.x_0, [1], 2.0), data)
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


def test_timesteps_lean_as_their_rule_says() -> None:
    numbers = example_generators(0, "test", 0, range(3000))
    for rule, share, expected in (
        ("uniform", 0.0, 0.25),
        ("uniform", 0.5, 0.625),
        ("uniform", 1.0, 1.0),
        ("linear", 0.0, 1 - 0.75**2),
        ("logit_normal", 0.0, 0.136),  # P(normal > log 3)
    ):
        draw = TimestepDraw.of(TrainConfig(timesteps=rule, high_noise_share=share))
        t = draw.draw(SCHEDULE, numbers)
        assert 0 <= t.min() <= t.max() <= 999
        assert abs((t >= 750).float().mean() - expected) < 0.03, rule


@pytest.mark.parametrize("kind", ["eps", "v", "x_0", "flow"])
def test_min_snr_weighs_the_error_that_an_output_makes_in_x_0(kind: PredictionType) -> None:
    flow = kind == "flow"
    settings = ScheduleConfig(kind="flow" if flow else "scaled_linear", prediction_type=kind)
    schedule = make_schedule(settings)
    t = torch.tensor([10, 300, 600, 900])
    alpha, sigma = schedule.alpha_sigma(t)
    generator = torch.Generator().manual_seed(0)
    x_t, output = torch.randn(2, 4, 1, 1, 1, generator=generator, dtype=torch.float64)
    wrong = [predicted_x_0(kind, output + e, x_t, alpha, sigma) for e in (0.0, 1.0)]
    of_x_0 = (wrong[1] - wrong[0]).flatten() ** 2
    expected = of_x_0 * ((alpha / sigma) ** 2).clamp(max=5.0)
    torch.testing.assert_close(loss_weights("min_snr", 5.0, schedule, t), expected.float())
    assert loss_weights("uniform", 5.0, schedule, t).tolist() == [1.0] * 4


def test_the_weighted_loss_is_the_mean_of_weighted_windows() -> None:
    data = batch([])
    model, draw = Oracle(data.x_0, [0, 1, 2, 3, 4, 5], 2.0), draw_of(data)
    found = denoiser_loss(cast(Denoiser, model), SCHEDULE, data, draw, Objective("min_snr"))
    weights = loss_weights("min_snr", 5.0, SCHEDULE, found.t)
    torch.testing.assert_close(found.each, torch.full((2,), 4.0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.total, (weights * 4.0).mean(), atol=1e-3, rtol=1e-3)


def test_dropped_conditions_are_blank_and_by_example() -> None:
    data = batch([])
    draw = draw_of(data, dropout=0.5)
    assert draw.drop.tolist() == [bool(d) for d in draw.drop[::3] for _ in range(3)]
    forced = NoiseDraw(draw.t, draw.eps, torch.tensor([True] * 3 + [False] * 3))
    model = Denoiser(PRESET, 1)
    seen: list[Conditions] = []
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[3]))
    denoiser_loss(model, SCHEDULE, data, forced, Objective())
    assert (seen[0].informed[:3] == 0).all()
    torch.testing.assert_close(seen[0].informed[3:], data.conditions.informed[3:])


def test_slice_gradients_count_what_differs_between_neighbours() -> None:
    shared, known = torch.full((6, 8, 4, 4), 3.0), torch.zeros(6, dtype=torch.bool)
    assert (slice_gradient_error(shared, known, 3) == 0.0).all()
    shared[4] = 0.0  # a right slice between two wrong ones: both pairs of its window differ by 3
    expected = torch.tensor([0.0, 9.0 * 2 / 2])
    torch.testing.assert_close(slice_gradient_error(shared, known, 3), expected)
    known[4] = True  # and they are joins
    expected = torch.tensor([0.0, JOIN_WEIGHT * 9.0 * 2 / 2])
    torch.testing.assert_close(slice_gradient_error(shared, known, 3), expected)


def test_the_slice_gradient_term_is_added_with_its_weight() -> None:
    data = batch([0, 3])

    def loss(weight: float) -> float:
        return float(
            loss_of(Oracle(data.x_0, [1], 2.0), data, Objective(slice_gradient_weight=weight))
        )

    # slice 1 is wrong by 2, its neighbours are right and one of them known: 2 of 4 pairs differ
    assert abs(loss(0.5) - loss(0.0) - 0.5 * 4.0 * (1 + JOIN_WEIGHT) / 4) < 1e-3


def test_class_weights_lie_where_the_classes_are() -> None:
    mask = torch.full((1, 2 * 16, 16, 16), -1.0)
    mask[:, 16:, 3, 4] = 1.0  # class 2 fills this position
    mask[:, 16:24, 5, 6] = 1.0  # and half of this one
    weights = class_weight_map(mask, torch.tensor([5.0, 8.0]), DEMO)
    assert weights.shape == (1, 1, 16, 16)
    assert [weights[0, 0, y, x].item() for y, x in ((3, 4), (5, 6), (0, 0))] == [9.0, 5.0, 1.0]
