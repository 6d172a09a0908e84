"""What a denoiser is told beside its noisy latents: one type, for training and sampling alike.

    case or request -> Conditions of a volume -> of a window -> of a batch -> Denoiser

The order of channels inside the network is the denoiser's own business
(models/denoiser/packing.py). Knows tensors only: what encodes a mask or a slice stands in
models/mask_encoding.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """Conditions of m slices: of a volume (m = z), a window (m = n) or a batch (m = b n).

    Attributes:
        mask: `m k h w` encoded mask (`encode_mask`).
        informed: `m c h w` latent of the informed slice, equal for all slices of a window.
        heights: `m 2` in [0, 1]: of the slice in its volume, and of the informed slice in its own.
        known: `m` bool, slices whose latents are given clean.
        appearance: `m 2 k` class means of the informed slice in [-1, 1], and 1 or 0 for whether it
            has the class (`class_appearance`).
        tokens: `m t k` image embedding of the informed slice, where the denoiser attends to one.
        packed: `m f h w` channels that `Denoiser.pack` made of these conditions; None until then.
    """

    mask: Tensor
    informed: Tensor
    heights: Tensor
    known: Tensor
    appearance: Tensor
    tokens: Tensor | None = None
    packed: Tensor | None = None

    @classmethod
    def of_volume(
        cls,
        mask: Tensor,
        informed: Tensor,
        height: float,
        appearance: Tensor,
        tokens: Tensor | None = None,
    ) -> Conditions:
        """Conditions of a whole volume of which no slice is known; nothing is copied.

        Args:
            mask: `z k h w`; may be a map of a file, `window` reads what it needs.
            informed: `1 c h w`.
            height: of the informed slice in its own volume, 0 to 1.
            appearance: `1 2 k`.
            tokens: `1 t k` or None.
        """
        size, device = len(mask), informed.device
        z = torch.arange(size, device=device) / max(size - 1, 1)
        return cls(
            mask=mask,
            informed=informed.expand(size, -1, -1, -1),
            heights=torch.stack([z, torch.full_like(z, height)], dim=1),
            known=torch.zeros(size, dtype=torch.bool, device=device),
            appearance=appearance.expand(size, -1, -1),
            tokens=None if tokens is None else tokens.expand(size, -1, -1),
        )

    def __len__(self) -> int:
        """M."""
        return len(self.informed)

    def window(self, start: int, stop: int, known: Tensor) -> Conditions:
        """Slices `start` to `stop`, float32, of which `known` (`n` bool) are given."""
        z = slice(start, stop)
        return Conditions(
            mask=self.mask[z].float(),
            informed=self.informed[z],
            heights=self.heights[z],
            known=known,
            appearance=self.appearance[z],
            tokens=None if self.tokens is None else self.tokens[z].float(),
        )

    def informed_by(self, informed: Tensor, height: float, tokens: Tensor | None) -> Conditions:
        """The same with another informed slice of the same patient, whose classes are kept.

        Args:
            informed: `1 c h w`.
            height: of that slice, 0 to 1.
            tokens: `1 t k`, or None where the denoiser takes none.
        """
        heights = torch.stack([self.heights[:, 0], torch.full_like(self.heights[:, 1], height)], 1)
        return replace(
            self,
            informed=informed.expand(len(self), -1, -1, -1),
            heights=heights,
            tokens=None if tokens is None else tokens.expand(len(self), -1, -1),
            packed=None,
        )

    def without(self, dropped: Tensor) -> Conditions:
        """The same with mask and informed slice taken away from the chosen slices (`m` bool).

        For condition dropout and classifier-free guidance. What stands for "not given" is 0. For
        latents (a `grey_vae` mask, the informed slice) that is the mean latent; for `one_hot` it is
        "half of every class", which no mask of three classes or more has, so that the network can
        tell "not given" from "empty" (-1); for appearance it is "no class known". Heights and
        known slices stay.

        Raises:
            ValueError: `dropped` is not `m` bool.
        """
        if dropped.dtype != torch.bool or dropped.shape != (len(self),):
            raise ValueError(
                f"dropped must be {len(self)} bool values, one a slice; it is {dropped.dtype} of "
                f"{tuple(dropped.shape)}"
            )
        return replace(
            self,
            mask=_blank(self.mask, dropped),
            informed=_blank(self.informed, dropped),
            appearance=_blank(self.appearance, dropped),
            tokens=None if self.tokens is None else _blank(self.tokens, dropped),
            packed=None,
        )

    def to(self, device: torch.device) -> Conditions:
        """The same on a device; on the way to a GPU nobody waits for it."""
        to_gpu = torch.device(device).type == "cuda"
        moved: dict[str, Any] = {
            name: None if v is None else v.to(device, non_blocking=to_gpu)
            for name, v in vars(self).items()
        }
        return Conditions(**moved)

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> Conditions:
        """One after the other; packed when all of them are."""
        joined: dict[str, Any] = {}
        for name in vars(parts[0]):
            values = [vars(part)[name] for part in parts]
            joined[name] = None if any(v is None for v in values) else torch.cat(values)
        return Conditions(**joined)


def guided(conditioned: Tensor, unconditioned: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Eq. 6, arXiv:2207.12598, with scale = 1 + w).

    Args:
        conditioned: prediction with conditions.
        unconditioned: prediction `without` them, same shape.
        scale: 1 is `conditioned`, 0 is `unconditioned`, more pushes towards the conditions.
    """
    return unconditioned + scale * (conditioned - unconditioned)


def _blank(values: Tensor, dropped: Tensor) -> Tensor:
    chosen = dropped.to(values.device).reshape(-1, *(1,) * (values.ndim - 1))
    return values.masked_fill(chosen, 0.0)
