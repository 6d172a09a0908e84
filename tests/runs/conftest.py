from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.runs import generate
from engine.runs.pipeline import Pool, Row
from engine.runs.resample import ResampleConfig
from engine.runs.session import RaySession
from engine.runs.worker import ResampleWorker
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


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs work in this process, one row after the other: for tests of what a job makes."""

    def in_turn(
        rows: Sequence[Row], worker: type[Callable[[Row], Any]], settings: Row, pool: Pool
    ) -> Iterator[Row]:
        made = ResampleWorker(**settings)
        for row in rows:
            yield made(row)

    monkeypatch.setattr(generate, "run_rows", in_turn)
    monkeypatch.setattr(generate, "node_resources", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(RaySession, "start", lambda *_: None)
