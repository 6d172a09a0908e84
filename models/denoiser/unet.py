"""The pseudo-3D U-Net: (x_t, t, conditions) -> prediction.

One class serves both stages: with `num_slices=None` it is the 2D slice model of stage 1, otherwise
its volumetric layers mix the n slices of each window. `DenoiserSpec.conditioning` says which part
of the network reads the conditions. Knows nothing of schedules or of how conditions were made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.conditions import Conditions
from models.denoiser.control import ControlBranch
from models.denoiser.global_conditions import appearance_encoder, style_encoder
from models.denoiser.image_attention import LatentTokens, build_crossing, check_tokens, token_width
from models.denoiser.layers import Downsample, PseudoConv, ResBlock, Upsample, group_norm, sinusoid
from models.denoiser.levels import Level, ascend, descend, descend_below, levels_of
from models.denoiser.packing import fade_noisy, pack_channels
from models.denoiser.slice_attention import build_attention
from models.presets import Preset

VOLUMETRIC_MARK = ".slices."


class Denoiser(nn.Module):
    """U-Net of Rombach et al. (arXiv:2112.10752) with the paper's volumetric layers."""

    appearance_mean: Tensor
    appearance_std: Tensor

    def __init__(self, preset: Preset, num_classes: int) -> None:
        super().__init__()
        spec = preset.denoiser
        self.preset, self.num_classes = preset, num_classes
        self.plain = False  # see `set_plain`: then its input keeps its layout in memory
        self.working_dtype: torch.dtype | None = None  # see models.cuda_layout.lay_out
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
        self.project: nn.Module = nn.Identity()  # of the embedding, once for all blocks
        self.enter: nn.Module = PseudoConv(preset.entry_channels(num_classes), channels[0])
        self.down, skips = _build_down(preset, channels, sizes, width)
        self.middle = _build_middle(preset, channels[-1], width)
        self.control: ControlBranch | None = None
        if spec.conditioning == "controlnet":
            self.control = _build_control(preset, num_classes, channels, sizes, [*skips])
        self.up = _build_up(preset, channels, sizes, width, skips)
        self.norm: nn.Module = group_norm(channels[0])
        self.activate: nn.Module = nn.SiLU()
        self.leave: nn.Module = _zero_conv(channels[0], preset.autoencoder.latent_channels)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        alpha: Tensor,
        conditions: Conditions,
        num_slices: int | None = None,
        deep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict eps, v, x_0 or flow, whatever the weights were trained for.

        Deep features change slowly from step to step, so that a sampler may keep those of an
        earlier step and run the outermost level alone (DeepCache, arXiv:2312.00858).

        Args:
            x_t: `(b n) c h w` noisy latents, clean ones where `conditions.known`.
            t: `(b n)` timesteps, 0 to 999.
            alpha: `(b n)` signal amplitudes of x_t.
            conditions: of the `b n` slices.
            num_slices: n, or None to leave the volumetric layers out (stage 1).
            deep: `(b n) c h w` that an earlier call returned for the same windows; None computes
                them.

        Returns:
            The prediction `(b n) latent_channels h w`, and the deep features that it rests on.

        Raises:
            ValueError: image tokens that the preset needs are missing or of another shape.
        """
        if conditions.packed is None:
            conditions = self.pack(conditions)
        stacked = self._stacked(x_t, alpha, conditions)
        embedding = self._embed(t, conditions)
        call = (embedding, num_slices, self._tokens(conditions))
        entered = self.enter(stacked[:, : self.preset.entry_channels(self.num_classes)], num_slices)
        skips = descend(levels_of(self.down)[0], entered, *call)
        added: list[Tensor] = []
        if self.control is not None:
            added = self.control.outermost(stacked, embedding, num_slices)
        if deep is None:
            deep = self._below(skips[-1], added, *call)
        if self.control is not None:
            skips = self.control.add(skips, added)
        x = ascend(levels_of(self.up)[-1], deep, skips, *call)
        output = self.leave(self.activate(self.norm(x)), num_slices)
        return torch.as_tensor(output), deep

    def pack(self, conditions: Conditions) -> Conditions:
        """The same with their channels stacked: equal at every step of a window, so done once."""
        appearance = self.normalise_appearance(conditions.appearance)
        packed = pack_channels(conditions, appearance, self.preset)
        return replace(conditions, packed=packed)

    def _stacked(self, x_t: Tensor, alpha: Tensor, conditions: Conditions) -> Tensor:
        """All that enters as channels; a main branch beside a ControlNet reads the first ones."""
        assert conditions.packed is not None
        faded = fade_noisy(x_t, conditions.known, alpha, self.preset)
        stacked = torch.cat([faded, conditions.packed.to(faded.dtype)], dim=1)
        if self.working_dtype is not None:
            stacked = stacked.to(self.working_dtype)
        return stacked if self.plain else stacked.contiguous(memory_format=torch.channels_last)

    def _below(
        self,
        x: Tensor,
        added: list[Tensor],
        embedding: Tensor,
        num_slices: int | None,
        tokens: Tensor | None,
    ) -> Tensor:
        """Everything between the outermost level's way down (which ended in x) and its way up.

        `added` are the ControlNet branch's features of that level, empty without a branch.
        """
        call = (embedding, num_slices, tokens)
        features = descend_below(levels_of(self.down), self.middle, x, *call)
        if self.control is not None:
            more = self.control.below(added[-1], embedding, num_slices)
            features = self.control.add(features, more, first=len(added))
        *skips, x = features
        for level in levels_of(self.up)[:-1]:
            x = ascend(level, x, skips, *call)
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

    def _embed(self, t: Tensor, conditions: Conditions) -> Tensor:
        """What reaches every voxel alike: time, heights, style and appearance, `(b n) e`."""
        embedding = self.time(sinusoid(t, self.base))
        if self.position is not None:
            heights = conditions.heights.unbind(-1)
            place = torch.cat([sinusoid(1000.0 * p, self.base) for p in heights], dim=-1)
            embedding = embedding + self.position(place)
        if self.style is not None:
            embedding = embedding + self.style(conditions.informed)
        if self.appearance is not None:
            appearance = self.normalise_appearance(conditions.appearance)
            embedding = embedding + self.appearance(appearance.flatten(1))
        return torch.as_tensor(self.project(embedding))

    def _tokens(self, conditions: Conditions) -> Tensor | None:
        if self.tokens is not None:
            return torch.as_tensor(self.tokens(conditions.informed))
        width = self.preset.denoiser.image_token_width
        if width is None:
            return None
        if conditions.tokens is None:
            raise ValueError("this denoiser attends to an image embedding: give `tokens`")
        return check_tokens(conditions.tokens, len(conditions), width)

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


def _zero_conv(c_in: int, c_out: int) -> PseudoConv:
    conv = PseudoConv(c_in, c_out)
    nn.init.zeros_(conv.plane.weight)
    assert conv.plane.bias is not None
    nn.init.zeros_(conv.plane.bias)
    return conv


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
