"""Architectures as plain tables. A new size is a new row here, not a new class.

Knows no data and no weights. `gem3d_512` is the paper's model (section 4.1), `gem3d_256` its small
sister with an autoencoder of its own size, `demo` one that two CPU cores can train.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AutoencoderSpec(_Spec):
    """diffusers' AutoencoderKL in the words of this code.

    Attributes:
        image_channels: 1, or 3 for LDM weights (grey repeated, one channel kept).
        latent_channels: channels of a latent.
        block_channels: channels at each resolution; the factor is 2 ** (len - 1).
        num_layers: residual blocks a resolution.
        mid_attention: attention at the lowest resolution.
        norm_groups: groups of every group normalisation.
    """

    image_channels: int
    latent_channels: int
    block_channels: tuple[int, ...]
    num_layers: int
    mid_attention: bool
    norm_groups: int

    @property
    def factor(self) -> int:
        """Image pixels to a latent pixel, along one axis."""
        return int(2 ** (len(self.block_channels) - 1))


class DenoiserSpec(_Spec):
    """Pseudo-3D U-Net.

    Attributes:
        base_channels: channels at full latent resolution.
        multipliers: channel multiples at each resolution.
        num_res_blocks: residual blocks a resolution on the way down (one more on the way up).
        attention_px: latent resolutions (pixels) that carry attention.
        head_width: channels of one attention head.
        mask_encoding: `grey_vae` (the paper: a grey image of label / max label through the
            autoencoder) or `one_hot` (class fractions by area).
        mask_subpixels: `one_hot` only: fractions are taken on a grid this many times finer than the
            latent and unfolded to channels, so that contours keep their place.
        known_slice_input: one more channel that says which slices are given (clean) and which are
            to be made: conditioned inpainting. Without it known slices are pinned by replacement.
        position_embedding: heights of the slice and of the informed slice enter beside the time.
        style_embedding: a small encoder of the informed slice, averaged over the slice, enters
            beside the time as well: contrast and scanner reach every voxel directly.
        class_intensity_input: the mask, painted with the mean intensity that each class has in the
            informed slice, enters beside it (`one_hot` masks only): organs get the patient's
            contrast wherever they are. Classes that the informed slice lacks are marked so.
        fade_noisy_input: noisy latents enter multiplied by their signal amplitude alpha_t, so that
            pure noise, which says nothing, is not seen at all.
        conditioning: how the conditions that `concatenate` stacks reach the network (the paper's
            Table 3). `concatenate`: all enter beside the noisy latents. `controlnet`: only noisy
            latents enter; a second encoder, trained together with the first, reads the whole stack
            and adds to the skips and the middle through zero convolutions. `image_attention`: the
            informed slice enters only by cross-attention to tokens, all else beside the latents.
        image_token_width: `image_attention` only: width of tokens that the caller gives (a CLIP
            vision tower's); None trains a small encoder of the informed latents with the model.
        slice_position: slice attention knows the place of each slice in its window.
        layout: attention block of this engine, or `openai`: that of the public GEM-3D weights
            (group normalisation shared by both attentions, no slice position).
    """

    base_channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_px: tuple[int, ...]
    head_width: int
    mask_encoding: Literal["grey_vae", "one_hot"]
    mask_subpixels: int = 1
    known_slice_input: bool = False
    position_embedding: bool = False
    style_embedding: bool = False
    class_intensity_input: bool = False
    fade_noisy_input: bool = False
    conditioning: Literal["concatenate", "controlnet", "image_attention"] = "concatenate"
    image_token_width: int | None = None
    slice_position: bool = True
    layout: Literal["engine", "openai"] = "engine"

    @model_validator(mode="after")
    def _painted_masks_are_one_hot(self) -> DenoiserSpec:
        if self.class_intensity_input and self.mask_encoding != "one_hot":
            raise ValueError("class_intensity_input needs mask_encoding one_hot")
        return self

    @model_validator(mode="after")
    def _choices_agree(self) -> DenoiserSpec:
        if self.image_token_width is not None and self.conditioning != "image_attention":
            raise ValueError("image_token_width needs conditioning image_attention")
        if self.layout == "openai" and self.slice_position:
            raise ValueError("layout openai has no slice position: set slice_position false")
        return self


class PositionSpec(_Spec):
    """2D LDM that makes informed slices at a height (the paper's IG).

    Attributes:
        base_channels: channels at full latent resolution.
        multipliers: channel multiples at each resolution.
        num_res_blocks: residual blocks a resolution on the way down (one more on the way up).
        attention_px: latent resolutions (pixels) that carry self- and cross-attention.
        head_width: channels of one attention head.
        position_width: width of the sinusoid of the normalised height.
    """

    base_channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_px: tuple[int, ...]
    head_width: int
    position_width: int = 128


class Preset(_Spec):
    """One whole model: autoencoder, denoiser and the grid they are made for.

    Attributes:
        size_px: edge of the square slice.
        window: slices denoised together (n).
        position: the model of informed slices at a height, where there is one.
    """

    name: str
    size_px: int
    window: int
    autoencoder: AutoencoderSpec
    denoiser: DenoiserSpec
    position: PositionSpec | None = None

    def same_slices(self, other: Preset) -> bool:
        """Whether weights of one serve the other: all but the position model agree."""
        return self.model_copy(update={"position": None}) == other.model_copy(
            update={"position": None}
        )

    @property
    def latent_px(self) -> int:
        """Edge of a latent."""
        return self.size_px // self.autoencoder.factor

    def mask_channels(self, num_classes: int) -> int:
        """Channels by which the mask enters the denoiser."""
        if self.denoiser.mask_encoding == "grey_vae":
            return self.autoencoder.latent_channels
        return int(num_classes * self.denoiser.mask_subpixels**2)

    def input_channels(self, num_classes: int) -> int:
        """Noisy + mask + informed (+ known flag) (+ painted mask) channels."""
        latents = 2 * self.autoencoder.latent_channels
        painted = 2 * self.denoiser.mask_subpixels**2 if self.denoiser.class_intensity_input else 0
        flag = int(self.denoiser.known_slice_input)
        return latents + self.mask_channels(num_classes) + flag + painted

    def entry_channels(self, num_classes: int) -> int:
        """Those of the stacked channels that enter the main branch."""
        latent = self.autoencoder.latent_channels
        if self.denoiser.conditioning == "controlnet":
            return latent
        left_out = latent if self.denoiser.conditioning == "image_attention" else 0
        return self.input_channels(num_classes) - left_out


class TowerSpec(BaseModel):
    """`config.json` of a vision tower (its defaults are those of the layout)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    num_channels: Literal[3] = 3
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5


_KL_F8 = AutoencoderSpec(
    image_channels=3,
    latent_channels=4,
    block_channels=(128, 256, 512, 512),
    num_layers=2,
    mid_attention=True,
    norm_groups=32,
)

# Narrow where pixels are many: with few denoising steps, decoding is most of the arithmetic.
_SMALL_F8 = AutoencoderSpec(
    image_channels=1,
    latent_channels=4,
    block_channels=(16, 32, 64, 128),
    num_layers=1,
    mid_attention=False,
    norm_groups=8,
)

PRESETS: dict[str, Preset] = {
    "demo": Preset(
        name="demo",
        size_px=128,
        window=16,
        autoencoder=AutoencoderSpec(
            image_channels=1,
            latent_channels=8,
            block_channels=(16, 32, 64, 64),
            num_layers=1,
            mid_attention=False,
            norm_groups=8,
        ),
        denoiser=DenoiserSpec(
            base_channels=64,
            multipliers=(1, 2, 2),
            num_res_blocks=1,
            attention_px=(8, 4),
            head_width=32,
            mask_encoding="one_hot",
            mask_subpixels=4,
            known_slice_input=True,
            position_embedding=True,
            style_embedding=True,
            class_intensity_input=True,
            fade_noisy_input=True,
        ),
        position=PositionSpec(
            base_channels=32,
            multipliers=(1, 2, 4),
            num_res_blocks=1,
            attention_px=(8, 4),
            head_width=32,
        ),
    ),
    "gem3d_256": Preset(
        name="gem3d_256",
        size_px=256,
        window=16,
        autoencoder=_SMALL_F8,
        denoiser=DenoiserSpec(
            base_channels=64,
            multipliers=(1, 2, 3, 4),
            num_res_blocks=2,
            attention_px=(16, 8, 4),
            head_width=32,
            mask_encoding="grey_vae",
        ),
        position=PositionSpec(
            base_channels=64,
            multipliers=(1, 2, 4, 4),
            num_res_blocks=2,
            attention_px=(32, 16, 8),
            head_width=32,
        ),
    ),
    "gem3d_512": Preset(
        name="gem3d_512",
        size_px=512,
        window=16,
        autoencoder=_KL_F8,
        denoiser=DenoiserSpec(
            base_channels=224,
            multipliers=(1, 2, 3, 4),
            num_res_blocks=2,
            attention_px=(32, 16, 8),
            head_width=32,
            mask_encoding="grey_vae",
        ),
        position=PositionSpec(
            base_channels=224,
            multipliers=(1, 2, 4, 4),
            num_res_blocks=2,
            attention_px=(64, 32, 16),
            head_width=32,
        ),
    ),
}

# Beside the paper's (docs/presets.md): latents that keep texture, and what is known enters as such.
_PLUS_F4 = AutoencoderSpec(
    image_channels=1,
    latent_channels=8,
    block_channels=(32, 64, 64),
    num_layers=1,
    mid_attention=False,
    norm_groups=8,
)
_PLUS_F8 = _PLUS_F4.model_copy(update={"latent_channels": 16, "block_channels": (32, 64, 64, 128)})
_PLUS = DenoiserSpec(
    base_channels=64,
    multipliers=(1, 2, 2),
    num_res_blocks=1,
    attention_px=(16, 8),
    head_width=32,
    mask_encoding="one_hot",
    mask_subpixels=4,
    known_slice_input=True,
    position_embedding=True,
    style_embedding=True,
    class_intensity_input=True,
)
_PLUS_256 = _PLUS.model_copy(update={"multipliers": (1, 2, 3, 3)})
_PLUS_512 = _PLUS.model_copy(update={"base_channels": 96, "multipliers": (1, 2, 3, 4)})
PRESETS |= {
    name: Preset(name=name, size_px=size, window=16, autoencoder=autoencoder, denoiser=denoiser)
    for name, size, autoencoder, denoiser in (
        ("gem3d_plus_128", 128, _PLUS_F4, _PLUS),
        ("gem3d_plus_256", 256, _PLUS_F4, _PLUS_256),
        ("gem3d_plus_512", 512, _PLUS_F8, _PLUS_512),
    )
}

# The paper's model with the attention block of its public weights (models/weights/public.py).
_PAPER = PRESETS["gem3d_512"]
PRESETS["gem3d_512_public"] = _PAPER.model_copy(
    update={
        "name": "gem3d_512_public",
        "denoiser": _PAPER.denoiser.model_copy(
            update={"layout": "openai", "slice_position": False}
        ),
    }
)
