"""A small artificial patient, and what can be wrong with a volume of it: for tests of measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]

SIZE_ZYX = (32, 64, 64)
NAMES = ("organ", "vessel", "body")
MEANS = np.array([-1.0, 0.3, 0.7, -0.1])
TEXTURE = 0.08


def anatomy(patient: int) -> NDArray[np.uint8]:
    """Class numbers, `z y x`: 3 is the body, 1 an organ that is larger below, 2 a vessel above."""
    rng = np.random.default_rng(patient)
    z, y, x = np.mgrid[: SIZE_ZYX[0], : SIZE_ZYX[1], : SIZE_ZYX[2]].astype(float)
    cy, cx = 32 + rng.uniform(-4, 4, 2)
    ry, rx = rng.uniform(20, 28, 2)
    mask = np.zeros(SIZE_ZYX, np.uint8)
    mask[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = 3
    organ = ((y - cy + 5) ** 2 + (x - cx + 8) ** 2 < (11 - z / 5) ** 2) & (mask == 3)
    vessel = ((y - cy - 6) ** 2 + (x - cx - 8 + z / 8) ** 2 < 20) & (z > 8) & (mask == 3)
    mask[organ] = 1
    mask[vessel] = 2
    return mask


def scan(patient: int, draw: int = 0) -> Image:
    """An image of the patient in [-1, 1]; another draw has other texture."""
    mask = anatomy(patient)
    rng = np.random.default_rng((patient, draw, 7))
    texture = ndimage.gaussian_filter(rng.normal(size=SIZE_ZYX), 0.7)
    texture *= TEXTURE / texture.std()
    image = ndimage.gaussian_filter(MEANS[mask], 0.5) + np.where(mask > 0, texture, 0.0)
    return np.asarray(np.clip(image, -1, 1), np.float32)


def painted(image: Image, mask: NDArray[np.uint8], z: int = 16) -> Image:
    """Each class has its mean in one slice; here every class is in slice 16."""
    means = np.array([image[z][mask[z] == k].mean() for k in range(4)], np.float32)
    return means[mask]


def shuffled(image: Image) -> Image:
    return image[np.random.default_rng(3).permutation(len(image))]


def with_seams(image: Image, joins: tuple[int, ...] = (8, 16, 24)) -> Image:
    """Windows that differ in brightness."""
    steps = np.zeros(len(image), np.float32)
    for number, z in enumerate(joins):
        steps[z:] += 0.1 * (-1) ** number
    return np.clip(np.where(image > -0.95, image + steps[:, None, None], image), -1, 1)


def noisy(image: Image) -> Image:
    noise = np.random.default_rng(5).normal(scale=0.15, size=image.shape)
    return np.clip(np.where(image > -0.95, image + noise, image), -1, 1).astype(np.float32)


DEGRADED: dict[str, Callable[[Image, NDArray[np.uint8]], Image]] = {
    "blurred": lambda i, m: ndimage.gaussian_filter(i, (0, 1.5, 1.5)),
    "noisy": lambda i, m: noisy(i),
    "shuffled": lambda i, m: shuffled(i),
    "seams": lambda i, m: with_seams(i),
    "other patient": lambda i, m: scan(2),
    "painted": painted,
    "upside down": lambda i, m: np.ascontiguousarray(i[::-1]),
    "repeated slice": lambda i, m: np.repeat(i[16:17], len(i), 0),
}
"""What can be wrong with the volume of patient 1, by name."""


def degraded(name: str) -> Image:
    """A volume that is wrong in one way."""
    return DEGRADED[name](scan(1), anatomy(1))
