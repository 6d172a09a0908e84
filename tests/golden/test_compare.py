"""A changed number is seen."""

import json

import numpy as np
import pytest

from tests.golden import compare


def test_a_changed_number_is_seen() -> None:
    name, values = next(iter(json.loads(compare._VALUES.read_text()).items()))
    with pytest.raises(AssertionError):
        compare.check_golden(name, [values[0] + 1e-2, *values[1:]], 1e-3)


def test_a_signature_sees_a_flip_and_a_shift() -> None:
    image = np.random.default_rng(0).normal(size=(9, 12, 12)).astype(np.float32)
    for changed in (image[::-1], image[:, ::-1], image[:, :, ::-1], np.roll(image, 3, axis=2)):
        assert not np.allclose(compare.signature(changed), compare.signature(image), atol=1e-2)
