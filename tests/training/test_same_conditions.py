"""Training and sampling tell the denoiser the same of the same window."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from engine.sampling.diffusion.schedule import Level
from engine.sampling.propagation.volume_state import DenoiseItem
from engine.sampling.propagation.windows import Window
from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
from engine.training.config import TrainConfig
from engine.training.examples.randomness import example_generators
from engine.training.examples.windows import LatentDataset
from engine.training.stages.registry import build_stage
from engine.training.stages.survey import survey
from engine.volumes.prepared.store import read_prepared


def test_a_window_has_the_same_conditions_in_training_and_in_sampling(
    copied: Callable[[Path], Path], make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(copied(tmp_path), stage="slice", holdout=("phantom0001",))
    stage = build_stage(survey(config))
    data = stage.data
    assert isinstance(data, LatentDataset)
    data.cases = [  # training draws from the posterior, sampling takes its mean
        replace(one, log_variance=torch.full_like(one.log_variance, -60.0)) for one in data.cases
    ]
    case = read_prepared(config.data / "phantom0000.zarr")
    assert case.image is not None
    sampler = Sampler.load(config.weights, SamplingConfig(precision="float32"))
    last, compared = case.size_zyx[0] - 1, 0
    for step in range(40):
        batch = data.batch(example_generators(0, "test", step, range(1)))
        trained = batch.conditions
        here, there = (round(float(h) * last) for h in trained.heights[0])
        request = SampleRequest(
            sample_id="s", seed=0, mask=case.mask, informed=case.image[there],
            informed_mask=case.mask[there], informed_position=there / last,
        )  # fmt: skip
        window = Window(here, here + 1)
        item = DenoiseItem(0, window, batch.x_0, trained.known, 500, Level(0.6, 0.8), 0, None, {})
        (sampled,) = sampler.model._halves(item, sampler.model.encode(request))
        torch.testing.assert_close(trained.mask, sampled.mask, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(trained.heights, sampled.heights, atol=1e-6, rtol=0)
        assert torch.equal(trained.known, sampled.known)
        if bool(trained.appearance.any()):  # a tenth of the examples knows no class
            compared += 1
            torch.testing.assert_close(trained.appearance, sampled.appearance, atol=1e-3, rtol=0)
        torch.testing.assert_close(trained.informed, sampled.informed, atol=1e-3, rtol=1e-3)
    assert compared > 20
