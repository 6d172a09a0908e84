"""The settings of benchmarks/train_heads.py."""

from __future__ import annotations

from dataclasses import dataclass

from engine.sampling.diffusion.schedule import ScheduleConfig
from models.presets import PRESETS, Preset


@dataclass(frozen=True)
class Recipe:
    """What is trained for how long; every field can be set from the command line."""

    ae_seconds: float = 60.0
    slice_seconds: float = 25.0
    volume_seconds: float = 130.0
    max_steps: int = 10**9
    channels: int = 8
    blocks: str = "32,64,64"
    kl_weight: float = 1e-4
    perceptual: float = 0.2
    texture: float = 1.0
    adversarial: float = 0.2
    adversarial_from: float = 0.5
    ae_batch: int = 48
    ae_rate: float = 1e-3
    prediction: str = "flow"
    timesteps: str = "mixed"
    batch: int = 24
    rate: float = 1e-3
    weight_decay: float = 0.01
    pinned_share: float = 0.4
    class_weight: float = 3.0
    gradient_weight: float = 0.25
    ema_share: float = 0.04
    base: int = 64
    fade: int = 0
    compile: int = 0
    seed: int = 0
    max_slices: int = 30_000

    def preset(self) -> Preset:
        """The flagship with this recipe's changes."""
        plus = PRESETS["gem3d_plus_128"]
        blocks = tuple(int(c) for c in self.blocks.split(","))
        autoencoder = plus.autoencoder.model_copy(
            update={"latent_channels": self.channels, "block_channels": blocks}
        )
        subpixels = autoencoder.factor
        denoiser = plus.denoiser.model_copy(
            update={
                "base_channels": self.base,
                "fade_noisy_input": bool(self.fade),
                "mask_subpixels": subpixels,
            }
        )
        return plus.model_copy(update={"autoencoder": autoencoder, "denoiser": denoiser})

    def schedule(self) -> ScheduleConfig:
        """Straight lines, or v with a schedule that ends in pure noise."""
        if self.prediction == "flow":
            return ScheduleConfig(kind="flow", prediction_type="flow")
        return ScheduleConfig(zero_terminal_snr=True, prediction_type="v")
