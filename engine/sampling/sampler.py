"""The sampler: requests in, volumes out, one device kept full.

Place on the path: plan row -> SampleRequest -> windows -> latents -> SampledVolume. The loop is
schedule (batcher.py), run (model.py), step on (propagation.py), finish (decoding.py). Knows no Ray,
no files but the weights folder, and no native grid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

from engine.sampling.batching.decoding import Finisher, queue_length
from engine.sampling.batching.loop import OnWindow, VolumeLoop
from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import ScheduleConfig, make_schedule
from engine.sampling.make_solver import make_solver
from engine.sampling.networks.latent_model import LatentModel, LoadPosition
from engine.sampling.networks.precision import exact_float32
from engine.sampling.propagation.inpainting import resampling_walk
from engine.sampling.propagation.slice_noise import drawing_thread
from engine.sampling.propagation.volume_state import Denoising
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from engine.weights import weights_errors
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.image_encoder import ImageTower
from models.weights.folder import (
    Manifest,
    check_files,
    load_autoencoder,
    load_denoiser,
    load_position,
    load_tower,
    read_manifest,
)
from models.weights.manifest import digest_of, hash_files, refuse_damage

__all__ = ["Outcome", "SampleRequest", "SampledVolume", "Sampler", "SamplingConfig"]


USUAL_SLICES = 150  # of a volume, for bounds of memory
BEGUN_AT_ONCE = 2  # volumes before the next batch, so that a GPU does not wait for their encoding
IDLE_S = 0.01  # between looks at a source that has nothing at the moment


class Sampler:
    """One model on one device.

    Args:
        manifest: what the weights are.
        autoencoder: of the weights.
        denoiser: of the weights.
        config: settings.
        device: where to compute.
        sha256: digest of the weights folder.
        tower: vision tower whose tokens the denoiser attends to, where it takes them.
        load_position: loads the model of generated informed slices, when the first is asked for.

    Raises:
        ConfigError: settings that this model cannot do.
        WeightsError: the denoiser takes image tokens and there is no tower.
    """

    def __init__(
        self,
        manifest: Manifest,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        config: SamplingConfig,
        device: str = "cpu",
        sha256: str = "",
        tower: ImageTower | None = None,
        load_position: LoadPosition | None = None,
    ) -> None:
        self.manifest, self.weights_sha256 = manifest, sha256
        self.config = config.resolved(manifest)
        self.device = torch.device(device)
        self.model = LatentModel(
            manifest, autoencoder, denoiser, self.config, self.device, tower, load_position
        )
        schedule = make_schedule(ScheduleConfig.model_validate(manifest.schedule))
        self.solver = make_solver(self.config, schedule)
        walk = resampling_walk(
            self.solver.num_evaluations, self.config.jump_length, self.config.num_resamples
        )
        conditioned = self.config.known_slices == "conditioned"
        self.denoising = Denoising(self.solver, walk, conditioned)

    @classmethod
    def load(cls, weights: Path, config: SamplingConfig, device: str = "cpu") -> Sampler:
        """Load a weights folder; `weights_sha256` is of the very bytes that were loaded.

        Raises:
            ConfigError: settings that this model cannot do; nothing has been loaded by then.
            WeightsError: a file is missing, damaged or of another architecture.
        """
        with weights_errors():
            manifest = read_manifest(weights)
            config.resolved(manifest)
            check_files(weights, manifest)
            files = hash_files(weights)
            refuse_damage(weights, files)
            exact_float32()
            return cls(
                manifest,
                load_autoencoder(weights, manifest, files),
                load_denoiser(weights, manifest, files),
                config,
                device,
                digest_of(files),
                load_tower(weights, manifest, files),
                partial(load_position, weights, manifest, files),
            )

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume; the same request gives the same volume on every worker.

        Args:
            request: mask, informed slice and seed.
            on_window: called with (windows done, windows in all).

        Raises:
            SamplingError: the request does not fit the model, or latents are not finite.
        """

        def tell(_: str, done: int, total: int) -> None:
            if on_window is not None:
                on_window(done, total)

        (outcome,) = self.sample_many([request], tell)
        return outcome.result()

    def sample_many(
        self, requests: Iterable[SampleRequest | None], on_window: OnWindow | None = None
    ) -> Iterator[Outcome]:
        """Make volumes together, as many windows in a batch as the device takes.

        A volume is the same whatever it shares its batches with. One that fails does not stop the
        others.

        Args:
            requests: taken one by one as room comes up; None means "nothing at the moment".
            on_window: called with (sample_id, windows done, windows in all).

        Yields:
            One outcome a request, in the order of their end.
        """
        source = iter(requests)
        threads, beside = torch.get_num_threads(), self.config.decode_beside
        image_mb = USUAL_SLICES * self.manifest.preset.size_px**2 * 4 / 2**20
        queue = queue_length(self.device, image_mb)
        with (
            drawing_thread(self.device) as drawing,
            Finisher[Outcome](self.device, beside, threads, queue) as finisher,
        ):
            loop = VolumeLoop(self.model, self.denoising, self.config, finisher, on_window, drawing)
            ended = False
            while not (ended and loop.is_idle):
                room = BEGUN_AT_ONCE if self.device.type == "cuda" else math.inf
                while not ended and loop.wants_more and room > 0:
                    room -= 1
                    request = next(source, _END)
                    if request is None:
                        break
                    if isinstance(request, _End):
                        ended = True
                    else:
                        loop.take(request)
                if loop.is_idle and not ended:
                    time.sleep(IDLE_S)
                loop.turn()
                yield from loop.failures()
                yield from finisher.finished()
            yield from finisher.finished(wait=True)


class _End:
    """No more requests."""


_END = _End()
