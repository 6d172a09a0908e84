"""The axes say where they run: on every orientation, and as nibabel's axis codes."""

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import zarr
from scipy.spatial.transform import Rotation

from engine.runs.making.ome import ome_faults
from engine.volumes.geometry.directions import axis_directions, ome_axes
from engine.volumes.store import write_ome_zarr
from engine.volumes.volume import Volume

FROM = {"R": "left", "L": "right", "A": "posterior", "P": "anterior", "S": "inferior"}
FROM["I"] = "superior"
TO = {
    "R": "right",
    "L": "left",
    "A": "anterior",
    "P": "posterior",
    "S": "superior",
    "I": "inferior",
}
ALL = [
    (order, signs) for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]
KNOWN = {
    "RAS": ("inferior-to-superior", "posterior-to-anterior", "left-to-right"),
    "LPS": ("inferior-to-superior", "anterior-to-posterior", "right-to-left"),
    "LIA": ("posterior-to-anterior", "superior-to-inferior", "right-to-left"),
}


def affine_of(codes: str) -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for axis, code in enumerate(codes):
        world = next(w for w, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[world, axis] = 1.5 if code in "RAS" else -1.5
    return affine


@pytest.mark.parametrize("codes", KNOWN)
def test_well_known_orientations(codes: str) -> None:
    assert axis_directions(affine_of(codes)) == KNOWN[codes]


@pytest.mark.parametrize(("order", "signs"), ALL)
def test_every_orientation_is_what_nibabel_says(
    order: tuple[int, ...], signs: tuple[float, ...]
) -> None:
    turn = Rotation.from_euler("xyz", (14.0, -11.0, 17.0), degrees=True).as_matrix()
    straight = np.eye(4)
    straight[:3, :3] = np.eye(3)[:, order] * signs * (0.7, 0.8, 5.0)
    oblique = np.eye(4)
    oblique[:3, :3] = turn @ straight[:3, :3]
    for affine in (straight, oblique):
        codes = nib.aff2axcodes(affine)
        expected = tuple(f"{FROM[c]}-to-{TO[c]}" for c in reversed(codes))
        assert axis_directions(affine) == expected


def test_a_grid_turned_by_45_degrees_names_each_direction_once() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (45, 45, 45), degrees=True).as_matrix()
    ends = [set(name.split("-to-")) for name in axis_directions(affine)]
    assert {frozenset(end) for end in ends} == {
        frozenset({"left", "right"}),
        frozenset({"anterior", "posterior"}),
        frozenset({"superior", "inferior"}),
    }


@pytest.mark.parametrize("codes", KNOWN)
def test_image_and_mask_carry_it_and_readers_take_it(tmp_path: Path, codes: str) -> None:
    path = tmp_path / "a.ome.zarr"
    affine = affine_of(codes)
    image = Volume(np.zeros((3, 4, 5), np.float32), affine, "case")
    write_ome_zarr(path, image, Volume(np.ones((3, 4, 5), np.uint8), affine, "case"), {})
    for name in ("", "labels/mask"):
        ome = json.loads((path / name / "zarr.json").read_text())["attributes"]["ome"]
        axes = ome["multiscales"][0]["axes"]
        assert [axis["orientation"]["type"] for axis in axes] == ["anatomical"] * 3
        assert tuple(axis["orientation"]["value"] for axis in axes) == KNOWN[codes]
    assert list(ome_faults(path)) == []
    models = pytest.importorskip("ome_zarr_models.v05")
    models.Image.from_zarr(zarr.open_group(str(path), mode="r"))
    models.ImageLabel.from_zarr(zarr.open_group(str(path / "labels" / "mask"), mode="r"))


def edit(path: Path, axes: list[Any] | None, *, affine: object = ()) -> None:
    raw = json.loads((path / "zarr.json").read_text())
    if axes is not None:
        raw["attributes"]["ome"]["multiscales"][0]["axes"] = axes
    if affine != ():
        raw["attributes"]["affine"] = affine
    (path / "zarr.json").write_text(json.dumps(raw))


def test_an_orientation_that_the_affine_denies_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    affine = affine_of("LPS")
    image = Volume(np.zeros((3, 4, 5), np.float32), affine, "case")
    write_ome_zarr(path, image, Volume(np.ones((3, 4, 5), np.uint8), affine, "case"), {})
    other = ome_axes(affine_of("RAS"))
    edit(path / "labels" / "mask", other)
    (fault,) = ome_faults(path)
    assert fault == "labels/mask/zarr.json: the axes' orientation is not that of the image's affine"
    edit(path, other)
    assert len(list(ome_faults(path))) == 2
    for broken in (None, "x", [[1, 0], [0, 1]], [["x"] * 4] * 4, [[0.0] * 4] * 4):
        edit(path, None, affine=broken)
        assert any("no affine" in fault for fault in ome_faults(path))
    edit(path, ome_axes(None))
    edit(path / "labels" / "mask", ome_axes(None))
    assert list(ome_faults(path)) == [], "volumes of early versions have no orientation"
