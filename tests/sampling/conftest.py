"""diffusers as an oracle in float64, see oracles.py."""

from collections.abc import Iterator
from typing import Any

import diffusers.schedulers as schedulers
import numpy as np
import pytest
import torch

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


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let diffusers compute in float64 as long as the test runs."""
    for module in MODULES:
        monkeypatch.setattr(module, "torch", Doubled(torch))
        if hasattr(module, "np"):
            monkeypatch.setattr(module, "np", Doubled(np))
    yield
