"""The autoencoder's patch discriminator and its own optimiser (arXiv:1611.07004, arXiv:2012.09841).

It judges overlapping patches with a hinge loss and is small, so it trains beside DeepSpeed: plain
AdamW, gradients averaged over the workers by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.errors import TrainingError

_LEAK = 0.2
_LARGEST = 1e4
_LIFT = 2.0**12  # keeps gradients of a mean over pixels above float16's smallest number


class PatchDiscriminator(nn.Module):
    """`b c y x` images -> `b 1 h w` scores of patches of about 70 px."""

    def __init__(self, channels: int, base: int = 32, num_halvings: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, base, 4, 2, 1), nn.LeakyReLU(_LEAK)]
        width = base
        for i in range(num_halvings):
            stride, wider = 2 if i < num_halvings - 1 else 1, min(2 * width, 8 * base)
            layers += [
                nn.Conv2d(width, wider, 4, stride, 1, bias=False),
                nn.GroupNorm(8, wider),  # batch statistics would depend on the number of workers
                nn.LeakyReLU(_LEAK),
            ]
            width = wider
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores, high for real."""
        return torch.as_tensor(self.net(images))


class Adversary:
    """A discriminator that learns from each batch it has judged.

    Args:
        channels: of the images.
        learning_rate: of its optimiser.
        device: of the autoencoder.
    """

    def __init__(self, channels: int, learning_rate: float, device: torch.device) -> None:
        self.net = PatchDiscriminator(channels).to(device)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )
        self._largest: Tensor | None = None  # gradient norm since the last look

    def generator_loss(
        self, decoded: Tensor, reconstruction: Tensor, last_layer: Tensor, weight: float
    ) -> Tensor:
        """What the autoencoder adds to its loss.

        The term is scaled so that its gradient at the decoder's last layer is `weight` times that
        of the reconstruction (Eq. 7, arXiv:2012.09841).

        Args:
            decoded: `b c y x`.
            reconstruction: the loss it stands beside.
            last_layer: weights of the decoder's last convolution.
            weight: relative strength.
        """
        self.net.requires_grad_(False)  # this loss teaches the autoencoder only
        fooled = -self.net(decoded).mean()
        losses = [reconstruction * _LIFT, fooled * _LIFT]
        of_image, of_patches = (
            torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float() for loss in losses
        )
        ratio = of_image.norm() / (of_patches.norm() + 1e-6)
        return torch.as_tensor(weight * ratio.clamp(max=_LARGEST).detach() * fooled)

    def accumulate(self, real: Tensor, decoded: Tensor, share: float) -> Tensor:
        """Add the gradient of its hinge loss on a micro-batch, as `share` of a step; the loss."""
        self.net.requires_grad_(True)
        scores = self.net(real), self.net(decoded.detach())
        loss = torch.relu(1.0 - scores[0]).mean() + torch.relu(1.0 + scores[1]).mean()
        torch.autograd.backward(0.5 * share * loss)
        return loss.detach()

    def step(self) -> None:
        """Average gradients over the workers, and step."""
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        if not gradients:
            return
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
                gradient.div_(torch.distributed.get_world_size())
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._largest = norm if self._largest is None else torch.maximum(self._largest, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def look(self) -> None:
        """Wait for the steps since the last look.

        Raises:
            TrainingError: their gradients were not finite.
        """
        largest, self._largest = self._largest, None
        if largest is not None and not bool(torch.isfinite(largest)):
            raise TrainingError(
                "the discriminator's gradients are not finite; lower adversarial_weight or "
                "learning_rate; the last checkpoint is untouched"
            )

    def state(self) -> dict[str, Tensor]:
        """Network and optimiser as named tensors, for a checkpoint."""
        tensors = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
        return tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
        self.net.load_state_dict(
            {k.removeprefix("net/"): v for k, v in state.items() if k.startswith("net/")}
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                moments.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
