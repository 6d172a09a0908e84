"""Jobs in this process: rows one after the other, a fake sampler, and a Ray that tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import engine.preparing.dataset as prepare_module
from engine.parallel.rows.pipeline import Pool, Row
from engine.parallel.start.session import RaySession
from engine.runs.jobs import working
from engine.runs.making.worker import ResampleWorker
from tests.hostile.room import Place
from tests.runs.fakes import LoadFake


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A fresh place; the jobs of this test start no process."""
    place = Place(tmp_path)

    def in_turn(
        rows: Sequence[Row], worker: Callable[..., Callable[[Row], Any]], settings: Row, pool: Pool
    ) -> Iterator[Row]:
        is_maker = "task" in settings
        made = ResampleWorker(settings["task"], LoadFake()) if is_maker else worker(**settings)
        yield from (made(dict(row)) for row in rows)

    for module in (working, prepare_module):
        monkeypatch.setattr(module, "run_rows", in_turn)
        monkeypatch.setattr(module, "node_resources", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(RaySession, "start", lambda *_, **__: place.started.append("Ray"))
    monkeypatch.chdir(tmp_path)
    return place
