"""Kernels are tried before they are trusted; what fails costs one line of the log and no run."""

from __future__ import annotations

import importlib.util
import logging

import pytest
import torch

from models.cuda_layout import PLAIN_FORMS, FastForms, best_forms, probe

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of capability 9.0 with Triton, whose kernels differ by nothing."""
    probe.kernels_work.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(probe, "_difference", lambda *_: 0.001)
    monkeypatch.setattr(probe, "products_work", lambda *_: False)
    monkeypatch.setattr(probe, "keep_on_disk", lambda: None)


def fails(*_: object) -> float:
    raise RuntimeError("PTX was compiled with an unsupported toolchain\nand more")


def test_kernels_that_work_are_taken() -> None:
    assert best_forms(GPU, torch.float16) == FastForms()
    assert best_forms(GPU, torch.float16, compiled=True).norm == "compiled"
    assert best_forms(torch.device("cpu")) == PLAIN_FORMS


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("difference", fails, "they do not run (RuntimeError: PTX was compiled with an"),
        ("difference", lambda *_: 0.5, "differ from the plain form by 0.5 of the range"),
        ("difference", lambda *_: float("nan"), "differ from the plain form by nan"),
        ("capability", lambda _: (7, 0), "Tesla V100 is older than Triton compiles for"),
        ("triton", lambda _: None, "Triton is not installed"),
    ],
)
def test_what_fails_gets_plain_layers_and_one_line(
    name: str,
    value: object,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place: tuple[object, str] = {
        "difference": (probe, "_difference"),
        "capability": (torch.cuda, "get_device_capability"),
        "triton": (importlib.util, "find_spec"),
    }[name]
    monkeypatch.setattr(*place, value)
    with caplog.at_level(logging.WARNING):
        assert [best_forms(GPU, torch.float16) for _ in range(2)] == [PLAIN_FORMS] * 2
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert message.startswith("plain layers instead of Triton's kernels: ")
    assert why in message
    assert "\n" not in message
