"""An xformers that does not fit this torch is told in one line, once, and not used."""

import importlib.util
import json
import logging
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from models.denoiser import attention, xformers_fit

BUILT = {"version": {"cuda": 1208, "hip": None, "torch": "2.10.0+cu128", "python": "3.10.19"}}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package xformers that was built for torch 2.10 with CUDA 12.8."""
    spec = ModuleSpec("xformers", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    (tmp_path / "cpp_lib.json").write_text(json.dumps(BUILT))
    xformers_fit.fits.cache_clear()
    attention._xformers_runs.cache_clear()
    yield tmp_path
    xformers_fit.fits.cache_clear()
    attention._xformers_runs.cache_clear()


def this_is(monkeypatch: pytest.MonkeyPatch, version: str, cuda: str | None) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", cuda)


@pytest.mark.parametrize(
    ("version", "cuda", "fit"),
    [
        ("2.10.0+cu128", "12.8", True),
        ("2.10.1", "12.8", True),
        ("2.10.0+cu130", "13.0", False),
        ("2.11.0+cu128", "12.8", False),
        ("2.1.0", "12.8", False),
    ],
)
def test_a_mismatch_is_told_once(
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    cuda: str,
    fit: bool,
) -> None:
    this_is(monkeypatch, version, cuda)
    assert xformers_fit.fits() is fit
    if fit:
        assert not caplog.text
        return
    assert not attention._xformers_runs(64, torch.float16, 0)
    assert not attention._xformers_runs(32, torch.float16, 0)
    (told,) = caplog.messages
    assert "is built for torch 2.10 with CUDA 12.8, and this is torch 2." in told
    assert "torch's own attention is used" in told
    logging.getLogger("xformers").warning("seven lines")
    assert len(caplog.messages) == 1, "what it says itself is dropped"


def test_beside_a_cpu_build_nothing_is_told(
    installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    this_is(monkeypatch, "2.13.0+cpu", None)
    assert not xformers_fit.fits()
    assert not caplog.text


@pytest.mark.parametrize("note", ["", "{}", '{"version": {"torch": "2.10", "cuda": null}}'])
def test_one_that_does_not_say_is_tried(installed: Path, note: str) -> None:
    (installed / "cpp_lib.json").write_text(note)
    assert xformers_fit.fits()


def test_without_xformers_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    xformers_fit.fits.cache_clear()
    assert not xformers_fit.fits()
    xformers_fit.fits.cache_clear()
    assert not caplog.text
