"""Spoiled files: NIfTI of every wrong kind, and safetensors that are none."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([3.0, 3.0, 5.0, 1.0])
SIZE_XYZ = (14, 14, 6)
Edit = Callable[[np.ndarray], None]


def labels() -> np.ndarray:
    array = np.zeros(SIZE_XYZ, np.float32)
    array[4:9, 3:11, 1:5] = 1
    return array


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(50, 80, SIZE_XYZ).astype(np.float32)


def nifti(array: np.ndarray | None = None, affine: np.ndarray = AFFINE, **fields: object) -> bytes:
    """An uncompressed file; `fields` overwrite the header's."""
    raw = bytearray(nib.Nifti1Image(image() if array is None else array, affine).to_bytes())
    header = nib.Nifti1Header(binaryblock=bytes(raw[:348]), check=False)
    for key, value in fields.items():
        header.structarr[key] = value
    raw[:348] = header.structarr.tobytes()
    return bytes(raw)


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def dataset(root: Path, **spoiled: bytes) -> Path:
    """A raw data set of the cases `good` and `bad`; `image` or `mask` of `bad` may be given."""
    sound = {"image": zipped(nifti()), "mask": zipped(nifti(labels()))}
    for case_id, files in (("good", sound), ("bad", {**sound, **spoiled})):
        for folder, name, role in (
            ("imagesTr", f"{case_id}_0000.nii.gz", "image"),
            ("labelsTr", f"{case_id}.nii.gz", "mask"),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(files[role])
    return root


def safetensors(header: dict[str, object], data: bytes = b"", length: int | None = None) -> bytes:
    """A file whose header may lie about its own length and about its data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


class Bomb:
    """What runs when a pickle of it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def pickled() -> bytes:
    return pickle.dumps(Bomb())


def yaml_bomb(key: str) -> str:
    """A kilobyte that stands for a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join([*lines, f"{key}: *a8"])
