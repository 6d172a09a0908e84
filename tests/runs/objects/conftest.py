"""A real S3 server on 127.0.0.1, and a finished run in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from engine.runs.record.folder import RunFolder
from engine.storage.objects.path import ObjectPath
from s3_server import CREDENTIALS, S3Server
from tests.runs.fakes import make_data
from tests.runs.objects.store_runs import RUN, lead_to, make, plan

FINISHED: dict[str, bytes] = {}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An empty bucket, and an environment that leads to it."""
    server.reset()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GEM3D_STORE_PATIENCE_S", "3")
    lead_to(server.port, monkeypatch)
    return server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("objects") / "data")


@pytest.fixture
def folder(s3: S3Server, data: Path) -> RunFolder:
    """A finished run of three volumes; made once, then put back."""
    root = ObjectPath(RUN)
    folder = RunFolder(root)
    if not FINISHED:
        plan(folder)
        assert make(folder, data) == ["committed"] * 3
        FINISHED.update({f"{RUN}/{n}": (root / n).read_bytes() for n in root.sizes()})
    fsspec.filesystem("s3", use_listings_cache=False).pipe(FINISHED)
    return folder
