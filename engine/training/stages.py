"""What each stage trains: its model, its batches and its loss, behind one small interface.

Used by loop.py, which knows how steps are made but not what is learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.errors import TrainingError, WeightsError
from engine.log import get_logger
from engine.sampling.schedule import make_schedule
from engine.training.config import TrainConfig
from engine.training.latents import cached_latents, load_cases
from engine.training.objectives import autoencoder_loss, denoiser_loss
from engine.training.windows_dataset import CropDataset, LatentDataset
from engine.volumes.volume import PreparedCase
from models.autoencoder import Autoencoder
from models.denoiser import Denoiser
from models.presets import PRESETS, Preset
from models.weights import (
    AUTOENCODER,
    CONFIG,
    DENOISER,
    Manifest,
    WeightsFileError,
    load_autoencoder,
    load_denoiser,
    read_manifest,
)

log = get_logger(__name__)


class StageModel(nn.Module):
    """A network together with its loss, so that DeepSpeed sees one forward pass."""

    net: nn.Module

    def forward(self, generator: torch.Generator) -> Tensor:
        """Loss of the next batch."""
        raise AssertionError("each stage defines its own loss")


class AutoencoderStage(StageModel):
    """Images to latents and back."""

    weights_file = AUTOENCODER

    def __init__(
        self, config: TrainConfig, cases: list[PreparedCase], preset: Preset, seed: int
    ) -> None:
        super().__init__()
        self.net: Autoencoder = Autoencoder(preset.autoencoder)
        self.config = config
        self.data = CropDataset(cases, config.crop_px, config.case_weight, seed)

    def forward(self, generator: torch.Generator) -> Tensor:
        """L1 and KL of a batch of crops."""
        images = self.data.batch(self.config.batch_size)
        images = images.to(next(self.parameters()).device)
        return autoencoder_loss(self.net, images, self.config.kl_weight, generator)


class DenoiserStage(StageModel):
    """Stage 1 (`slice`) and stage 2 (`volume`) of the paper."""

    weights_file = DENOISER

    def __init__(
        self, config: TrainConfig, cases: list[PreparedCase], manifest: Manifest, seed: int
    ) -> None:
        super().__init__()
        preset = manifest.preset
        autoencoder = load_autoencoder(config.weights, manifest)
        latents = cached_latents(
            cases, autoencoder, preset, manifest.num_classes, config.work / "latents"
        )
        volumetric = config.stage == "volume"
        window = preset.window if volumetric else 1
        self.data = LatentDataset(latents, window, config.max_overlap, config.case_weight, seed)
        if self.data.num_skipped:
            log.warning("%d cases have fewer than %d slices", self.data.num_skipped, window)
        self.config, self.schedule = config, make_schedule(config.schedule)
        self.class_weight = _class_weight(config, manifest)
        if volumetric or "slice" in manifest.stages:
            self.net: Denoiser = load_denoiser(config.weights, manifest).train()
        else:
            self.net = Denoiser(preset, manifest.num_classes)
        if preset.denoiser.class_intensity_input:
            seen = torch.cat([case.appearance for case in latents])
            self.net.set_appearance_statistics(seen)
        self._freeze(volumetric)

    def _freeze(self, volumetric: bool) -> None:
        if volumetric and self.config.tune == "all":
            return
        frozen = self.net.plane_parameters() if volumetric else self.net.volumetric_parameters()
        for parameter in frozen:
            parameter.requires_grad_(False)

    def forward(self, generator: torch.Generator) -> Tensor:
        """Denoising error of a batch of slices or windows."""
        batch = self.data.batch(self.config.batch_size)
        return denoiser_loss(
            self.net,
            self.schedule,
            batch,
            generator,
            self.config.high_noise_share,
            self.config.slice_gradient_weight,
            self.class_weight,
        )


AnyStage = AutoencoderStage | DenoiserStage


def build_stage(config: TrainConfig, seed: int) -> tuple[AnyStage, Manifest]:
    """Load cases and models of `config.stage`; the same `seed` gives the same weights and order.

    Raises:
        TrainingError: no cases, or cases that do not fit together or with the preset.
        WeightsError: an earlier stage is missing or of another architecture.
    """
    torch.manual_seed(config.seed)
    cases = load_cases(config.data, config.holdout)
    preset = _preset(config.preset)
    _check_cases(cases, config, preset)
    manifest = _manifest(config, cases, preset)
    if config.stage == "autoencoder":
        return AutoencoderStage(config, cases, preset, seed), manifest
    needed = [AUTOENCODER] if config.stage == "slice" else [AUTOENCODER, DENOISER]
    for name in needed:
        if not (config.weights / name).is_file():
            raise WeightsError(f"{config.weights / name}: not found; run the earlier stage first")
    try:
        return DenoiserStage(config, cases, manifest, seed), manifest
    except WeightsFileError as error:
        raise WeightsError(str(error)) from None


def _class_weight(config: TrainConfig, manifest: Manifest) -> Tensor | None:
    if not config.class_weight:
        return None
    unknown = sorted(set(config.class_weight) - set(manifest.class_names))
    if unknown:
        raise TrainingError(f"class_weight names {unknown}; the classes are {manifest.class_names}")
    if manifest.preset.denoiser.mask_encoding != "one_hot":
        raise TrainingError(f"class_weight needs one_hot masks; {manifest.preset.name} has others")
    return torch.tensor([config.class_weight.get(name, 0.0) for name in manifest.class_names])


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise TrainingError(f"preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _check_cases(cases: list[PreparedCase], config: TrainConfig, preset: Preset) -> None:
    if not cases:
        raise TrainingError(f"{config.data}: no prepared case to train on; run prepare_dataset")
    for case in cases:
        if case.image is None:
            raise TrainingError(f"{case.case_id}: has no image; train on cases with images")
        if case.size_zyx[1:] != (preset.size_px, preset.size_px):
            raise TrainingError(
                f"{case.case_id}: slices of {case.size_zyx[1:]}, but preset {preset.name} takes "
                f"{preset.size_px} px squares; prepare with size_yx of the preset"
            )
        if case.class_names != cases[0].class_names:
            raise TrainingError(
                f"{case.case_id}: classes {case.class_names} differ from those of "
                f"{cases[0].case_id}; prepare all cases with one label map"
            )


def _manifest(config: TrainConfig, cases: list[PreparedCase], preset: Preset) -> Manifest:
    """The folder's manifest, or a new one from the data."""
    first = cases[0]
    if (config.weights / CONFIG).is_file() and config.stage != "autoencoder":
        manifest = read_manifest(config.weights)
        if manifest.preset != preset or manifest.class_names != first.class_names:
            raise WeightsError(
                f"{config.weights}: made for preset {manifest.preset.name} and classes "
                f"{manifest.class_names}; give another weights folder"
            )
        return manifest
    return Manifest(
        preset=preset,
        num_classes=first.num_classes,
        class_names=first.class_names,
        schedule=config.schedule.model_dump(),
        spacing_mm_yx=round(float((first.affine[:3, 0] ** 2).sum() ** 0.5), 6),
        modality="ct" if first.intensity.unit == "HU" else "mr",
    )
