"""Kernel inception distance: unbiased where samples are few, which FID is not.

KID: Binkowski et al., arXiv:1801.01401, the unbiased squared MMD with the kernel
(x.y / c + 1)^3. Pure functions on arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

Features = NDArray[np.float64]

SUBSET_SIZE = 1000
NUM_SUBSETS = 50


def kernel_distance(a: Features, b: Features, seed: int = 0) -> float:
    """KID of `n c` and `m c` features; may be slightly below 0.

    With no more than `SUBSET_SIZE` vectors on both sides it is taken of all of them at once; else
    it is the mean over `NUM_SUBSETS` random subsets.

    Raises:
        VolumeError: fewer than two vectors, or other features.
    """
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise VolumeError(
            f"KID of features {a.shape} and {b.shape}: give two or more vectors of the same kind"
        )
    size = min(SUBSET_SIZE, len(a), len(b))
    if max(len(a), len(b)) <= SUBSET_SIZE:
        return _squared_mmd(a, b)
    rng = np.random.default_rng(seed)
    picked = [
        (rng.choice(len(a), size, replace=False), rng.choice(len(b), size, replace=False))
        for _ in range(NUM_SUBSETS)
    ]
    return float(np.mean([_squared_mmd(a[i], b[j]) for i, j in picked]))


def _squared_mmd(a: Features, b: Features) -> float:
    n, m = len(a), len(b)
    within_a, within_b, across = _kernel(a, a), _kernel(b, b), _kernel(a, b)
    same = (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
    same += (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(same - 2.0 * across.mean())


def _kernel(a: Features, b: Features) -> Features:
    inner = np.asarray(a, np.float64) @ b.T / a.shape[1] + 1.0
    return np.asarray(inner * inner * inner)
