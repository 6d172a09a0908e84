"""The bench of the whole job: its data, and how commits become seconds a volume."""

import numpy as np
import pytest

from bench_job import steady_s
from engine.volumes.prepared.prepare import to_native
from speed.material import stretched_phantom


def test_the_first_batch_does_not_count() -> None:
    assert steady_s([9.0, 9.1, 12.0, 12.1, 15.0, 15.1], 2) == pytest.approx(1.5)
    assert steady_s([1.0, 3.0], 8) == 2.0


def test_a_stretched_phantom_goes_back_to_its_native_grid() -> None:
    case = stretched_phantom(128, 30)
    assert case.image is not None
    native = to_native(case, case.image)
    assert native.array.shape == case.native_mask.shape == (30, 128, 128)
    body = case.native_mask > 0
    assert np.isfinite(native.array).all()
    assert native.array[body].mean() > native.array[~body].mean() + 100.0  # HU
