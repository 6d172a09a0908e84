"""Cross-attention of the denoiser to tokens of the informed slice.

Conditioning `image_attention` of the paper's Table 3. Tokens come from `LatentTokens`, trained with
the model, or from outside (models/image_encoder.py). Knows nothing of where the denoiser puts it.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from models.denoiser.attention import attend
from models.denoiser.layers import group_norm, sinusoid
from models.presets import DenoiserSpec


class CrossAttention(nn.Module):
    """Every position of a plane attends to tokens; added to its input, zero at birth."""

    def __init__(self, channels: int, token_width: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.norm = nn.LayerNorm(channels)
        self.norm_tokens = nn.LayerNorm(token_width)
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(token_width, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """`b c h w` and `b t k` -> `b c h w`."""
        h, w = x.shape[-2:]
        flat = rearrange(x, "b c h w -> b (h w) c")
        place = plane_sinusoid(h, w, flat.shape[-1], x.device).to(x.dtype)
        q = rearrange(self.q(self.norm(flat) + place), "b t (a c) -> b t a c", a=self.heads)
        pairs = self.kv(self.norm_tokens(tokens.to(x.dtype)))
        k, v = rearrange(pairs, "b t (two a c) -> two b t a c", two=2, a=self.heads)
        mixed = rearrange(attend(q, k, v), "b t a c -> b t (a c)")
        return torch.add(x, rearrange(self.out(mixed), "b (h w) c -> b c h w", h=h, w=w))


class LatentTokens(nn.Module):
    """Small encoder of informed latents, trained with the denoiser: a token for 4 x 4 latents."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, stride=2, padding=1),
            group_norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            group_norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, informed: Tensor) -> Tensor:
        """`b c h w` latents -> `b (h/4 w/4) k` with their places."""
        grid = self.net(informed)
        h, w = grid.shape[-2:]
        place = plane_sinusoid(h, w, grid.shape[1], grid.device).to(grid.dtype)
        return torch.add(rearrange(grid, "b k h w -> b (h w) k"), place)


def plane_sinusoid(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """`(h w) width` sinusoids of y and x relative to the plane, so that any two grids agree.

    Raises:
        ValueError: `width` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"width {width} must be a multiple of 4: sine and cosine of y and x")
    y, x = ((torch.arange(n, device=device) + 0.5) / n for n in (h, w))
    rows, columns = (sinusoid(100.0 * p, width // 2, 100.0) for p in (y, x))
    rows, columns = rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)
    return rearrange(torch.cat([rows, columns], dim=-1), "h w c -> (h w) c")


def check_tokens(tokens: Tensor, num: int, width: int) -> Tensor:
    """Return tokens `num t width`, one set a slice, or refuse them.

    Raises:
        ValueError: another width, or not one set for each of `num` slices.
    """
    if tokens.ndim != 3 or len(tokens) != num or tokens.shape[-1] != width:
        raise ValueError(f"tokens of shape {tuple(tokens.shape)}: expected {num} x t x {width}")
    return tokens


def token_width(spec: DenoiserSpec) -> int:
    """Width k of the tokens of `image_attention`."""
    return spec.image_token_width or 2 * spec.base_channels


def build_crossing(channels: int, spec: DenoiserSpec) -> nn.Module | None:
    """Cross-attention where `spec` conditions by image attention."""
    if spec.conditioning != "image_attention":
        return None
    return CrossAttention(channels, token_width(spec), spec.head_width)
