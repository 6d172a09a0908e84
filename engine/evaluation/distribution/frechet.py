"""Frechet distance of two sets of features, from sums that can be added up in any order.

d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))   (Dowson and Landau 1982; FID: Heusel et al.
2017). Pure functions on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over features, which parts of a data set can hand in separately.

    Attributes:
        count: feature vectors.
        total: `c` sum of them.
        outer: `c c` sum of their outer products.
    """

    count: int
    total: Features
    outer: Features

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Of `n c` features."""
        f = np.asarray(features, np.float64)
        return cls(len(f), f.sum(axis=0), f.T @ f)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Features:
        """`c`."""
        return self.total / self.count

    @property
    def covariance(self) -> Features:
        """`c c`, unbiased."""
        mean = self.mean
        return (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared distance, as FID is reported.

    The trace of the root of the product is taken by symmetric eigenvalues, tr((A^1/2 B A^1/2)^1/2),
    which is exact for covariances of fewer vectors than features, too.

    Raises:
        VolumeError: fewer than two vectors, or other features.
    """
    if min(a.count, b.count) < 2 or a.total.shape != b.total.shape:
        raise VolumeError(
            f"Frechet distance of {a.count} and {b.count} vectors of {a.total.shape} and "
            f"{b.total.shape} features: give two or more of the same kind"
        )
    root = _root(a.covariance)
    product = root @ b.covariance @ root
    values = np.linalg.eigvalsh((product + product.T) / 2)
    cross = float(np.sqrt(np.maximum(values, 0.0)).sum())
    apart = float(np.square(a.mean - b.mean).sum())
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    return max(0.0, apart + traces - 2.0 * cross)


def _root(matrix: Features) -> Features:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
