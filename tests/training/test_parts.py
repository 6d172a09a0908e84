"""Small parts of training: batches shared out, checkpoints, scales, features, distillation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.errors import TrainingError, WeightsError
from engine.sampling.diffusion.schedule import (
    ScheduleConfig,
    make_schedule,
    predicted_x_0,
    training_target,
)
from engine.training.config import TrainConfig
from engine.training.examples.randomness import example_generators
from engine.training.examples.windows import DenoiserBatch
from engine.training.loop.checkpoint import (
    CheckpointWriter,
    best_checkpoint,
    check_identity,
    newest_checkpoint,
)
from engine.training.losses.adversarial import Adversary
from engine.training.losses.distillation import Rounds, distilled_x_0, draw_distill
from engine.training.losses.objectives import make_noisy, predict
from engine.training.losses.perceptual import load_feature_loss
from engine.training.optimisation.batching import divide, find_micro_batch, resolve_batching
from engine.training.optimisation.precision import LossScale
from models.conditions import Conditions
from models.denoiser.unet import Denoiser
from models.presets import PRESETS

MakeConfig = Callable[..., TrainConfig]
DEMO = PRESETS["demo"]


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 5))
def test_every_example_of_a_step_is_taken_once(micro: int, wanted: int, world: int) -> None:
    if wanted % world:
        with pytest.raises(TrainingError, match="evenly"):
            divide(micro, wanted, world)
        return
    batching = divide(micro, wanted, world)
    assert batching.micro <= micro
    taken = [
        index
        for rank in range(world)
        for part in range(batching.accumulate)
        for index in batching.indices(rank, part)
    ]
    assert sorted(taken) == list(range(wanted))


def test_the_micro_batch_is_the_fastest_that_fits() -> None:
    now = 0.0

    def trial(size: int) -> None:
        nonlocal now
        if size > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        now += 1.0 if size <= 4 else float(size)  # examples cost nothing up to 4

    assert find_micro_batch(trial, clock=lambda: now) == 4

    def even(size: int) -> None:
        nonlocal now
        if size > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        now += 1.0

    assert find_micro_batch(even, clock=lambda: now) == 8

    def nothing_fits(_size: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TrainingError, match="not even one"):
        find_micro_batch(nothing_fits)

    def broken(_size: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        find_micro_batch(broken)


def test_a_resume_keeps_the_examples_of_a_step() -> None:
    config = TrainConfig(batch_size=3)
    assert resolve_batching(config, 6, 1, lambda _n: None).examples == 6
    with pytest.raises(TrainingError, match="6 examples a step, global_batch_size says 4"):
        resolve_batching(TrainConfig(global_batch_size=4), 6, 1, lambda _n: None)


def put(config: TrainConfig, steps: dict[int, float | None]) -> None:
    writer = CheckpointWriter(config, DEMO)
    for step, score in steps.items():
        writer.put(step, {"net/x": torch.full((3,), float(step))}, {"elapsed_s": 1.0}, score)
    writer.close()


def test_half_written_and_damaged_checkpoints_are_passed_over(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    assert newest_checkpoint(config) is None
    put(config, {1: 0.1, 2: 0.5, 3: None, 4: 0.4})
    root = config.work / "checkpoints" / config.stage
    assert sorted(p.name for p in root.iterdir()) == [f"step_0000000{i}" for i in (1, 3, 4)]
    best = best_checkpoint(config)
    assert best is not None
    assert best.step == 1
    tensors = root / "step_00000004" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    (root / ".step_00000005.abcd.part").mkdir()
    found = newest_checkpoint(config)
    assert found is not None
    assert found.step == 3
    assert found.tensors()["net/x"].tolist() == [3.0] * 3
    (root / "step_00000003" / "state.json").write_text("{")
    found = newest_checkpoint(config)
    assert found is not None
    assert found.step == 1
    check_identity(found, config, DEMO)
    other = DEMO.model_copy(update={"window": 8})
    with pytest.raises(TrainingError, match="architecture"):
        check_identity(found, config, other)


@pytest.mark.parametrize(
    "harm",
    [
        lambda good: "null",
        lambda good: "[]",
        lambda good: "[" * 100_000,
        lambda good: "\0" * len(good),
        lambda good: good[:40],
        lambda good: good.replace('"step": 2', '"step": null'),
        lambda good: good.replace('"step": 2', '"step": 9'),
        lambda good: good.replace('"step": 2', '"step": true'),
        lambda good: good.replace('"score": 0.5', '"score": NaN'),
        lambda good: good.replace('"score": 0.5', '"score": "low"'),
        lambda good: good.replace('"identity": {', '"other": {'),
    ],
)
def test_a_state_that_cannot_be_is_passed_over_for_an_older_one(
    make_config: MakeConfig, tmp_path: Path, harm: Callable[[str], str]
) -> None:
    config = make_config(tmp_path)
    put(config, {1: 0.7, 2: 0.5})
    state = config.work / "checkpoints" / config.stage / "step_00000002" / "state.json"
    good = state.read_text()
    state.write_text(harm(good))
    assert state.read_text() != good
    for found in (newest_checkpoint(config), best_checkpoint(config)):
        assert found is not None
        assert found.step == 1


def test_a_power_cut_while_a_checkpoint_is_replaced_leaves_one(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    put(config, {1: None})
    final = config.work / "checkpoints" / config.stage / "step_00000001"
    final.rename(final.with_name(".step_00000001.replaced"))
    found = newest_checkpoint(config)
    assert found is not None
    assert found.step == 1
    put(config, {1: None})
    assert [p.name for p in final.parent.iterdir()] == [final.name]


def test_a_full_disk_keeps_the_older_checkpoint(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    put(config, {1: None})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.training.loop.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match="older checkpoints are untouched"):
        put(config, {2: None, 3: None})
    found = newest_checkpoint(config)
    assert found is not None
    assert found.step == 1
    assert len(list(found.path.parent.iterdir())) == 1


def test_the_loss_scale_halves_at_an_overflow_and_grows_slowly() -> None:
    scale = LossScale("float16")
    start = scale.scale
    scale.update(overflow=True)
    assert scale.scale == start / 2
    for _ in range(1000):
        scale.update(overflow=False)
    assert scale.scale == start
    again = LossScale("float16")
    again.load(scale.state())
    assert again.state() == scale.state()
    with pytest.raises(TrainingError, match="at a loss scale"):
        for _ in range(100):
            scale.update(overflow=True)
    narrow = LossScale("bfloat16")
    narrow.update(overflow=True)
    assert narrow.scale == 1.0


def test_a_trunk_is_known_by_its_shapes_and_tells_images_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    channels, trunk = 3, {}
    widths = [w for w, n in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)) for _ in range(n)]
    for i, width in enumerate(widths):
        trunk[f"net.{i}.weight"] = torch.randn(width, channels, 3, 3) / (9 * channels) ** 0.5
        trunk[f"net.{i}.bias"] = torch.zeros(width)
        channels = width
    torch.save(trunk, tmp_path / "vgg.pth")
    loss = load_feature_loss(tmp_path / "vgg.pth")
    a, b = torch.rand(2, 1, 1, 64, 64)
    assert loss(a, a) == 0.0
    assert loss(a, b) > loss(a, a + 0.01 * b) > 0.0
    assert not [p for p in loss.parameters() if p.requires_grad]
    torch.save({"a.weight": torch.rand(3, 3, 3, 3), "a.bias": torch.rand(3)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="neither AlexNet's nor VGG16's"):
        load_feature_loss(tmp_path / "x.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "pickle.pth")
    with pytest.raises(WeightsError, match="never read"):
        load_feature_loss(tmp_path / "pickle.pth")


def test_the_adversary_pushes_as_hard_as_asked_and_learns() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 1, 3, padding=1)
    adversary = Adversary(1, 1e-3, torch.device("cpu"))
    real = torch.randn(2, 1, 32, 32)
    decoded = layer(torch.zeros_like(real))
    reconstruction = (decoded - real).abs().mean()
    own = adversary.generator_loss(decoded, reconstruction, layer.weight, 0.5)
    assert all(p.grad is None for p in adversary.net.parameters())
    losses = []
    for _ in range(12):
        losses.append(adversary.accumulate(real, decoded, 1.0))
        adversary.step()
    assert losses[-1] < losses[0]
    assert torch.isfinite(own)


class PerfectTeacher(nn.Module):
    """Knows x_0, so that every ladder ends there."""

    def __init__(self, x_0: Tensor) -> None:
        super().__init__()
        spec = DEMO.denoiser.model_copy(update={"fade_noisy_input": False})
        self.preset, self.num_classes = DEMO.model_copy(update={"denoiser": spec}), 1
        self.x_0, self.anchor = x_0, nn.Parameter(torch.zeros(1))

    def forward(self, x_t: Tensor, t: Tensor, *_: object) -> tuple[Tensor, None]:
        alpha, sigma = (v[:, None, None, None].float() for v in SCHEDULE.alpha_sigma(t))
        return training_target(SCHEDULE, self.x_0, (x_t - alpha * self.x_0) / sigma, t), None


SCHEDULE = make_schedule(ScheduleConfig(zero_terminal_snr=True, prediction_type="v"))


def window(known: list[int]) -> DenoiserBatch:
    x_0 = torch.randn(6, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    flags = torch.zeros(6, dtype=torch.bool)
    flags[known] = True
    mask, seen = torch.zeros(6, 16, 16, 16), torch.zeros(6, 2, 1)
    return DenoiserBatch(x_0, Conditions(mask, x_0, torch.rand(6, 2), flags, seen), 3)


def test_a_perfect_teacher_distils_into_x_0_at_every_step_of_the_ladder() -> None:
    data = window([0, 5])
    teacher = cast(Denoiser, PerfectTeacher(data.x_0))
    for step in range(12):
        generators = example_generators(0, "test", step, range(2))
        draw = draw_distill(data, SCHEDULE, 4, generators)
        assert set(draw.noise.t.tolist()) <= {999, 749, 499, 249}
        noisy = make_noisy(teacher, SCHEDULE, data, draw.noise)
        found = distilled_x_0(teacher, SCHEDULE, noisy, draw)
        torch.testing.assert_close(found, data.x_0, atol=2e-3, rtol=2e-3)
        assert torch.equal(found[[0, 5]], data.x_0[[0, 5]])


def test_one_step_of_the_target_lands_where_two_of_the_teacher_do() -> None:
    data = window([])
    torch.manual_seed(0)
    spec = DEMO.denoiser.model_copy(update={"fade_noisy_input": False})
    teacher = Denoiser(DEMO.model_copy(update={"denoiser": spec}), 1).eval()
    plane = teacher.leave.plane
    assert isinstance(plane, nn.Conv2d)
    nn.init.normal_(plane.weight, std=0.02)
    draw = draw_distill(data, SCHEDULE, 4, example_generators(0, "test", 1, range(2)))
    noisy = make_noisy(teacher, SCHEDULE, data, draw.noise)

    def ddim(x: Tensor, x_0: Tensor, start: Tensor, end: Tensor) -> Tensor:
        a, s = (v[:, None, None, None].float() for v in SCHEDULE.alpha_sigma(start))
        clean = end < 0
        a_end, s_end = SCHEDULE.alpha_sigma(end.clamp(min=0))
        a_end = torch.where(clean, 1.0, a_end)[:, None, None, None].float()
        s_end = torch.where(clean, 0.0, s_end)[:, None, None, None].float()
        return a_end * x_0 + s_end * (x - a * x_0) / s

    with torch.no_grad():
        found = distilled_x_0(teacher, SCHEDULE, noisy, draw)
        landed = ddim(noisy.x_t, found, draw.noise.t, draw.end)
        x, t = noisy.x_t, draw.noise.t
        for end in (draw.middle, draw.end):
            output = predict(teacher, SCHEDULE, replace(noisy, x_t=x, t=t))
            alpha, sigma = (v.float() for v in SCHEDULE.alpha_sigma(t))
            x, t = ddim(x, predicted_x_0("v", output, x, alpha, sigma), t, end), end
    torch.testing.assert_close(landed, x, atol=1e-3, rtol=1e-3)


def test_rounds_halve_and_share_the_iterations() -> None:
    rounds = Rounds.between(16, 4, 30)
    assert rounds.counts == (16, 8, 4)
    assert [rounds.steps(s) for s in (0, 9, 10, 19, 20, 29, 99)] == [16, 16, 8, 8, 4, 4, 4]
