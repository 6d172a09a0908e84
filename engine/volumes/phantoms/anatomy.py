"""The anatomy behind the phantoms: organs as signed distance fields and how they are painted.

Used by phantom.py only. Sites, grids and files are unknown here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]
Point = tuple[float, float, float]

SPLEEN, KIDNEY_RIGHT, KIDNEY_LEFT, LIVER, PANCREAS = 1, 2, 3, 5, 7
AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU = -1000.0, -820.0, -105.0, 52.0


@dataclass(frozen=True)
class Person:
    """What makes one patient differ from the reference body (unitless unless named)."""

    width: float
    depth: float
    height: float
    waist: float
    waist_z: float
    fat_mm: float
    wall_mm: float
    shift_v: float
    shift_w: float
    warp_mm: float
    liver: float
    spleen: float
    kidney: float
    organ_hu: dict[str, float]
    jitter: dict[str, Point]


@dataclass(frozen=True)
class Frame:
    """Anatomical coordinates (mm) of every voxel, each `z y x`, and the voxel edge."""

    u: Field
    v: Field
    w: Field
    voxel_mm: float

    def ellipsoid(self, centre: Point, radii: Point, tilt: float = 0.0) -> Field:
        """Approximate signed distance to an ellipsoid, `tilt` radians about the w axis."""
        u, v = self.u - centre[0], self.v - centre[1]
        if tilt:
            cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
            u, v = cos * u + sin * v, cos * v - sin * u
        w = self.w - centre[2]
        norm = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2)
        return np.asarray((norm - 1.0) * min(radii), dtype=np.float32)

    def column(self, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
        """Signed distance to an elliptic cylinder along w."""
        norm = np.sqrt(
            ((self.u - centre[0]) / radii[0]) ** 2 + ((self.v - centre[1]) / radii[1]) ** 2
        )
        return np.asarray((norm - 1.0) * min(radii), dtype=np.float32)

    def tube(self, path: list[Point], radius: float) -> Field:
        """Signed distance to a poly-line of the given radius."""
        best = np.full(self.u.shape, np.inf, dtype=np.float32)
        for start, end in pairwise(path):
            step = np.subtract(end, start)
            offset = (self.u - start[0], self.v - start[1], self.w - start[2])
            along = sum(o * s for o, s in zip(offset, step, strict=True)) / float(step @ step)
            along = np.clip(along, 0.0, 1.0)
            gap = sum((o - along * s) ** 2 for o, s in zip(offset, step, strict=True))
            best = np.minimum(best, np.sqrt(gap)).astype(np.float32)
        return np.asarray(best - radius, dtype=np.float32)

    def skin(self, inset_mm: float | Field = 0.0) -> Field:
        """Signed distance to the body surface, moved inwards by `inset_mm`."""
        flat = np.where(self.v < 0, 1.06, 1.0)  # the back is flatter than the belly
        norm = (np.abs(self.u / 160.0) ** 2.3 + np.abs(self.v * flat / 110.0) ** 2.3) ** (1 / 2.3)
        return np.asarray((norm - 1.0) * 125.0 + inset_mm, dtype=np.float32)


def draw_person(rng: np.random.Generator) -> Person:
    """Draw one patient's size, build and organ shapes."""

    def spread(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    names = ("liver", "spleen", "kidney_r", "kidney_l", "pancreas", "stomach")
    jitter = {name: tuple(rng.normal(0.0, 3.0, 3).tolist()) for name in names}
    tissues = ("liver", "spleen", "kidney", "pancreas", "vessel")
    return Person(
        width=spread(0.86, 1.06),
        depth=spread(0.86, 1.08),
        height=spread(0.93, 1.07),
        waist=spread(-0.02, 0.05),
        waist_z=spread(20.0, 60.0),
        fat_mm=spread(7.0, 26.0),
        wall_mm=spread(10.0, 14.0),
        shift_v=spread(-4.0, 4.0),
        shift_w=spread(-10.0, 10.0),
        warp_mm=spread(2.0, 4.0),
        liver=spread(0.92, 1.08),
        spleen=spread(0.85, 1.2),
        kidney=spread(0.9, 1.1),
        organ_hu={name: float(rng.normal(0.0, 3.0)) for name in tissues},
        jitter=jitter,
    )


def enhanced_hu(person: Person, contrast: float) -> dict[str, float]:
    """Mean HU of each tissue at an enhancement of 0 (native) to 1 (portal-venous)."""
    native = {"liver": 58.0, "spleen": 48.0, "kidney": 32.0, "pancreas": 40.0, "vessel": 42.0}
    gain = {"liver": 52.0, "spleen": 70.0, "kidney": 150.0, "pancreas": 58.0, "vessel": 115.0}
    return {k: native[k] + contrast * gain[k] + person.organ_hu[k] for k in native}


def paint(
    frame: Frame, person: Person, contrast: float, rng: np.random.Generator
) -> tuple[Field, Labels]:
    """Paint the whole patient: image in HU without scanner effects, and organ labels."""
    hu = enhanced_hu(person, contrast)
    canvas = _Canvas(frame)
    canvas.cover(frame.skin(), 10.0)
    canvas.cover(frame.skin(2.5), FAT_HU)
    side = np.abs(frame.u) / 160.0
    fat = person.fat_mm * (0.75 + 0.25 * side + 0.35 * (frame.v < -40))
    canvas.cover(frame.skin(fat), MUSCLE_HU)
    cavity = np.maximum(frame.skin(fat + person.wall_mm), -(frame.v + 78.0))
    canvas.cover(cavity, FAT_HU)
    lung = _lungs(frame, cavity)
    _bowel(canvas, cavity, lung, rng)
    _organs(canvas, person, hu, cavity, lung)
    canvas.cover(lung, LUNG_HU)
    _chest(canvas, hu, cavity, lung)
    _skeleton(canvas, person, fat)
    _vessels(canvas, hu)
    return _texture(canvas, rng), canvas.labels


class _Canvas:
    """Painter's algorithm with one-voxel soft edges; the last painter owns the label."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.image: Field = np.full(frame.u.shape, AIR_HU, dtype=np.float32)
        self.labels: Labels = np.zeros(frame.u.shape, dtype=np.uint8)

    def cover(self, distance: Field, hu: float | Field, label: int = 0) -> None:
        """Blend `hu` over everything inside `distance < 0`."""
        alpha = np.clip(0.5 - distance / self.frame.voxel_mm, 0.0, 1.0)
        self.image += alpha * (hu - self.image)
        self.labels[distance < 0] = label


def _lungs(frame: Frame, cavity: Field) -> Field:
    """Lung bases above two diaphragm domes, inside the chest wall, beside the heart."""
    right = 88.0 - 0.0085 * ((frame.u - 72.0) ** 2 + 0.9 * (frame.v - 5.0) ** 2)
    left = 80.0 - 0.0085 * ((frame.u + 78.0) ** 2 + 0.9 * (frame.v - 0.0) ** 2)
    dome = np.maximum(right, left)
    waisted = 30.0 + 0.004 * np.maximum(frame.v + 10.0, 0.0) ** 2
    middle = waisted - np.abs(frame.u + 8.0)
    return np.asarray(np.maximum.reduce([dome - frame.w, cavity + 3.0, middle]), np.float32)


def _bowel(canvas: _Canvas, cavity: Field, lung: Field, rng: np.random.Generator) -> None:
    """Colon at both flanks and small-bowel loops in front, below the stomach."""
    frame = canvas.frame
    for side, top in ((1.0, -28.0), (-1.0, 12.0)):
        colon = frame.ellipsoid((side * 104.0, -4.0, top - 90.0), (19.0, 21.0, 100.0))
        colon = np.maximum(colon, cavity + 2.0)
        canvas.cover(colon, 38.0)
        canvas.cover(colon + 4.0, -25.0)
        canvas.cover(np.maximum(colon + 5.0, 12.0 - (frame.v + 4.0)), -420.0)
    transverse = [
        (98.0, 22.0, -34.0),
        (58.0, 66.0, -26.0),
        (-40.0, 68.0, -14.0),
        (-96.0, 6.0, 12.0),
    ]
    arch = np.maximum(frame.tube(transverse, 15.0), cavity + 3.0)
    canvas.cover(arch, 38.0)
    canvas.cover(arch + 4.0, -10.0)
    canvas.cover(np.maximum(arch + 5.0, 66.0 - frame.v), -520.0)
    for row in range(3):
        for column in range(4):
            centre = (
                -60.0 + 40.0 * column + 12.0 * (row % 2) + rng.normal(0.0, 4.0),
                12.0 + 23.0 * row + rng.normal(0.0, 3.0),
                -84.0 + rng.normal(0.0, 8.0),
            )
            loop = frame.ellipsoid(centre, (21.0, 12.5, 54.0), tilt=float(rng.normal(0.0, 0.35)))
            loop = np.maximum(loop, cavity + 4.0)
            canvas.cover(loop, 40.0)
            canvas.cover(loop + 4.0, 24.0)


def _organs(
    canvas: _Canvas, person: Person, hu: dict[str, float], cavity: Field, lung: Field
) -> None:
    """Stomach, spleen, pancreas, kidneys and liver at their anatomical places."""
    frame, room = canvas.frame, np.maximum(cavity + 1.5, -lung + 2.0)

    def inside(distance: Field) -> Field:
        return np.asarray(np.maximum(distance, room), np.float32)

    at = person.jitter
    stomach = frame.ellipsoid(_moved((-52.0, 32.0, 38.0), at["stomach"]), (44.0, 36.0, 46.0), 0.4)
    canvas.cover(inside(stomach), 48.0)
    canvas.cover(inside(stomach + 5.0), 14.0)
    canvas.cover(np.maximum(inside(stomach + 6.0), 48.0 - frame.v), -700.0)
    _spleen(canvas, person, hu["spleen"], inside)
    head, tail = (
        _moved((34.0, -4.0, -14.0), at["pancreas"]),
        _moved((-84.0, -14.0, 26.0), (0, 0, 0)),
    )
    body = _moved((0.0, 10.0, -2.0), at["pancreas"])
    neck = _moved((-42.0, 4.0, 12.0), at["pancreas"])
    pancreas = np.minimum(
        frame.tube([head, body, neck, tail], 10.5), frame.ellipsoid(head, (17.0, 15.0, 24.0))
    )
    canvas.cover(inside(pancreas), hu["pancreas"], PANCREAS)
    for name, side, low, label in (
        ("kidney_r", 1.0, -22.0, KIDNEY_RIGHT),
        ("kidney_l", -1.0, -12.0, KIDNEY_LEFT),
    ):
        _kidney(
            canvas, person, hu["kidney"], _moved((side * 66.0, -42.0, low), at[name]), side, label
        )
    _liver(canvas, person, hu, inside)


def _spleen(canvas: _Canvas, person: Person, hu: float, inside: object) -> None:
    frame, size = canvas.frame, person.spleen
    centre = _moved((-98.0, -32.0, 44.0), person.jitter["spleen"])
    outer = frame.ellipsoid(centre, (27.0 * size, 44.0 * size, 46.0 * size), tilt=-0.45)
    hollow = frame.ellipsoid(_moved(centre, (34.0, 12.0, 0.0)), (26.0, 34.0, 42.0), tilt=-0.45)
    assert callable(inside)
    canvas.cover(inside(np.maximum(outer, -hollow)), hu, SPLEEN)


def _kidney(
    canvas: _Canvas, person: Person, hu: float, centre: Point, side: float, label: int
) -> None:
    """Bean with a fat-filled hilum that looks medially and forwards; medulla darker than cortex."""
    frame, size = canvas.frame, person.kidney
    outer = frame.ellipsoid(centre, (26.0 * size, 23.0 * size, 52.0 * size), tilt=-side * 0.5)
    sinus = frame.ellipsoid(_moved(centre, (-side * 20.0, 8.0, 0.0)), (18.0, 10.0, 22.0))
    bean = np.maximum(outer, -sinus)
    canvas.cover(outer - 7.0 * (outer > 0), FAT_HU)
    canvas.cover(bean, hu, label)
    canvas.cover(bean + 9.0, 0.82 * hu, label)


def _liver(canvas: _Canvas, person: Person, hu: dict[str, float], inside: object) -> None:
    """Right lobe under the dome, left lobe across the midline, vessels and gallbladder."""
    frame, size = canvas.frame, person.liver
    assert callable(inside)
    at = person.jitter["liver"]
    right = frame.ellipsoid(_moved((78.0, 4.0, 38.0), at), (78.0 * size, 88.0 * size, 74.0 * size))
    left = frame.ellipsoid(_moved((4.0, 50.0, 46.0), at), (76.0 * size, 36.0, 44.0 * size))
    under = frame.w * -0.8 - (frame.u - 75.0) * 0.36  # the lower edge rises to the left
    kidney_bed = -frame.ellipsoid((64.0, -44.0, -22.0), (32.0, 30.0, 60.0))
    lobes = np.maximum(np.minimum(right, left), under)
    liver = inside(
        np.maximum.reduce([lobes, kidney_bed, -frame.column((0.0, -40.0), (38.0, 44.0))])
    )
    canvas.cover(liver, hu["liver"], LIVER)
    bright = hu["liver"] + 0.35 * (hu["vessel"] - hu["liver"])
    trunk = [(22.0, -4.0, 26.0), (52.0, 2.0, 36.0), (92.0, -14.0, 40.0)]
    branches = ([(52.0, 2.0, 36.0), (84.0, 34.0, 52.0)], [(26.0, -12.0, 66.0), (78.0, -22.0, 62.0)])
    for path in (trunk, *branches, [(26.0, -12.0, 68.0), (40.0, 38.0, 56.0)]):
        vessel = frame.tube([_moved(point, at) for point in path], 4.2)
        canvas.cover(np.maximum(vessel, liver + 4.0), bright, LIVER)
    canvas.cover(frame.ellipsoid(_moved((58.0, 36.0, -4.0), at), (13.0, 17.0, 19.0)), 12.0)


def _chest(canvas: _Canvas, hu: dict[str, float], cavity: Field, lung: Field) -> None:
    """Heart between the lungs above the diaphragm."""
    heart = canvas.frame.ellipsoid((-22.0, 30.0, 112.0), (46.0, 40.0, 34.0), tilt=0.5)
    canvas.cover(np.maximum(heart, cavity + 4.0), 0.5 * (45.0 + hu["vessel"]))


def _skeleton(canvas: _Canvas, person: Person, fat: Field) -> None:
    """Vertebrae with discs and canal, back and psoas muscles, ribs in the upper wall."""
    frame = canvas.frame
    for side in (1.0, -1.0):
        canvas.cover(frame.column((side * 33.0, -84.0), (28.0, 17.0)), MUSCLE_HU)
        psoas = frame.ellipsoid((side * 36.0, -52.0, -80.0), (17.0, 19.0, 92.0))
        canvas.cover(psoas, MUSCLE_HU + 4.0)
    rhythm = np.cos(2.0 * np.pi * frame.w / 34.0)
    vertebra = frame.column((0.0, -50.0), (23.0, 17.0))
    canvas.cover(vertebra, 300.0)
    canvas.cover(vertebra + 3.0, 175.0)
    canvas.cover(np.maximum(vertebra, (0.88 + rhythm) * 12.0), 85.0)  # discs
    arch = np.maximum(frame.column((0.0, -76.0), (18.0, 13.0)), (-rhythm - 0.5) * 12.0)
    spine = np.maximum(frame.column((0.0, -92.0), (4.0, 14.0)), (0.1 - rhythm) * 12.0)
    process = np.maximum(frame.column((0.0, -66.0), (42.0, 5.0)), (0.55 - rhythm) * 12.0)
    for bone in (process, arch, spine):
        canvas.cover(bone, 290.0)
    canvas.cover(frame.column((0.0, -73.0), (10.0, 8.0)), 25.0)
    middle = frame.skin(fat + 0.55 * person.wall_mm)
    slope = np.cos(2.0 * np.pi * (frame.w + 0.42 * frame.v) / 31.0)
    ribs = np.maximum.reduce([np.abs(middle) - 4.0, (0.55 - slope) * 12.0, 12.0 - frame.w])
    canvas.cover(np.maximum(ribs, 26.0 - np.abs(frame.u)), 320.0)


def _vessels(canvas: _Canvas, hu: dict[str, float]) -> None:
    canvas.cover(canvas.frame.column((-9.0, -22.0), (10.0, 10.0)), hu["vessel"])
    canvas.cover(canvas.frame.column((20.0, -22.0), (12.0, 9.0)), 0.85 * hu["vessel"] + 6.0)


def _texture(canvas: _Canvas, rng: np.random.Generator) -> Field:
    """Parenchymal texture: noise of about 5 mm grain, 5 HU, in soft tissue."""
    grain = gaussian_filter(
        rng.standard_normal(canvas.image.shape).astype(np.float32), 4.0 / canvas.frame.voxel_mm
    )
    soft = (canvas.image > -150.0) & (canvas.image < 250.0)
    return np.asarray(canvas.image + soft * grain * (5.0 / float(grain.std())), dtype=np.float32)


def add_table(image: Field, frame: Frame, kind: str) -> Field:
    """Lay the patient on a `flat` or `curved` table, or on `none`; only air is replaced."""
    if kind == "none":
        return image
    height = -118.0 + (frame.u**2 / 420.0 if kind == "curved" else 0.0)
    plate = np.abs(frame.v - height) - (2.5 if kind == "curved" else 4.0)
    plate = np.maximum(plate, np.abs(frame.u) - 150.0)
    alpha = np.clip(0.5 - plate / frame.voxel_mm, 0.0, 1.0) * (image < -600.0)
    return np.asarray(image + alpha * (-40.0 - image), dtype=np.float32)


def _moved(point: Point, by: Point) -> Point:
    return (point[0] + by[0], point[1] + by[1], point[2] + by[2])
