from pathlib import Path

import pytest

from engine.runs.resample import ResampleConfig
from tests.runs.fakes import make_data, make_weights


@pytest.fixture
def config(tmp_path: Path) -> ResampleConfig:
    """A run of three small cases."""
    return ResampleConfig(
        data=make_data(tmp_path / "data"),
        weights=make_weights(tmp_path / "weights"),
        out=tmp_path / "run",
        informed=("own",),
    )
