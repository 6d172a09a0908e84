"""Golden layouts: the keys, types and numbers of a run's files that later code must give again.

They stand in `layouts.json`; `GEM3D_RECORD_GOLDEN=1` writes them anew (see `compare.py`).
"""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

_LAYOUTS = Path(__file__).parent / "layouts.json"
_TOLERANCE = 0.02  # of an intensity in HU; ratios have their own below
_RATIO_TOLERANCE = 1e-3
_VOLATILE = frozenset(
    [
        "seconds",
        "wall_s",
        "stage_s",
        "timings_s",
        "peak_memory_mb",
        "committed_at",
        "code",
        "config_sha256",
        "digest",
        "files",
        "row_sha256",
        "weights_sha256",
    ]
)
"""Keys whose values differ from one run to the next; only their types are kept."""


def check_layout(name: str, found: Any) -> None:
    """Compare a JSON-like value with the one kept under a name, or keep it when recording."""
    known = json.loads(_LAYOUTS.read_text()) if _LAYOUTS.exists() else {}
    if os.environ.get("GEM3D_RECORD_GOLDEN"):
        known[name] = found
        _LAYOUTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    assert name in known, f"{name} was never recorded"
    _compare(found, known[name], name)


def layout_of(value: Any) -> Any:
    """A JSON-like value whose volatile parts are replaced by the names of their types."""
    if isinstance(value, dict):
        return {
            key: _types(below) if key in _VOLATILE else layout_of(below)
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [layout_of(below) for below in value]
    return value


def page_of(page: str) -> list[str]:
    """The texts of a page in order, without styles, pictures, provenance, seconds and code."""
    shown = re.sub(r"<style>.*?</style>|<h2>Provenance.*", "", page, flags=re.DOTALL)
    shown = re.sub(r"<b>[^<]*</b>seconds|<td>[^<]*</td><td[^>]*><code>[^<]*", "", shown)
    texts = [" ".join(html.unescape(text).split()) for text in re.split(r"<[^>]*>", shown)]
    return [text for text in texts if text]


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_types(below) for below in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def _compare(found: Any, known: Any, where: str) -> None:
    if isinstance(known, dict):
        assert isinstance(found, dict), where
        assert sorted(found) == sorted(known), where
        for key in known:
            _compare(found[key], known[key], f"{where}.{key}")
    elif isinstance(known, list):
        assert isinstance(found, list), where
        assert len(found) == len(known), where
        for n, (one, other) in enumerate(zip(found, known, strict=True)):
            _compare(one, other, f"{where}[{n}]")
    elif isinstance(known, float):
        margin = _RATIO_TOLERANCE if abs(known) < 2.0 else _TOLERANCE
        assert found == pytest.approx(known, abs=margin), where
    else:
        assert found == known, where
