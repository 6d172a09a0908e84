"""Pictures of what a model in training makes of fixed cases.

The only place of the room that calls the sampler. A failure to make a picture never ends a
training.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.sampling.config import SamplingConfig
from engine.sampling.networks.slices import sample_slices
from engine.sampling.sampler import Sampler, SampleRequest
from engine.training.config import TrainConfig
from engine.training.examples.cases import find_cases
from engine.training.examples.randomness import generator_for
from engine.training.optimisation.ema import Ema
from engine.training.stages.base import StageModel
from engine.training.stages.denoiser import DistillStage
from engine.training.stages.position import PositionStage
from engine.training.stages.vision_tower import training_tower
from engine.volumes.prepared_store import read_prepared
from engine.volumes.volume import PreparedCase
from models.autoencoder import Autoencoder
from models.denoiser import Denoiser
from models.image_encoder import ImageTower
from models.position import PositionModel
from models.weights import Manifest, load_autoencoder

NUM_CASES, NUM_SHOWN = 2, 4
HEIGHTS = (0.2, 0.4, 0.6, 0.8)


class Previews:
    """Fixed cases, and how they look.

    Args:
        config: of the stage; held-out cases are shown where there are any.
        manifest: of the weights.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest) -> None:
        self.config, self.manifest = config, manifest
        headers = (find_cases(config, held_out=True) or find_cases(config))[:NUM_CASES]
        cases = [read_prepared(config.data / f"{header.case_id}.zarr") for header in headers]
        self.cases = [case for case in cases if case.image is not None]

    @torch.no_grad()
    def picture(self, stage: StageModel, ema: Ema) -> NDArray[np.uint8]:
        """Grid `y x`: rows of real slices and of what the average makes in their place.

        Raises:
            SamplingError: the model's output is not finite.
        """
        state = {name: value.cpu() for name, value in ema.full_state(stage.net).items()}
        if isinstance(stage.net, Autoencoder):
            net = Autoencoder(stage.preset.autoencoder)
            net.load_state_dict(state)
            return grid([row for case in self.cases for row in _rebuilt(net.eval(), case)])
        if isinstance(stage, PositionStage):
            position = PositionModel(stage.preset)
            position.load_state_dict(state)
            return grid([self._at_heights(position.eval())])
        net_denoiser = Denoiser(stage.preset, self.manifest.num_classes)
        net_denoiser.load_state_dict(state)
        sampling = SamplingConfig(precision="float32", overlap=1)
        if isinstance(stage, DistillStage):
            steps = stage.rounds.counts[stage.current_round]
            sampling = sampling.model_copy(update={"solver": "ddim", "num_inference_steps": steps})
        rows = [self._sampled(net_denoiser, case, sampling) for case in self.cases]
        return grid([row for pair in rows for row in pair])

    def _sampled(
        self, net: Denoiser, case: PreparedCase, sampling: SamplingConfig
    ) -> list[NDArray[np.float32]]:
        """One window from noise, with the case's own mask and middle slice."""
        assert case.image is not None
        autoencoder = self._autoencoder()
        size = min(net.preset.window, len(case.mask))
        low = (len(case.mask) - size) // 2
        middle = low + size // 2
        tower = training_tower(self.config, net.preset)
        made = sample_window(
            self.manifest, autoencoder, net, case, low, size, middle, sampling, tower
        )
        z = np.linspace(0, size - 1, min(NUM_SHOWN, size)).round().astype(int)
        return [_row(case.image[low + z]), _row(made[z])]

    def _autoencoder(self) -> Autoencoder:
        folder = self.config.start_from if self.config.stage == "distill" else self.config.weights
        assert folder is not None
        return load_autoencoder(folder, self.manifest)

    def _at_heights(self, net: PositionModel) -> NDArray[np.float32]:
        autoencoder = self._autoencoder()
        planes = sample_heights(self.manifest, autoencoder, net, HEIGHTS, self.config.seed)
        return _row(planes)


def sample_window(
    manifest: Manifest,
    autoencoder: Autoencoder,
    net: Denoiser,
    case: PreparedCase,
    low: int,
    size: int,
    middle: int,
    sampling: SamplingConfig,
    tower: ImageTower | None = None,
) -> NDArray[np.float32]:
    """Slices `low` to `low + size` of a case from noise, `z y x` in [-1, 1].

    Args:
        manifest: of the weights.
        autoencoder: to decode.
        net: to denoise.
        case: gives the mask.
        low: first slice.
        size: number of slices.
        middle: z of the informed slice.
        sampling: solver and steps.
        tower: where `net` takes image tokens.
    """
    assert case.image is not None
    stop = low + size
    request = SampleRequest(
        sample_id=case.case_id,
        seed=0,
        mask=case.mask[low:stop],
        informed=case.image[middle],
        informed_mask=case.mask[middle],
        informed_position=(middle - low) / max(size - 1, 1),
    )
    return Sampler(manifest, autoencoder, net, sampling, tower=tower).sample(request).image


def sample_heights(
    manifest: Manifest,
    autoencoder: Autoencoder,
    net: PositionModel,
    heights: tuple[float, ...],
    seed: int,
) -> NDArray[np.float32]:
    """Slices of the position model at heights in [0, 1], `b y x` in [-1, 1], one noise for all."""
    edge, channels = manifest.preset.latent_px, manifest.preset.autoencoder.latent_channels
    noise = torch.randn((1, channels, edge, edge), generator=generator_for(seed, "heights"))
    return sample_slices(manifest, autoencoder, net, heights, noise)


def grid(rows: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Rows `y x` in [-1, 1] below each other, as grey values."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=-1.0) for r in rows]
    whole = np.nan_to_num(np.concatenate(padded), nan=-1.0)
    return ((np.clip(whole, -1.0, 1.0) + 1.0) * 127.5).round().astype(np.uint8)


def _rebuilt(net: Autoencoder, case: PreparedCase) -> list[NDArray[np.float32]]:
    assert case.image is not None
    z = np.linspace(0, len(case.image) - 1, NUM_SHOWN + 2).round().astype(int)[1:-1]
    real = torch.from_numpy(case.image[z])[:, None]
    posterior = net.net.encode(real.expand(-1, net.spec.image_channels, -1, -1)).latent_dist
    decoded: Tensor = net.net.decode(posterior.mean).sample[:, 0]
    return [_row(case.image[z]), _row(decoded.numpy())]


def _row(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate(list(planes), axis=1)
