"""Golden values: numbers of an earlier code that later code must give again.

They stand in `values.json`. `GEM3D_RECORD_GOLDEN=1 pytest tests/golden` writes them anew: do that
only where a change of the numbers is meant, and say so in the commit.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_VALUES = Path(__file__).parent / "values.json"
_BLOCKS = (3, 4, 4)


def check_golden(name: str, found: list[float], tolerance: float) -> None:
    """Compare numbers with those kept under a name, or keep them when recording."""
    known = json.loads(_VALUES.read_text()) if _VALUES.exists() else {}
    if os.environ.get("GEM3D_RECORD_GOLDEN"):
        known[name] = [round(value, 7) for value in found]
        lines = [f" {json.dumps(key)}: {json.dumps(known[key])}" for key in sorted(known)]
        _VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    assert name in known, f"{name} was never recorded"
    np.testing.assert_allclose(found, known[name], rtol=0, atol=tolerance, err_msg=name)


def signature(image: NDArray[np.float32]) -> list[float]:
    """48 means of blocks of a volume `z y x`, and its mean square: any change shows in them."""
    parts = [np.array_split(np.arange(n), k) for n, k in zip(image.shape, _BLOCKS, strict=True)]
    blocks = [image[np.ix_(z, y, x)].mean(dtype=np.float64) for z in parts[0]
              for y in parts[1] for x in parts[2]]  # fmt: skip
    return [*map(float, blocks), float(np.square(image, dtype=np.float64).mean())]


def seed_of(name: str) -> int:
    """A seed that belongs to a name: weights filled by name do not depend on who is built first."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
