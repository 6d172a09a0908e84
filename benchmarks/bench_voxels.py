"""What a worker does of all voxels of one volume beside sampling it, step by step, in seconds.

    python benchmarks/bench_voxels.py                 # 155 slices of 512 px, seconds of CPU
    python benchmarks/bench_voxels.py --device cuda   # measures and the way back on the GPU

A made case (14 organs in a body, a scan with finer pixels than the model's grid) and a made volume:
only sizes matter. The last line is one JSON object. CPU seconds are of all threads of the process.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from engine.runs.making.voxels.stored import as_stored
from engine.runs.making.voxels.work import VoxelWork
from engine.volumes.nifti import fresh_header
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.store import hash_tree, write_ome_zarr
from engine.volumes.volume import IntensityWindow, NativeGrid, PreparedCase, Volume

_ORGANS = 13


@dataclass(frozen=True)
class Options:
    """Settings.

    Attributes:
        size_px: of a slice, on both grids.
        num_slices: of the volume.
        device: where measures and the way back are computed: "cpu" or "cuda".
        rounds: of which the fastest counts; the first warms up.
    """

    size_px: int = 512
    num_slices: int = 155
    device: str = "cpu"
    rounds: int = 1


def made_case(size_px: int, num_slices: int) -> PreparedCase:
    """Organs in a body; the scan has .75 mm pixels, the model's grid .8 mm."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:num_slices, :size_px, :size_px]
    centre = size_px / 2
    body = ((y - centre) / (0.36 * size_px)) ** 2 + ((x - centre) / (0.46 * size_px)) ** 2 < 1
    mask = np.where(body, _ORGANS + 1, 0).astype(np.uint8) + np.zeros_like(z, dtype=np.uint8)
    for number in range(1, _ORGANS + 1):
        at = rng.uniform(0.35, 0.65, 3) * (num_slices, size_px, size_px)
        inside = (y - at[1]) ** 2 + (x - at[2]) ** 2 + 9 * (z - at[0]) ** 2
        mask[(inside < (rng.uniform(0.03, 0.1) * size_px) ** 2) & body] = number
    levels = np.append(-1.0, rng.uniform(-0.5, 0.5, _ORGANS + 1)).astype(np.float32)
    image = levels[mask] + np.float32(0.05) * rng.standard_normal(mask.shape, np.float32)
    native = np.diag([0.75, 0.75, 2.0, 1.0])
    native[:2, 3] = 0.05 * size_px / 2
    grid = NativeGrid(native, mask.shape, fresh_header(Volume(mask, native, "made")))
    return PreparedCase(
        case_id="made",
        image=np.clip(image, -1, 1),
        mask=mask,
        affine=np.diag([0.8, 0.8, 2.0, 1.0]),
        native=grid,
        native_mask=mask.copy(),
        intensity=IntensityWindow(-200.0, 300.0, "HU", -1024.0),
        num_classes=_ORGANS + 1,
        class_names=tuple(f"organ{n}" for n in range(1, _ORGANS + 2)),
        contour=f"organ{_ORGANS + 1}",
    )


def one_round(case: PreparedCase, made: np.ndarray, device: str, place: Path) -> dict[str, float]:
    """CPU and wall seconds of each step."""
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        seconds[f"{name}_cpu_s"] = round(time.process_time() - cpu, 2)
        seconds[f"{name}_s"] = round(time.perf_counter() - wall, 2)

    work = VoxelWork(device)
    write_prepared(place / "made.zarr", case)
    with step("read"):
        read_prepared(place / "made.zarr")
    with step("measure"):
        work.measure(case, made, range(12, len(made) - 1, 12), case)
    with step("way_back"):
        native = work.to_native(case, made)
    with step("mask_as_seen"):
        seen = work.seen(case)
    with step("mask_of_a_replica"):
        work.seen(case)
    mask = Volume(case.native_mask, case.native.affine, "made")
    for stored in ("float32", "int16"):
        kept = as_stored(native, case.intensity, "int16" if stored == "int16" else "float32")
        path = place / f"{stored}.ome.zarr"
        with step(f"write_{stored}"):
            write_ome_zarr(path, kept, mask, {}, None, seen.mask)
        with step(f"hash_{stored}"):
            hash_tree(path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        seconds[f"size_{stored}_mb"] = round(size / 1e6, 1)
    return seconds


def main(options: Options) -> None:
    """Print the fastest of each step."""
    case = made_case(options.size_px, options.num_slices)
    assert case.image is not None
    noise = np.random.default_rng(1).standard_normal(case.image.shape, np.float32)
    made = np.clip(case.image + np.float32(0.03) * noise, -1, 1)
    found = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as place:
            found.append(one_round(case, made, options.device, Path(place)))
    fastest = {name: min(one[name] for one in found) for name in found[0]}
    size = [options.num_slices, options.size_px, options.size_px]
    print(json.dumps({"bench": "voxels", "device": options.device, "size_zyx": size, **fastest}))


if __name__ == "__main__":
    main(tyro.cli(Options))
