"""Examples in docstrings are right."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("engine", "models", "cluster")
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_shapes_and_affines_have_examples() -> None:
    shown = {"engine.volumes.geometry.grids", "engine.sampling.propagation.windows"}
    assert {*shown, "engine.sampling.diffusion.schedule"} <= set(MODULES)
