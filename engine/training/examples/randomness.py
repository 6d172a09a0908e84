"""Randomness of training as a function of where it is used: seed, purpose, step, example.

An example is the same whichever worker draws it, in whatever batch, after any number of restarts;
so the data order and the state of all random numbers are in a checkpoint when its step is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator_for(*place: int | str) -> torch.Generator:
    """A CPU generator whose numbers depend on `place` only."""
    digest = hashlib.sha256("/".join(str(part) for part in place).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def example_generators(
    seed: int, stage: str, step: int, indices: Sequence[int]
) -> list[torch.Generator]:
    """One generator for each example of a step.

    Args:
        seed: of the training.
        stage: its name.
        step: optimiser step.
        indices: numbers of the examples within the step, over all workers and micro-batches.
    """
    return [generator_for(seed, stage, step, index) for index in indices]


def below(high: int, generator: torch.Generator) -> int:
    """Uniform integer in [0, high)."""
    return int(torch.randint(high, (1,), generator=generator))


def normal(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """`(b m) ...` unit Gaussian; each of the b generators draws its own m rows.

    Args:
        shape: of the whole, its first axis a multiple of the number of generators.
        generators: one an example.
    """
    rows = shape[0] // len(generators)
    return torch.cat([torch.randn(rows, *shape[1:], generator=g) for g in generators])
