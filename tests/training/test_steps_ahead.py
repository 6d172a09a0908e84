"""Nothing that makes training steps overlap changes what is learnt, or hides a step that failed."""

import math
import threading
from typing import Any

import pytest
import torch

from engine.errors import TrainingError
from engine.training.examples.ahead import ExamplesAhead, on_device
from engine.training.optimisation.outcomes import Outcomes
from engine.training.optimisation.precision import LossScale, LossScaleOnGpu


def error_of(what: str, value: float, step: int) -> TrainingError:
    return TrainingError(f"{what} is {value} at step {step}")


@pytest.mark.parametrize("depth", [1, 4])
def test_examples_come_in_their_order_however_many_threads_draw(depth: int) -> None:
    drawn: list[tuple[int, int]] = []
    lock = threading.Lock()

    def draw(step: int, part: int) -> tuple[int, int]:
        with lock:
            drawn.append((step, part))
        return (step, part)

    ahead = ExamplesAhead(draw, 2, depth, pinned=False)
    places = [(step, part) for step in range(5, 9) for part in range(2)]
    assert [ahead.take(*place) for place in places] == places
    assert ahead.take(3, 1) == (3, 1)  # a resume from an older step
    ahead.close()
    assert set(places) <= set(drawn)


def test_an_error_while_drawing_is_raised_where_the_examples_are_taken() -> None:
    def draw(step: int, part: int) -> int:
        if step == 1:
            raise TrainingError("case a: gone")
        return step

    ahead = ExamplesAhead(draw, 1, 2, pinned=False)
    assert ahead.take(0, 0) == 0
    with pytest.raises(TrainingError, match="case a: gone"):
        ahead.take(1, 0)
    ahead.close()


def test_on_device_takes_the_type_of_a_tensor_and_leaves_that_of_a_device() -> None:
    value = torch.ones(2, dtype=torch.float64)
    assert on_device(value, torch.zeros(1)).dtype == torch.float32
    assert on_device(value, torch.device("cpu")) is value


def test_losses_wait_and_come_in_order() -> None:
    outcomes = Outcomes(3, error_of, skips=False)
    for step in (1, 2, 3):
        assert not outcomes.is_due
        outcomes.put(step, torch.tensor(step / 2, dtype=torch.float64), torch.tensor(float(step)))
    assert outcomes.is_due
    assert outcomes.look() == [0.5, 1.0, 1.5]
    assert outcomes.norm == 3.0
    assert outcomes.look() == []


@pytest.mark.parametrize(
    ("loss", "norm", "told"),
    [(math.nan, 1.0, "loss is nan at step 8"), (1.0, math.inf, "gradient is inf at step 8")],
)
def test_the_step_that_failed_is_named_at_the_next_look(
    loss: float, norm: float, told: str
) -> None:
    outcomes = Outcomes(16, error_of, skips=False)
    outcomes.put(7, torch.tensor(1.0), torch.tensor(1.0))
    outcomes.put(8, torch.tensor(loss), torch.tensor(norm))
    outcomes.put(9, torch.tensor(math.nan), torch.tensor(math.nan))
    with pytest.raises(TrainingError, match=told):
        outcomes.look()


def test_float16_may_skip_a_step() -> None:
    outcomes = Outcomes(16, error_of, skips=True)
    outcomes.put(1, torch.tensor(1.0), torch.tensor(math.inf))
    assert outcomes.look() == [1.0]


def test_the_scale_on_a_gpu_follows_the_rule_of_the_one_on_the_host() -> None:
    host, device = LossScale("float16"), LossScaleOnGpu(torch.device("cpu"))
    fates = [True, False, True] + [False] * 1500 + [True]
    for overflow in fates:
        host.update(overflow=overflow)
        device.learn(torch.tensor(math.inf if overflow else 1.0))
    assert device.state() == host.state()
    assert float(device.scaled(torch.tensor(2.0))) == 2.0 * host.scale
    resumed = LossScaleOnGpu(torch.device("cpu"))
    resumed.load(device.state())
    assert resumed.state() == host.state()


def test_the_scale_on_a_gpu_refuses_gradients_that_no_scale_mends() -> None:
    scale = LossScaleOnGpu(torch.device("cpu"))
    for _ in range(25):
        scale.learn(torch.tensor(math.nan))
    with pytest.raises(TrainingError, match="not finite even at a loss scale"):
        scale.look()


def test_a_fused_optimiser_skips_a_step_that_overflowed() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.AdamW([weight], lr=0.1, fused=True)
    scale = LossScaleOnGpu(torch.device("cpu"))
    for gradient in (math.inf, 1.0):
        weight.grad = torch.full((3,), gradient)
        before = weight.detach().clone()
        scale.learn(torch.nn.utils.clip_grad_norm_([weight], 1.0))
        optimizer.found_inf = scale.overflow
        optimizer.step()
        assert torch.equal(weight, before) == math.isinf(gradient)
    assert float(optimizer.state[weight]["step"]) == 1.0
