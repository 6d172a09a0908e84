"""What the loop needs of a stage: examples by number, a loss, and what else a checkpoint must hold.

The stages stand beside it: autoencoder.py, denoiser.py, position.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engine.training.config import TrainConfig
from engine.training.examples.randomness import example_generators
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.precision import autocast
from models.presets import Preset

NUM_PROBES = 8


@dataclass
class Trace:
    """What the last forward passes were like, for those who watch.

    Attributes:
        each: losses of single examples, one tensor a pass.
        t: their timesteps; empty for stages without.
        parts: named terms of the last loss.
    """

    each: list[Tensor] = field(default_factory=list)
    t: list[Tensor] = field(default_factory=list)
    parts: dict[str, Tensor | float] = field(default_factory=dict)

    def add(self, each: Tensor, t: Tensor) -> None:
        """Note one pass."""
        self.each.append(each.detach())
        self.t.append(t)

    def take(self) -> tuple[Tensor, Tensor]:
        """Losses and timesteps of all passes since the last call, on the CPU."""
        if not self.each:
            return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        each, t = torch.cat(self.each).float().cpu(), torch.cat(self.t)
        self.each, self.t = [], []
        return each, t


class StageModel(nn.Module):
    """A network together with its loss, so that DeepSpeed sees one forward pass.

    Attributes:
        net: what is trained; the only submodule.
        preset: its architecture.
        num_cases: cases and copies that are drawn from.
        num_skipped: cases that are too short.
        missing_classes: names of classes that no mask has.
        share: part of an optimiser step that a micro-batch is.
    """

    weights_file: ClassVar[str]
    net: nn.Module

    def __init__(self, config: TrainConfig, preset: Preset) -> None:
        super().__init__()
        self.config, self.preset, self.trace = config, preset, Trace()
        self.num_cases = self.num_skipped = 0
        self.missing_classes: tuple[str, ...] = ()
        self.share = 1.0

    def draw(self, step: int, indices: Sequence[int]) -> Any:
        """Examples of optimiser step `step` (from 0) by their numbers, on the CPU."""
        generators = example_generators(self.config.seed, self.config.stage, step, indices)
        return self.sample(generators, step, probe=False)

    def draw_probe(self) -> Any | None:
        """Fixed examples on which checkpoints are compared, held-out ones where there are any.

        None where the loss of one step does not compare with that of another.
        """
        generators = example_generators(self.config.seed, "probe", 0, range(NUM_PROBES))
        return self.sample(generators, self.config.num_iterations - 1, probe=True)

    def sample(self, generators: Sequence[torch.Generator], step: int, *, probe: bool) -> Any:
        """A batch with an example a generator."""
        raise NotImplementedError

    def forward(self, batch: Any) -> Tensor:
        """Mean loss of what `sample` gave, in the settings' precision.

        Autocast stands here because DeepSpeed switches off one that is entered outside.
        """
        with autocast(self.config.precision, self.device):
            return self.compute(batch)

    def compute(self, batch: Any) -> Tensor:
        """The stage's own loss."""
        raise NotImplementedError

    def begin_step(self, step: int, ema: Ema) -> None:
        """Called before each optimiser step."""

    def end_step(self) -> None:
        """Called after each optimiser step."""

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside the network that a checkpoint must hold."""
        return {}

    def load_extra(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.parameters()).device
