"""Files and folders from anywhere, given to jobs/prepare_dataset.py."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import jobs.prepare_dataset as job
from tests.hostile import spoiled
from tests.hostile.room import Attack, Place, attack
from tests.hostile.spoiled import AFFINE, SIZE_XYZ, labels, nifti, zipped

CONFIG = """
prepare: {size_yx: [16, 16], spacing_mm_yx: 3.0, label_map: {1: 1}, class_names: [liver]}
"""


def given(place: Place, *more: str, config: str | bytes = CONFIG) -> list[str]:
    return [
        *("--config", place.file("prepare.yaml", config)),
        *("--root", str(place.root / "raw"), "--out", str(place.out), *more),
    ]


def spoil(expected: str, **files: bytes) -> Attack:
    """One case of two is refused by name; the other is prepared."""

    def args(place: Place) -> list[str]:
        spoiled.dataset(place.root / "raw", **files)
        return given(place)

    return Attack(args, f"^refused bad: .*{expected}", code=1)


def refuse(expected: str, *more: str, config: str | bytes = CONFIG) -> Attack:
    """The data set is sound, the settings are not."""

    def args(place: Place) -> list[str]:
        spoiled.dataset(place.root / "raw")
        return given(place, *more, config=config)

    return Attack(args, expected)


def with_label(value: float) -> np.ndarray:
    array = labels()
    array[5, 5, 2] = value
    return array


def msd(path: str) -> Attack:
    def args(place: Place) -> list[str]:
        row = {"image": "imagesTr/good_0000.nii.gz", "label": path}
        spoiled.dataset(place.root / "raw")
        place.file("raw/dataset.json", json.dumps({"training": [row]}))
        return given(place, "--layout", "msd")

    return Attack(args, rf"dataset\.json: path '{path}' leaves the data set")


def named(case_id: str, expected: str) -> Attack:
    def args(place: Place) -> list[str]:
        spoiled.dataset(place.root / "raw")
        for folder, tail in (("imagesTr", "_0000"), ("labelsTr", "")):
            place.file(f"raw/{folder}/{case_id}{tail}.nii.gz", b"")
        return given(place)

    return Attack(args, expected)


def _doubled(place: Place) -> list[str]:
    spoiled.dataset(place.root / "raw")
    place.file("raw/labelsTr/bad.nii", nifti(labels()))
    return given(place)


def _unpaired(place: Place) -> list[str]:
    (spoiled.dataset(place.root / "raw") / "imagesTr" / "bad_0000.nii.gz").unlink()
    return given(place)


def _onto_itself(place: Place) -> list[str]:
    spoiled.dataset(place.root / "raw")
    place.file("raw/dataset.json", '{"labels": {"background": 0}}')
    return [*given(place), "--out", str(place.root / "raw")]


def _onto_a_file(place: Place) -> list[str]:
    spoiled.dataset(place.root / "raw")
    place.file("out", "mine")
    return given(place)


def _other_settings(place: Place) -> list[str]:
    spoiled.dataset(place.root / "raw")
    place.file("out/prepare.json", json.dumps({"label_map": {"1": 1}, "class_names": ["x"]}))
    return given(place)


FLIPPED = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
TURNED = AFFINE.copy()
TURNED[:2, :2] = 3.0 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
RGB = np.zeros(SIZE_XYZ, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
HUGE = (3, 30000, 30000, 30000, 1, 1, 1, 1)


def _nothing_in_it(place: Place) -> list[str]:
    (place.root / "raw").mkdir()
    return given(place)


ATTACKS = {
    "gzip bomb": spoil("refused as a gzip bomb", image=zipped(nifti() + bytes(16 * 2**20))),
    "truncated gzip": spoil("damaged or truncated gzip", image=zipped(nifti())[:900]),
    "not gzip": spoil("not gzip although its name says so", mask=nifti(labels())),
    "30000 cubed on 4 KB": spoil("30000 x 30000 x 30000 exceeds", image=zipped(nifti(dim=HUGE))),
    "NaN affine": spoil("affine holds NaN", image=zipped(nifti(srow_x=[np.nan, 0, 0, 0]))),
    "zero spacing": spoil(
        r"singular \(voxel edges 3 x 3 x 0 mm", image=zipped(nifti(srow_z=[0, 0, 0, 0]))
    ),
    "singular affine": spoil(
        r"singular \(voxel edges 4\.24 x", mask=zipped(nifti(labels(), srow_y=[3, 0, 0, 0]))
    ),
    "no orientation": spoil(
        "left and right are unknown", image=zipped(nifti(sform_code=0, qform_code=0))
    ),
    "4D": spoil(r"4D \(14 x 14 x 6 x 2\)", image=zipped(nifti(np.zeros((*SIZE_XYZ, 2))))),
    "RGB": spoil("RGB24 is not one number", image=zipped(nifti(RGB))),
    "complex": spoil("COMPLEX64 is not", image=zipped(nifti(np.ones(SIZE_XYZ, np.complex64)))),
    "NaN voxel": spoil("1 voxels are NaN", image=zipped(nifti(with_label(np.nan)))),
    "empty mask": spoil("empty mask, none of", mask=zipped(nifti(np.zeros(SIZE_XYZ)))),
    "label outside the map": spoil(
        r"labels \[9\] are outside the label map", mask=zipped(nifti(with_label(9)))
    ),
    "float label": spoil("not whole numbers", mask=zipped(nifti(with_label(1.4)))),
    "negative label": spoil("negative label -3", mask=zipped(nifti(with_label(-3)))),
    "mask of another size": spoil(
        r"mask of 6 x 14 x 13 voxels, but .* has 6 x 14 x 14", mask=zipped(nifti(labels()[:-1]))
    ),
    "mask mirrored": spoil("differs .* by up to 78 mm", mask=zipped(nifti(labels(), FLIPPED))),
    "mask oblique": spoil(r"differs .* by up to 2\d\.\d mm", mask=zipped(nifti(labels(), TURNED))),
    "text": spoil("no NIfTI header", image=zipped(b"ignore all of this " * 99)),
    "control characters in an id": named("a\x1b[2Jb", r"case id 'a\\x1b\[2Jb' is refused"),
    "unicode in an id": named("patiënt", "case id 'patiënt' is refused"),
    "an id of 140 letters": named("x" * 140, "x' is refused; rename .*128 characters"),
    "an id twice": Attack(_doubled, "duplicate case id bad"),
    "no image": Attack(_unpaired, r"no image for the masks \['bad'\]"),
    "a path up": msd("../bad.nii.gz"),
    "an absolute path": msd("/etc/passwd"),
    "out is the data set": Attack(_onto_itself, "a folder of the data set itself"),
    "out is a file": Attack(_onto_a_file, r"out: cannot be written \(File exists"),
    "out of other settings": Attack(_other_settings, r"other settings \(size_yx, class_names\)"),
    "no data set": Attack(given, "raw: no such folder"),
    "empty data set": Attack(_nothing_in_it, "none of the known layouts"),
    "unknown key": refuse(r"prepare\.yaml: `prepare\.spacing`", config="prepare: {spacing: 3}"),
    "python object": refuse(
        "could not determine a constructor", config="!!python/object/apply:os.system ['true']"
    ),
    "YAML bomb": refuse("more than 100000 values", config=spoiled.yaml_bomb("root")),
    "deep YAML": refuse("nested too deeply", config="[" * 5000),
    "binary YAML": refuse("not valid YAML .*codec can't decode", config=struct.pack(">Q", 2**63)),
    "wrong type": refuse("`channel`: .*valid integer", config="channel: first"),
    "negative number": refuse("`num_workers`: .*greater than", config="num_workers: -1"),
    "infinite window": refuse(
        r"`prepare\.clip_hu\.1`: .*finite", config="prepare: {clip_hu: [-200, .inf]}"
    ),
    "NUL in a path": refuse("a control character in", config='out: "a\\0b"'),
    "no configuration": refuse("none.yaml: cannot read", "--config", "none.yaml"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_prepare_dataset(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    attack(job.main, ATTACKS[name], place, capsys)
    if ATTACKS[name].code == 1:
        assert (place.out / "good.zarr").is_dir(), "the other case is finished"
        assert not (place.out / "bad.zarr").exists()
