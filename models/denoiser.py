"""The pseudo-3D U-Net: (x_t, t, conditions) -> prediction.

One class serves both stages: with `num_slices=None` it is the 2D slice model of stage 1, otherwise
its volumetric layers mix the n slices of each window. Knows nothing of schedules or of how its
conditions were made (models/conditioning.py stacks them).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from models.conditioning import informed_channels
from models.layers import (
    Downsample,
    PseudoAttention,
    PseudoConv,
    ResBlock,
    Upsample,
    group_norm,
    sinusoid,
)
from models.presets import Preset

VOLUMETRIC_MARK = ".slices."


class Level(nn.Module):
    """Residual blocks (and attention) at one resolution, then a change of resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.resize: nn.Module | None = None

    def add(self, block: nn.Module, attention: nn.Module | None) -> None:
        """Append a residual block and the attention behind it."""
        self.blocks.append(block)
        self.attentions.append(attention if attention is not None else nn.Identity())

    def step(self, index: int, x: Tensor, embedding: Tensor, num_slices: int | None) -> Tensor:
        """Block and attention number `index` on `(b n) c h w`."""
        x = self.blocks[index](x, embedding, num_slices)
        attention = self.attentions[index]
        if isinstance(attention, PseudoAttention):
            x = attention(x, num_slices)
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
            self.style = _style_encoder(preset.autoencoder.latent_channels, self.base, width)
        self.appearance: nn.Module | None = None
        if spec.class_intensity_input:
            self.appearance = _appearance_encoder(num_classes, width)
            self.register_buffer("appearance_mean", torch.zeros(num_classes))
            self.register_buffer("appearance_std", torch.ones(num_classes))
        channels = [spec.base_channels * m for m in spec.multipliers]
        sizes = [preset.latent_px // 2**i for i in range(len(channels))]
        self.enter = PseudoConv(preset.input_channels(num_classes), channels[0])
        self.down, skips = _build_down(preset, channels, sizes, width)
        self.middle = Level()
        self.middle.add(
            ResBlock(channels[-1], channels[-1], width),
            PseudoAttention(channels[-1], spec.head_width),
        )
        self.middle.add(ResBlock(channels[-1], channels[-1], width), None)
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

        Returns:
            `(b n) latent_channels h w`.
        """
        return self.evaluate(x, t, heights, num_slices, appearance)[0]

    def evaluate(
        self,
        x: Tensor,
        t: Tensor,
        heights: Tensor | None = None,
        num_slices: int | None = None,
        appearance: Tensor | None = None,
        deep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`forward`, with the features below the outermost level handed out and taken back.

        Deep features change slowly from step to step, so that a sampler may keep those of an
        earlier step and run the outermost level alone (DeepCache, arXiv:2312.00858).

        Args:
            x: `(b n) c h w`, as in `forward`.
            t: `(b n)`.
            heights: `(b n) 2` or None.
            num_slices: n or None.
            appearance: `(b n) 2 k` or None.
            deep: `(b n) c h w` that an earlier call returned for the same windows; None computes
                them.

        Returns:
            The prediction, and the deep features that it rests on.
        """
        embedding = self._embed(t, heights)
        if self.style is not None:
            embedding = embedding + self.style(informed_channels(x, self.preset, self.num_classes))
        if self.appearance is not None and appearance is not None:
            embedding = embedding + self.appearance(appearance.flatten(1))
        down, up = list(_levels(self.down)), list(_levels(self.up))
        x = self.enter(x, num_slices)
        skips = [x]
        for index in range(len(down[0].blocks)):
            x = down[0].step(index, x, embedding, num_slices)
            skips.append(x)
        if deep is None:
            deep = self._below(down, up, x, embedding, num_slices)
        x = _ascend(up[-1], deep, skips, embedding, num_slices)
        output = self.leave(nn.functional.silu(self.norm(x)), num_slices)
        return torch.as_tensor(output), deep

    def _below(
        self,
        down: list[Level],
        up: list[Level],
        x: Tensor,
        embedding: Tensor,
        num_slices: int | None,
    ) -> Tensor:
        """Everything between the outermost level's way down and its way up."""
        skips: list[Tensor] = []
        for outer, level in pairwise(down):
            assert outer.resize is not None
            x = outer.resize(x, num_slices)
            skips.append(x)
            for index in range(len(level.blocks)):
                x = level.step(index, x, embedding, num_slices)
                skips.append(x)
        for index in range(2):
            x = self.middle.step(index, x, embedding, num_slices)
        for level in up[:-1]:
            x = _ascend(level, x, skips, embedding, num_slices)
        return x

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

    def volumetric_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of slice convolutions and slice attentions (stage 2 tunes only these)."""
        return (p for name, p in self.named_parameters() if VOLUMETRIC_MARK in f".{name}")

    def plane_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters (stage 1)."""
        return (p for name, p in self.named_parameters() if VOLUMETRIC_MARK not in f".{name}")


M = TypeVar("M", bound=nn.Module)


def to_channels_last(model: M) -> M:
    """Lay 2D weights out channels-last, in place: faster, and slice convolutions need no copies."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _ascend(
    level: Level, x: Tensor, skips: list[Tensor], embedding: Tensor, num_slices: int | None
) -> Tensor:
    """One level on the way up; takes its skips from the end of the list."""
    for index in range(len(level.blocks)):
        x = level.step(index, torch.cat([x, skips.pop()], dim=1), embedding, num_slices)
    return x if level.resize is None else torch.as_tensor(level.resize(x, num_slices))


def _style_encoder(latent_channels: int, base: int, width: int) -> nn.Module:
    """`b c h w` informed latents -> `b e`, zero at birth."""
    last = nn.Linear(2 * base, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(latent_channels, base, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(base, 2 * base, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        last,
    )


def _appearance_encoder(num_classes: int, width: int) -> nn.Module:
    """`b 2k` class means and presence -> `b e`, zero at birth."""
    last = nn.Linear(width // 2, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2 * num_classes, width // 2), nn.SiLU(), last)


def _levels(levels: nn.ModuleList) -> Iterator[Level]:
    return (cast(Level, level) for level in levels)


def _attention(preset: Preset, channels: int, size: int) -> nn.Module | None:
    spec = preset.denoiser
    return PseudoAttention(channels, spec.head_width) if size in spec.attention_px else None


def _build_down(
    preset: Preset, channels: list[int], sizes: list[int], width: int
) -> tuple[nn.ModuleList, list[int]]:
    """Levels on the way down and the channel count of every skip connection."""
    levels, skips, current = nn.ModuleList(), [channels[0]], channels[0]
    for i, (c, size) in enumerate(zip(channels, sizes, strict=True)):
        level = Level()
        for _ in range(preset.denoiser.num_res_blocks):
            level.add(ResBlock(current, c, width), _attention(preset, c, size))
            current = c
            skips.append(c)
        if i < len(channels) - 1:
            level.resize = Downsample(c)
            skips.append(c)
        levels.append(level)
    return levels, skips


def _build_up(
    preset: Preset, channels: list[int], sizes: list[int], width: int, skips: list[int]
) -> nn.ModuleList:
    levels, current = nn.ModuleList(), channels[-1]
    for i in reversed(range(len(channels))):
        level = Level()
        for _ in range(preset.denoiser.num_res_blocks + 1):
            level.add(
                ResBlock(current + skips.pop(), channels[i], width),
                _attention(preset, channels[i], sizes[i]),
            )
            current = channels[i]
        if i > 0:
            level.resize = Upsample(current)
        levels.append(level)
    return levels
