"""Heads as training data in memory: drawn from label maps by many processes, kept as bytes.

`python benchmarks/head_cases.py pack MAPS OUT` writes the anatomies of label maps as small files,
so that a machine without nibabel can draw from them; `draw PACKED OUT FIRST LAST SEED PROCESSES`
draws cases.
"""

from __future__ import annotations

import lzma
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.volumes.heads.anatomy import Anatomy, list_label_maps, read_anatomy
from engine.volumes.heads.cohort import HeadConfig, make_head
from engine.volumes.heads.fields import stream
from engine.volumes.heads.labels import level_config
from engine.volumes.heads.shapes import vary_shape
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.volume import PreparedCase

SITES = "AAABCD"  # from which a training case's site is drawn
TEST_SEED = 2026


@dataclass(frozen=True)
class Bytes:
    """A prepared case as bytes.

    Attributes:
        name: head, site and number of the draw.
        image: `z y x` uint8, [-1, 1] in 255 steps.
        mask: `z y x` uint8.
    """

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]

    def floats(self) -> NDArray[np.float32]:
        """`z y x` in [-1, 1]."""
        return self.image.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def draw_case(anatomy: Anatomy, number: int, seed: int) -> Bytes:
    """A training case: another shape of a head, with individual, site and texture of its own."""
    rng = stream(seed, "training case", anatomy.name, number)
    site = SITES[int(rng.integers(len(SITES)))]
    shape = vary_shape(anatomy, rng) if number else anatomy
    config = HeadConfig(contrast="t1", site=site)
    return as_bytes(prepared(shape, config, seed, number), f"{anatomy.name}_{site}_{number}")


def test_case(anatomy: Anatomy, draw: int = 0) -> PreparedCase:
    """A test head: T1 of site A, individual 0; another `draw` is its redrawn truth."""
    return prepared(anatomy, HeadConfig(contrast="t1", site="A", draw=draw), TEST_SEED, 0)


def prepared(anatomy: Anatomy, config: HeadConfig, seed: int, individual: int) -> PreparedCase:
    """One head on the model's grid, masks with structures."""
    head = make_head(anatomy, config, seed, individual)
    structures = level_config("structures")
    return prepare_case(head.image, head.labels, structures, head.case_id, head.brain)


def as_bytes(case: PreparedCase, name: str) -> Bytes:
    """A case with an image."""
    assert case.image is not None
    return Bytes(name, np.rint((case.image + 1.0) * 127.5).astype(np.uint8), case.mask)


def draw_cases(packed: Path, numbers: range, seed: int, num_processes: int) -> Iterator[Bytes]:
    """Cases of all training anatomies in turn, in this order; each anatomy once a number."""
    context = get_context("spawn")
    names = [
        path.name.split(".")[0].removeprefix("train_") for path in anatomy_files(packed, "train")
    ]
    tasks = [(name, number, seed) for number in numbers for name in names]
    with ProcessPoolExecutor(num_processes, context, _keep, (packed,)) as pool:
        yield from pool.map(_draw, tasks)


_anatomies: dict[str, Anatomy] = {}


def _keep(packed: Path) -> None:
    _anatomies.update({anatomy.name: anatomy for anatomy in load_anatomies(packed, "train")})


def _draw(task: tuple[str, int, int]) -> Bytes:
    name, number, seed = task
    return draw_case(_anatomies[name], number, seed)


def save_arrays(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Arrays in one small file."""
    staged = path.with_name(f"{path.stem}.part.npz")
    np.savez(staged, **arrays)  # type: ignore[arg-type]
    path.write_bytes(lzma.compress(staged.read_bytes(), preset=6))
    staged.unlink()


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """What `save_arrays` wrote."""
    import io

    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as found:
        return {name: found[name] for name in found.files}


def pack_anatomies(maps: Path, out: Path) -> None:
    """One file an anatomy: tissue numbers, 128 added inside the brain."""
    for file in list_label_maps(maps):
        a = read_anatomy(file)
        tissues = a.tissues + np.uint8(128) * a.brain.astype(np.uint8)
        save_arrays(out / f"{file.split}_{a.name}.anatomy.xz", tissues=tissues, affine=a.affine)


def anatomy_files(folder: Path, split: str) -> list[Path]:
    """The files of `pack_anatomies`, by name."""
    return sorted(folder.glob(f"{split}_*.anatomy.xz"))


def load_anatomies(folder: Path, split: str) -> list[Anatomy]:
    """The anatomies of a split, by name."""
    found = []
    for path in anatomy_files(folder, split):
        arrays = load_arrays(path)
        packed = arrays["tissues"].astype(np.uint8)
        name = path.name.split(".")[0].removeprefix(f"{split}_")
        affine = arrays["affine"].astype(np.float64)
        found.append(Anatomy(name, packed & np.uint8(127), packed >= 128, affine))
    return found


def save_case(path: Path, case: Bytes) -> None:
    """One file a drawn case: `.xz` small, `.npz` fast; whole or not there."""
    if path.suffix == ".xz":
        save_arrays(path, image=case.image, mask=case.mask)
        return
    staged = path.with_name(f".{path.name}")
    np.savez(staged, image=case.image, mask=case.mask)
    staged.rename(path)


def load_case(path: Path) -> Bytes:
    """What `save_case` wrote."""
    if path.suffix == ".xz":
        arrays = load_arrays(path)
    else:
        with np.load(path) as found:
            arrays = {name: found[name] for name in found.files}
    image, mask = arrays["image"].astype(np.uint8), arrays["mask"].astype(np.uint8)
    return Bytes(path.name.split(".")[0], image, mask)


def _main() -> None:
    command, *rest = sys.argv[1:]
    if command == "pack":
        pack_anatomies(Path(rest[0]), Path(rest[1]))
        return
    packed, out = Path(rest[0]), Path(rest[1])
    first, last, seed, num_processes = (int(value) for value in rest[2:])
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    for count, case in enumerate(draw_cases(packed, range(first, last), seed, num_processes), 1):
        save_case(out / f"{case.name}.case.npz", case)
        if count % 24 == 0:
            print(f"{count} cases in {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    _main()
