"""Slices from the position model: the solver's arithmetic, heights, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import SamplingError
from engine.sampling.config import schedule_of
from engine.sampling.diffusion.schedule import make_schedule
from engine.sampling.networks.slices import draw_slice, sample_slices
from engine.sampling.sampler import Sampler
from models.autoencoder import Autoencoder
from models.denoiser.position import PositionModel
from models.denoiser.unet import Denoiser
from models.presets import PositionSpec
from models.weights.folder import POSITION, Manifest, read_manifest, save_weights, write_manifest
from tests.sampling.tiny_model import EDGE, FAST, request, write_tiny

SMALL_POSITION = PositionSpec(
    base_channels=16, multipliers=(1,), num_res_blocks=1,
    attention_px=(4,), head_width=8, position_width=32,
)  # fmt: skip


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weights with a position model."""
    weights = write_tiny(tmp_path_factory.mktemp("weights"))
    manifest = read_manifest(weights)
    preset = manifest.preset.model_copy(update={"position": SMALL_POSITION})
    write_manifest(weights, manifest.model_copy(update={"preset": preset}))
    torch.manual_seed(2)
    net = shaken(PositionModel(read_manifest(weights).preset))
    save_weights(weights / POSITION, net.state_dict())
    return weights


@pytest.fixture(scope="module")
def model(folder: Path) -> tuple[Manifest, Autoencoder, PositionModel]:
    manifest = read_manifest(folder)
    torch.manual_seed(2)
    net = shaken(PositionModel(manifest.preset))
    assert isinstance(net, PositionModel)
    return manifest, Autoencoder(manifest.preset.autoencoder).eval(), net


@torch.no_grad()
def test_two_steps_are_ddim_by_hand(model: tuple[Manifest, Autoencoder, PositionModel]) -> None:
    manifest, autoencoder, net = model
    noise, p = torch.randn(1, 8, 4, 4), torch.tensor([0.3])
    schedule = make_schedule(schedule_of(manifest))
    (a, b), (c, d) = (schedule.alpha_sigma(torch.tensor(t)) for t in (999, 499))
    v = net(noise, torch.tensor([999]), p)
    x_0, eps = a * noise - b * v, b * noise + a * v
    x = (c * x_0 + d * eps).float()
    v = net(x, torch.tensor([499]), p)
    expected = autoencoder.decode((c * x - d * v).float())[:, 0].clamp(-1, 1)
    found = sample_slices(manifest, autoencoder, net, [0.3], noise, num_steps=2)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_height_seed_and_sample_make_the_slice(
    model: tuple[Manifest, Autoencoder, PositionModel],
) -> None:
    low = draw_slice(*model, 0.1, 7, "s")
    assert low.shape == (EDGE, EDGE)
    assert np.array_equal(low, draw_slice(*model, 0.1, 7, "s"))
    for others in ((0.9, 7, "s"), (0.1, 8, "s"), (0.1, 7, "t")):
        assert np.abs(low - draw_slice(*model, *others)).max() > 1e-4


def test_a_request_without_a_slice_gets_one_and_tells_it(folder: Path) -> None:
    sampler = Sampler.load(folder, FAST)
    asked = request(informed=None, informed_mask=None)
    made = sampler.sample(asked)
    assert made.informed is not None
    given = sampler.sample(replace(asked, informed=made.informed))
    assert np.array_equal(given.image, made.image)
    assert given.informed is None
    both = [replace(asked, sample_id=name) for name in ("s", "t")]
    together = {o.sample_id: o.result() for o in sampler.sample_many(both)}
    assert np.abs(together["s"].image - made.image).max() < 2e-3
    one, other = together["s"].informed, together["t"].informed
    assert one is not None
    assert other is not None
    assert not np.array_equal(one, other)


def test_what_cannot_be_drawn_is_refused(folder: Path, weights: Path) -> None:
    asked = request(informed=None, informed_mask=None)
    with pytest.raises(SamplingError, match=r"s: no informed slice .*position\.safetensors: not f"):
        Sampler.load(weights, FAST).sample(asked)
    with pytest.raises(SamplingError, match="yet to be drawn has no mask"):
        Sampler.load(folder, FAST).sample(request(informed=None))
    manifest = read_manifest(folder)
    networks = Autoencoder(manifest.preset.autoencoder), Denoiser(manifest.preset, 2)
    with pytest.raises(SamplingError, match="these weights have no position model"):
        Sampler(manifest, *networks, FAST).sample(asked)
    broken = Sampler.load(folder, FAST)
    next(iter(broken.model._position_model("s").parameters())).data.fill_(torch.nan)
    with pytest.raises(SamplingError, match="s: the generated informed slice is not finite"):
        broken.sample(asked)
