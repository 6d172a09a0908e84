"""Other shapes of an anatomy: scaled, turned, mirrored and bent, before any image is made.

A dozen label maps are a dozen shapes, and a model that saw each of them a hundred times knows them
by heart. What is bent here is the label map, so that texture and noise of the image stay sharp.
Knows no intensities.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from engine.volumes.heads.anatomy import Anatomy
from engine.volumes.heads.fields import Field, smooth_field

_SCALE = 0.08  # largest change of an edge, as a share
_ROTATION_DEG = 6.0  # largest, about each axis
_BEND_MM = 2.2  # standard deviation of the displacement along each axis
_BEND_SCALE_MM = 18.0  # over which it changes


def vary_shape(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Another shape of the same anatomy, on the same grid.

    Args:
        anatomy: the head.
        rng: draws the shape.
    """
    places = _sources(anatomy.size_zyx, rng)
    if rng.random() < 0.5:
        places[2] = anatomy.size_zyx[2] - 1.0 - places[2]
    tissues = map_coordinates(anatomy.tissues, places, order=0, mode="nearest")
    brain = map_coordinates(anatomy.brain.astype(np.uint8), places, order=0, mode="constant")
    return replace(anatomy, tissues=tissues, brain=brain.astype(np.bool_))


def _sources(size_zyx: tuple[int, int, int], rng: np.random.Generator) -> Field:
    """From which place of the map each voxel takes its tissue, `3 z y x`."""
    matrix = _rotation(rng) * (1.0 + _SCALE * rng.uniform(-1.0, 1.0, 3))
    middle = (np.array(size_zyx, dtype=np.float32) - 1.0) / 2.0
    axes = np.ogrid[tuple(slice(0, size) for size in size_zyx)]
    offsets = [axis.astype(np.float32) - c for axis, c in zip(axes, middle, strict=True)]
    places = np.empty((3, *size_zyx), dtype=np.float32)
    for target, row, centre in zip(places, matrix.astype(np.float32), middle, strict=True):
        target[...] = row[0] * offsets[0] + row[1] * offsets[1] + row[2] * offsets[2] + centre
        target += np.float32(_BEND_MM) * smooth_field(rng, size_zyx, _BEND_SCALE_MM)
    return places


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(rng.uniform(-1.0, 1.0, 3) * math.radians(_ROTATION_DEG)):
        turn = np.eye(3)
        first, second = (i for i in range(3) if i != axis)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix
