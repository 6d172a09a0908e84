"""A small weights folder, and diffusers as an oracle in float64 (oracles.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers.schedulers as schedulers
import numpy as np
import pytest
import torch

from tests.sampling.tiny_model import write_tiny

MODULES = (
    schedulers.scheduling_ddpm,
    schedulers.scheduling_ddim,
    schedulers.scheduling_dpmsolver_multistep,
    schedulers.scheduling_unipc_multistep,
    schedulers.scheduling_flow_match_euler_discrete,
    schedulers.scheduling_flow_match_heun_discrete,
)


class Doubled:
    """A module in which float32 is float64."""

    def __init__(self, module: Any) -> None:
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of the tiny model; read only."""
    return write_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let diffusers compute in float64 as long as the test runs."""
    for module in MODULES:
        monkeypatch.setattr(module, "torch", Doubled(torch))
        if hasattr(module, "np"):
            monkeypatch.setattr(module, "np", Doubled(np))
    yield
