"""Abdominal CT phantoms: an embedded cohort for the demo and the tests, from a seed.

First stop of the data path where no patient's data is at hand. Each phantom is an anatomical
arrangement of signed distance fields (negative inside, mm) on a smoothly deformed body, painted
from back to front with partial-volume edges. A *site* then adds what a scanner adds: contrast
phase, blur, noise and a table. Labels carry TotalSegmentator's numbers (1 spleen, 2 right kidney,
3 left kidney, 5 liver, 7 pancreas), so that the same label map serves phantoms and real cases.

Coordinates: u to the patient's right, v anterior, w superior, in mm of a reference body whose half
axes are 160 (lateral) and 110 (anterior-posterior); every individual is a deformation of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from engine.config import FrozenConfig
from engine.errors import ConfigError
from engine.volumes.phantoms import anatomy as anatomy
from engine.volumes.volume import Volume

Field = NDArray[np.float32]
MAX_FOV_MM = 2000.0
MAX_VOXELS = 2**29  # what the NIfTI reader takes (`read_limits.ReadLimits`)


@dataclass(frozen=True)
class Site:
    """What one hospital's scanner and protocol do to an image.

    Attributes:
        name: shown in reports.
        contrast: range of the enhancement, 0 native to 1 portal-venous.
        noise_hu: standard deviation of the reconstructed noise.
        blur_mm: standard deviation of the reconstruction kernel.
        table: shape of the table below the patient, or "none".
        offset_hu: calibration offset of soft tissue.
    """

    name: str
    contrast: tuple[float, float]
    noise_hu: float
    blur_mm: float
    table: str
    offset_hu: float


SITES: tuple[Site, ...] = (
    Site("A", (0.75, 1.0), 6.0, 1.3, "curved", 0.0),
    Site("B", (0.0, 0.15), 9.0, 1.7, "flat", 4.0),
    Site("C", (0.4, 0.6), 7.5, 1.0, "none", -6.0),
    Site("D", (0.85, 1.0), 8.0, 2.0, "flat", 8.0),
)


class PhantomConfig(FrozenConfig):
    """Grid and anatomy of a phantom cohort.

    Attributes:
        spacing_mm: isotropic voxel edge; 3 mm and finer.
        num_slices: slices at 3 mm; finer grids have proportionally more.
        fov_mm: in-plane field of view, (y, x).
        site: "A".."D" for all cases, or None to deal the sites out in turn.
    """

    spacing_mm: float = 3.0
    num_slices: int = 70
    fov_mm: tuple[float, float] = (288.0, 378.0)
    site: str | None = None


@dataclass(frozen=True)
class Phantom:
    """One artificial patient: image in HU, labels with TotalSegmentator's numbers, RAS+ grid."""

    image: Volume
    labels: Volume
    site: str


def make_phantom(seed: int, index: int, config: PhantomConfig | None = None) -> Phantom:
    """Make patient `index` of the cohort `seed`; the same arguments give the same voxels.

    Args:
        seed: the cohort.
        index: the patient; the site is dealt out by it unless the config names one.
        config: grid and site.

    Raises:
        ConfigError: spacing above 3 mm or not positive, fewer than 8 slices, unknown site.
    """
    config = config or PhantomConfig()
    _check(config)
    rng = np.random.default_rng([seed, index])
    site = _pick_site(config, index)
    person = anatomy.draw_person(rng)
    contrast = float(rng.uniform(*site.contrast))
    body = _place(person, config, rng)
    image, labels = anatomy.paint(body, person, contrast, rng)
    image = _scan(image, body, site, config, rng)
    affine = np.diag([config.spacing_mm] * 3 + [1.0])
    size = np.array(image.shape[::-1], dtype=np.float64)
    affine[:3, 3] = -config.spacing_mm * (size - 1) / 2
    name = f"phantom seed {seed} index {index}"
    return Phantom(
        image=Volume(np.round(image).astype(np.float32), affine, name),
        labels=Volume(labels.astype(np.int32), affine.copy(), name),
        site=site.name,
    )


def _check(config: PhantomConfig) -> None:
    if not 0.0 < config.spacing_mm <= 3.0:
        raise ConfigError(f"phantom spacing {config.spacing_mm} mm; give more than 0 and up to 3")
    if config.num_slices < 8:
        raise ConfigError(f"phantom of {config.num_slices} slices; give at least 8")
    if not all(0 < edge <= MAX_FOV_MM for edge in config.fov_mm):
        raise ConfigError(f"phantom fov_mm {config.fov_mm}; give more than 0, up to {MAX_FOV_MM:g}")
    voxels = config.num_slices * 3.0 * config.fov_mm[0] * config.fov_mm[1] / config.spacing_mm**3
    if voxels > MAX_VOXELS:
        raise ConfigError(
            f"phantom of {voxels:.3g} voxels; give fewer slices or a larger spacing_mm "
            f"({MAX_VOXELS} voxels at most)"
        )
    if config.site is not None and config.site not in {site.name for site in SITES}:
        raise ConfigError(f"phantom site {config.site!r}; choose one of A, B, C, D")


def _pick_site(config: PhantomConfig, index: int) -> Site:
    if config.site is None:
        return SITES[index % len(SITES)]
    return next(site for site in SITES if site.name == config.site)


def _place(
    person: anatomy.Person, config: PhantomConfig, rng: np.random.Generator
) -> anatomy.Frame:
    """Build the deformed anatomical coordinates of every voxel."""
    spacing = config.spacing_mm
    num_z = round(config.num_slices * 3.0 / spacing)
    size = (num_z, round(config.fov_mm[0] / spacing), round(config.fov_mm[1] / spacing))
    axes = [spacing * (np.arange(n, dtype=np.float32) - (n - 1) / 2) for n in size]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    warp = [_smooth_noise(rng, size, cells=4) * person.warp_mm for _ in range(3)]
    waist = 1.0 + person.waist * np.cos((z - person.waist_z) / 70.0)
    u = (x + warp[2]) / (person.width * waist)
    v = (y + person.shift_v + warp[1]) / (person.depth * waist)
    w = (z + person.shift_w + warp[0]) / person.height
    return anatomy.Frame(u.astype(np.float32), v.astype(np.float32), w.astype(np.float32), spacing)


def _smooth_noise(rng: np.random.Generator, size: tuple[int, ...], cells: int) -> Field:
    """Random field with `cells` knots along each axis, about unit standard deviation."""
    knots = rng.standard_normal((cells, cells, cells)).astype(np.float32)
    field = zoom(knots, [n / cells for n in size], order=3, mode="nearest", grid_mode=True)
    return np.asarray(field, dtype=np.float32)


def _scan(
    image: Field, body: anatomy.Frame, site: Site, config: PhantomConfig, rng: np.random.Generator
) -> Field:
    """Blur, noise, offset and table of the site; air is -1000 HU as scanners write it."""
    soft = image > -150.0
    image = image + np.where(soft, site.offset_hu, 0.0).astype(np.float32)
    image = anatomy.add_table(image, body, site.table)
    image = gaussian_filter(image, site.blur_mm / config.spacing_mm)
    grain = gaussian_filter(
        rng.standard_normal(image.shape).astype(np.float32), 1.2 / config.spacing_mm
    )
    image = image + grain * (site.noise_hu / float(grain.std()))
    return np.clip(image, -1024.0, 1500.0).astype(np.float32)
