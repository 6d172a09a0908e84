"""The pseudo-3D U-Net: (x_t, t, conditions) -> prediction.

One class serves both stages: with `num_slices=None` it is the 2D slice model of stage 1, otherwise
its volumetric layers mix the n slices of each window. Conditions reach it as channels stacked on
the noisy latents; `DenoiserSpec.conditioning` says which part reads them. Knows nothing of
schedules or of how conditions were made (models/conditioning.py stacks them).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from models.conditioning import entry_channels, informed_channels
from models.control import ControlBranch, walk_down
from models.global_conditions import appearance_encoder, style_encoder
from models.image_attention import (
    CrossAttention,
    LatentTokens,
    build_crossing,
    repeat_tokens,
    token_width,
)
from models.layers import (
    Downsample,
    PseudoConv,
    ResBlock,
    Upsample,
    group_norm,
    sinusoid,
)
from models.presets import Preset
from models.slice_attention import build_attention

VOLUMETRIC_MARK = ".slices."


class Level(nn.Module):
    """Residual blocks (and attention) at one resolution, then a change of resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.crossings = nn.ModuleList()
        self.resize: nn.Module | None = None

    def add(
        self, block: nn.Module, attention: nn.Module | None, crossing: nn.Module | None = None
    ) -> None:
        """Append a residual block, the attention behind it and its cross-attention to tokens."""
        self.blocks.append(block)
        self.attentions.append(attention if attention is not None else nn.Identity())
        self.crossings.append(crossing if crossing is not None else nn.Identity())

    def step(
        self,
        index: int,
        x: Tensor,
        embedding: Tensor,
        num_slices: int | None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Block and attentions number `index` on `(b n) c h w`; `tokens` are `(b n) t k`."""
        x = self.blocks[index](x, embedding, num_slices)
        if not isinstance(self.attentions[index], nn.Identity):
            x = self.attentions[index](x, num_slices)
        if isinstance(self.crossings[index], CrossAttention):
            x = self.crossings[index](x, tokens)
        return x


class Denoiser(nn.Module):
    """U-Net of Rombach et al. (arXiv:2112.10752) with the paper's volumetric layers."""

    appearance_mean: Tensor
    appearance_std: Tensor

    def __init__(self, preset: Preset, num_classes: int) -> None:
        super().__init__()
        spec = preset.denoiser
        self.preset, self.num_classes = preset, num_classes
        width = 4 * spec.base_channels
        self.base = spec.base_channels
        self.time = nn.Sequential(nn.Linear(self.base, width), nn.SiLU(), nn.Linear(width, width))
        self.position: nn.Module | None = None
        if spec.position_embedding:
            self.position = nn.Sequential(
                nn.Linear(2 * self.base, width), nn.SiLU(), nn.Linear(width, width)
            )
        self.style: nn.Module | None = None
        if spec.style_embedding:
            self.style = style_encoder(preset.autoencoder.latent_channels, self.base, width)
        self.appearance: nn.Module | None = None
        if spec.class_intensity_input:
            self.appearance = appearance_encoder(num_classes, width)
            self.register_buffer("appearance_mean", torch.zeros(num_classes))
            self.register_buffer("appearance_std", torch.ones(num_classes))
        channels = [spec.base_channels * m for m in spec.multipliers]
        sizes = [preset.latent_px // 2**i for i in range(len(channels))]
        self.tokens: nn.Module | None = None
        if spec.conditioning == "image_attention" and spec.image_token_width is None:
            self.tokens = LatentTokens(preset.autoencoder.latent_channels, token_width(spec))
        self.enter = PseudoConv(preset.entry_channels(num_classes), channels[0])
        self.down, skips = _build_down(preset, channels, sizes, width)
        self.middle = _build_middle(preset, channels[-1], width)
        self.control: nn.Module | None = None
        if spec.conditioning == "controlnet":
            self.control = _build_control(preset, num_classes, channels, sizes, [*skips])
        self.up = _build_up(preset, channels, sizes, width, skips)
        self.norm = group_norm(channels[0])
        self.leave = PseudoConv(channels[0], preset.autoencoder.latent_channels)
        nn.init.zeros_(self.leave.plane.weight)
        assert self.leave.plane.bias is not None
        nn.init.zeros_(self.leave.plane.bias)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        heights: Tensor | None = None,
        num_slices: int | None = None,
        appearance: Tensor | None = None,
        image_tokens: Tensor | None = None,
    ) -> Tensor:
        """Predict eps, v, x_0 or flow, whatever the weights were trained for.

        Args:
            x: `(b n) c h w`, noisy latent, mask and informed channels stacked.
            t: `(b n)` timesteps, 0 to 999.
            heights: `(b n) 2` in [0, 1]: of the slice in its volume, and of the informed slice in
                its own; needed when the preset has a position embedding.
            num_slices: n, or None to leave the volumetric layers out (stage 1).
            appearance: `(b n) 2 k` of `normalise_appearance`, where the preset uses it; None says
                that it is not known.
            image_tokens: `(b n) t k`, or `b t k` for whole windows: embedding of the informed
                slice, where the preset has an `image_token_width` k.

        Returns:
            `(b n) latent_channels h w`.

        Raises:
            ValueError: heights or tokens that the preset needs are missing or of another shape.
        """
        embedding = self._embed(t, heights)
        tokens = self._tokens(x, image_tokens)
        if self.style is not None:
            embedding = embedding + self.style(informed_channels(x, self.preset, self.num_classes))
        if self.appearance is not None and appearance is not None:
            embedding = embedding + self.appearance(appearance.flatten(1))
        stacked = x
        x = self.enter(entry_channels(x, self.preset, self.num_classes), num_slices)
        features = walk_down(self.down, self.middle, x, embedding, num_slices, tokens)
        if self.control is not None:
            added = self.control(stacked, embedding, num_slices)
            features = [own + more for own, more in zip(features, added, strict=True)]
        *skips, x = features
        for level in _levels(self.up):
            for index in range(len(level.blocks)):
                x = torch.cat([x, skips.pop()], dim=1)
                x = level.step(index, x, embedding, num_slices, tokens)
            if level.resize is not None:
                x = level.resize(x, num_slices)
        return torch.as_tensor(self.leave(nn.functional.silu(self.norm(x)), num_slices))

    def normalise_appearance(self, appearance: Tensor) -> Tensor:
        """Class means in standard deviations of the training data, 0 where absent; `b 2 k`."""
        if self.appearance is None:
            return appearance
        means, present = appearance.unbind(dim=1)
        return torch.stack(
            [(means - self.appearance_mean) / self.appearance_std * present, present], 1
        )

    def set_appearance_statistics(self, appearance: Tensor) -> None:
        """Measure mean and standard deviation of each class over training slices, `b 2 k`."""
        means, present = appearance.unbind(dim=1)
        count = present.sum(dim=0).clamp(min=1.0)
        mean = (means * present).sum(dim=0) / count
        variance = ((means - mean).square() * present).sum(dim=0) / count
        self.appearance_mean.copy_(mean)
        self.appearance_std.copy_(variance.sqrt().clamp(min=0.02))

    def _embed(self, t: Tensor, heights: Tensor | None) -> Tensor:
        embedding = self.time(sinusoid(t, self.base))
        if self.position is not None:
            if heights is None:
                raise ValueError("this denoiser has a position embedding: give `heights`")
            place = torch.cat([sinusoid(1000.0 * p, self.base) for p in heights.unbind(-1)], dim=-1)
            embedding = embedding + self.position(place)
        return torch.as_tensor(embedding)

    def _tokens(self, stacked: Tensor, given: Tensor | None) -> Tensor | None:
        if self.tokens is not None:
            informed = informed_channels(stacked, self.preset, self.num_classes)
            return torch.as_tensor(self.tokens(informed))
        width = self.preset.denoiser.image_token_width
        if width is None:
            return None
        if given is None:
            raise ValueError("this denoiser attends to an image embedding: give `image_tokens`")
        return repeat_tokens(given, len(stacked), width)

    def volumetric_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of slice convolutions and slice attentions (stage 2 tunes only these)."""
        return (p for name, p in self.named_parameters() if VOLUMETRIC_MARK in f".{name}")

    def plane_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters (stage 1)."""
        return (p for name, p in self.named_parameters() if VOLUMETRIC_MARK not in f".{name}")


def to_channels_last(model: Denoiser) -> Denoiser:
    """Lay 2D weights out channels-last, in place: faster, and slice convolutions need no copies."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _levels(levels: nn.ModuleList) -> Iterator[Level]:
    return (cast(Level, level) for level in levels)


def _attentions(preset: Preset, channels: int, size: int | None) -> list[nn.Module | None]:
    """Self- and cross-attention at a resolution; the middle (`size` None) always has them."""
    spec = preset.denoiser
    if size is not None and size not in spec.attention_px:
        return [None, None]
    return [build_attention(channels, spec), build_crossing(channels, spec)]


def _build_middle(preset: Preset, channels: int, width: int) -> Level:
    middle = Level()
    middle.add(ResBlock(channels, channels, width), *_attentions(preset, channels, None))
    middle.add(ResBlock(channels, channels, width), None)
    return middle


def _build_down(
    preset: Preset, channels: list[int], sizes: list[int], width: int
) -> tuple[nn.ModuleList, list[int]]:
    """Levels on the way down and the channel count of every skip connection."""
    levels, skips, current = nn.ModuleList(), [channels[0]], channels[0]
    for i, (c, size) in enumerate(zip(channels, sizes, strict=True)):
        level = Level()
        for _ in range(preset.denoiser.num_res_blocks):
            level.add(ResBlock(current, c, width), *_attentions(preset, c, size))
            current = c
            skips.append(c)
        if i < len(channels) - 1:
            level.resize = Downsample(c)
            skips.append(c)
        levels.append(level)
    return levels, skips


def _build_control(
    preset: Preset, num_classes: int, channels: list[int], sizes: list[int], skips: list[int]
) -> ControlBranch:
    width = 4 * preset.denoiser.base_channels
    return ControlBranch(
        PseudoConv(preset.input_channels(num_classes), channels[0]),
        _build_down(preset, channels, sizes, width)[0],
        _build_middle(preset, channels[-1], width),
        [*skips, channels[-1]],
    )


def _build_up(
    preset: Preset, channels: list[int], sizes: list[int], width: int, skips: list[int]
) -> nn.ModuleList:
    levels, current = nn.ModuleList(), channels[-1]
    for i in reversed(range(len(channels))):
        level = Level()
        for _ in range(preset.denoiser.num_res_blocks + 1):
            level.add(
                ResBlock(current + skips.pop(), channels[i], width),
                *_attentions(preset, channels[i], sizes[i]),
            )
            current = channels[i]
        if i > 0:
            level.resize = Upsample(current)
        levels.append(level)
    return levels
