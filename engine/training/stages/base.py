"""What every stage declares and does; the loop, the export and the monitor know nothing else of it.

The stages stand beside it: autoencoder.py, denoiser.py, distillation.py, position.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.sampling.diffusion.schedule import Schedule
from engine.training.config import TrainConfig, TrainSettings
from engine.training.examples.cache import CachePlan
from engine.training.examples.randomness import example_generators
from engine.training.optimisation.batching import checkpoint_activations
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.precision import autocast
from engine.training.settings.parts import FolderSettings
from engine.training.settings.stages import StageFields
from engine.volumes.prepared.store import PreparedHeader
from engine.volumes.volume import PreparedCase
from models.denoiser.layers import PseudoAttention, ResBlock
from models.presets import Preset
from models.weights.folder import AUTOENCODER, Manifest

C = TypeVar("C", bound=StageFields)
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

    def drop(self) -> None:
        """Forget the passes; nobody looks at them."""
        self.each, self.t = [], []

    def take(self) -> tuple[Tensor, Tensor]:
        """Losses and timesteps of all passes since the last call, on the CPU."""
        if not self.each:
            return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        each, t = torch.cat(self.each).float().cpu(), torch.cat(self.t)
        self.drop()
        return each, t


@dataclass(frozen=True)
class Survey:
    """What a training starts from, found once and passed on, to the workers too.

    Attributes:
        config: of the stage, its paths absolute.
        settings: the same in parts.
        cases: headers of the training cases.
        held_out: headers of the held-out cases that are of the same size and have an image.
        manifest: of the weights that the stage goes on from, or a new one from the data.
        plan: what the stage trains on in its cache.
        probe: what its probe loss is measured on; none when nothing is held out.
    """

    config: TrainConfig
    settings: TrainSettings
    cases: tuple[PreparedHeader, ...]
    held_out: tuple[PreparedHeader, ...]
    manifest: Manifest
    plan: CachePlan
    probe: CachePlan


class StageModel(nn.Module, ABC):
    """A network together with its loss, so that DeepSpeed sees one forward pass.

    What a class declares:
        name: value of the setting `stage`.
        weights_file: file of a weights folder that it writes.
        needs: files that the folder of `source` must hold.
        pixels: whether it trains on images instead of latents.
        first: whether it begins a weights folder: its manifest comes from the data alone.
        fixes_diffusion: whether it fixes the folder's denoiser and schedule when no other has.
        takes_tokens: whether a preset with image tokens needs the vision tower for it.

    Attributes:
        net: what is trained; the only submodule.
        preset: its architecture.
        schedule: of the diffusion; None where there is none.
        num_cases: cases and copies that are drawn from.
        num_skipped: cases that are too short.
        missing_classes: names of classes that no mask has.
        share: part of an optimiser step that a micro-batch is.
    """

    name: ClassVar[str]
    weights_file: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = (AUTOENCODER,)
    pixels: ClassVar[bool] = False
    first: ClassVar[bool] = False
    fixes_diffusion: ClassVar[bool] = True
    takes_tokens: ClassVar[bool] = False
    net: nn.Module
    schedule: Schedule | None = None

    def __init__(self, settings: TrainSettings, preset: Preset) -> None:
        super().__init__()
        self.settings, self.preset, self.trace = settings, preset, Trace()
        self.num_cases = self.num_skipped = 0
        self.missing_classes: tuple[str, ...] = ()
        self.share = 1.0

    @classmethod
    def source(cls, folders: FolderSettings) -> Path:
        """Folder of the weights that the stage goes on from."""
        return folders.weights

    @classmethod
    @abstractmethod
    def from_survey(cls, survey: Survey) -> Self:
        """The stage with its examples and its first weights.

        Raises:
            TrainingError: cases that cannot be trained on.
            WeightsFileError: weights of an earlier stage that do not fit.
        """

    def draw(self, step: int, indices: Sequence[int]) -> Any:
        """Examples of optimiser step `step` (from 0) by their numbers, on the CPU."""
        generators = example_generators(self.settings.data.seed, self.name, step, indices)
        return self.sample(generators, step, probe=False)

    def draw_probe(self) -> Any | None:
        """Fixed examples on which checkpoints are compared, held-out ones where there are any.

        None where the loss of one step does not compare with that of another.
        """
        generators = example_generators(self.settings.data.seed, "probe", 0, range(NUM_PROBES))
        return self.sample(generators, self.settings.optimiser.num_iterations - 1, probe=True)

    @abstractmethod
    def sample(self, generators: Sequence[torch.Generator], step: int, *, probe: bool) -> Any:
        """A batch with an example a generator."""

    def forward(self, batch: Any) -> Tensor:
        """Mean loss of what `sample` gave, in the settings' precision.

        Autocast stands here because DeepSpeed switches off one that is entered outside.
        """
        with autocast(self.settings.machine.precision, self.device):
            return self.compute(batch)

    @abstractmethod
    def compute(self, batch: Any) -> Tensor:
        """The stage's own loss."""

    @abstractmethod
    def picture(
        self, state: Mapping[str, Tensor], cases: Sequence[PreparedCase], manifest: Manifest
    ) -> NDArray[np.uint8]:
        """What a network makes of fixed cases, as a grid `y x` of grey values.

        Args:
            state: of the network, on the CPU.
            cases: with images.
            manifest: of the weights.

        Raises:
            SamplingError: the network's output is not finite.
        """

    def begin_step(self, step: int, ema: Ema) -> None:
        """Called before each optimiser step."""

    def end_step(self) -> None:
        """Called after each optimiser step."""

    def look(self) -> None:
        """Called where the host waits for the device anyway, and before each checkpoint.

        Raises:
            TrainingError: something beside the network went wrong since the last look.
        """

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside the network that a checkpoint must hold."""
        return {}

    def load_extra(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""

    def recompute_activations(self) -> None:
        """Keep fewer activations for the backward pass, at the price of time."""
        checkpoint_activations(self.net, (ResBlock, PseudoAttention))

    def choose_memory_format(self) -> None:
        """Lay the weights out as the device computes fastest; called when they are whole."""

    def finished_state(self, ema: Ema) -> dict[str, Tensor]:
        """The tensors to export."""
        return ema.full_state(self.net)

    def write_beside(self, manifest: Manifest) -> Manifest:
        """Write what the weights need beside `weights_file`; the manifest that tells of it."""
        return manifest

    def record(self) -> dict[str, Any]:
        """What the stage's entry in the manifest says beside its settings."""
        return {}

    def recommended(self, iterations: int) -> dict[str, Any]:
        """Sampling settings that the manifest recommends after so many optimiser steps."""
        del iterations
        return {}

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.parameters()).device


def own_settings(settings: TrainSettings, kind: type[C]) -> C:
    """The settings of the stage itself, which are of `kind`."""
    own = settings.stage
    assert isinstance(own, kind), f"stage {own.stage} takes no {kind.__name__}"
    return own
