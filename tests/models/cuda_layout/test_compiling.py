"""Compiling by regions: same numbers, a place on the disk, and no failure that ends a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.cuda_layout import PLAIN_FORMS
from models.cuda_layout.compiling import compiled, keep_on_disk
from models.cuda_layout.norm import FusedNorm, norm_by_rows

Region = Callable[..., torch.Tensor]


def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


def test_what_cannot_be_compiled_is_computed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[bool] = []

    def broken(function: Region, dynamic: bool) -> Region:
        def fail(*_: object) -> torch.Tensor:
            calls.append(dynamic)
            raise RuntimeError("no compiler\nand a page of traces")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    region = compiled(halved)
    with caplog.at_level(logging.WARNING):
        assert [float(region(torch.tensor(4.0))) for _ in range(3)] == [2.0, 2.0, 2.0]
    assert calls == [True], "it is not tried again"
    assert [record.getMessage() for record in caplog.records] == [
        "halved goes on uncompiled: no compiler"
    ]


def test_running_out_of_memory_is_no_failure_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: full)
    compiled.cache_clear()
    region = compiled(halved)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            region(torch.tensor(4.0))
    compiled.cache_clear()


def test_compilers_keep_what_they_make_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is restored
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_on_disk()
    assert os.environ["TRITON_CACHE_DIR"] == "elsewhere"
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)


def test_a_home_that_cannot_be_written_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "kept")
    assert not keep_on_disk().is_relative_to(tmp_path)


@torch.inference_mode()
def test_the_form_for_the_compiler_equals_the_plain_one() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 24, 5, 7, generator=draw) * 2 + 3
    x = x.contiguous(memory_format=torch.channels_last)
    norm = FusedNorm(torch.nn.GroupNorm(6, 24), PLAIN_FORMS)
    rows, table = torch.randn(4, 24, generator=draw), torch.randn(2, 24, generator=draw)
    for one, other in ((None, None), (rows, None), (None, table), (rows, table)):
        found = norm_by_rows(x, one, other, norm.weight, norm.bias, 6, norm.eps, True)
        torch.testing.assert_close(found, norm(x, rows=one, table=other))
