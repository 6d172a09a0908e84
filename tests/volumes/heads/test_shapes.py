"""Other shapes of a head: different enough, still a head, and the same for the same generator."""

import numpy as np

from engine.volumes.heads.fields import stream
from engine.volumes.heads.shapes import vary_shape
from tests.volumes.heads.small_head import small_anatomy


def test_a_varied_shape_is_another_head_with_the_same_tissues() -> None:
    anatomy = small_anatomy()
    first, again, other = (vary_shape(anatomy, stream(1, "shape", "small", n)) for n in (0, 0, 1))
    assert np.array_equal(first.tissues, again.tissues)
    assert not np.array_equal(first.tissues, other.tissues)
    assert set(np.unique(first.tissues)) <= set(np.unique(anatomy.tissues))
    share = [
        np.logical_and(a.brain, anatomy.brain).sum() / anatomy.brain.sum() for a in (first, other)
    ]
    assert all(0.6 < s < 0.999 for s in share), "moved, and not lost"


def test_a_brain_keeps_its_volume_within_the_scaling() -> None:
    anatomy = small_anatomy()
    volumes = [
        vary_shape(anatomy, stream(2, "shape", "small", n)).brain.sum() / anatomy.brain.sum()
        for n in range(6)
    ]
    assert all(0.7 < v < 1.35 for v in volumes)
    assert max(volumes) - min(volumes) > 0.02
