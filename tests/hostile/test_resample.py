"""Bad cases, slices, weights and settings, given to the two resampling jobs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.resample_abdomen as job
import jobs.resample_brain as brain_job
from engine.volumes.nifti import write_nifti
from engine.volumes.prepared.store import read_prepared
from engine.volumes.volume import Volume
from tests.hostile import spoiled
from tests.hostile.room import Attack, Place, attack
from tests.runs.fakes import make_case


def usual(expected: str, *more: str) -> Attack:
    """Sound data, and arguments that are not."""
    return Attack(lambda place: place.usual(*more), expected)


def weights(expected: str, name: str, content: str | bytes) -> Attack:
    """A file of the weights folder with other content."""

    def args(place: Place) -> list[str]:
        place.file(f"{place.weights.name}/{name}", content)
        return place.usual()

    return Attack(args, expected)


def manifest(expected: str, **changes: object) -> Attack:
    """Weights that say something else of themselves."""

    def args(place: Place) -> list[str]:
        _edit_json(place.weights / "config.json", lambda raw: raw.update(changes))
        return place.usual()

    return Attack(args, expected)


def settings(expected: str, text: str, *more: str) -> Attack:
    return Attack(lambda p: [*p.usual(*more), "--config", p.file("mine.yaml", text)], expected)


def fixed(expected: str, *slices: str, make: Callable[[Place], object] = lambda _: None) -> Attack:
    """Informed slices of the user's."""

    def args(place: Place) -> list[str]:
        make(place)
        return place.usual("--informed", "fixed", "--slices", *slices)

    return Attack(args, expected)


def case(expected: str, harm: Callable[[Path], object], *more: str) -> Attack:
    """A prepared case that is damaged; its slice is looked at while planning."""

    def args(place: Place) -> list[str]:
        harm(place.data / "case1.zarr")
        return place.usual("--informed", "own", *more)

    return Attack(args, expected)


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


def _attributes(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda path: _edit_json(path / "zarr.json", lambda raw: edit(raw["attributes"]))


def _tear(path: Path) -> None:
    shard = path / "mask" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-40])


def _replace(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("case2.zarr"), path)


def _listed(expected: str, edit: Callable[[dict[str, Any]], object]) -> Attack:
    """A `dataset.json` beside the prepared cases that was edited."""

    def args(place: Place) -> list[str]:
        _edit_json(place.data / "dataset.json", edit)
        return place.usual()

    return Attack(args, expected)


def _rename(new: str) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["cases"].update({new: raw["cases"].pop("case1")})


def _long_names(place: Place) -> list[str]:
    image, _ = make_case(7)
    for name in ("s" * 100, "t" * 100):
        write_nifti(place.root / f"{name}.nii.gz", image)
    path = place.data / "dataset.json"
    _edit_json(path, _rename("c" * 128))
    (place.data / "case1.zarr").rename(place.data / f"{'c' * 128}.zarr")
    slices = (f"{'s' * 100}.nii.gz", f"{'t' * 100}.nii.gz")
    return place.usual("--informed", "fixed", "--slices", *slices, "--gate.policy", "off")


def _mr(place: Place) -> None:
    image, _ = make_case(7)
    write_nifti(place.root / "mr.nii.gz", Volume(np.abs(image.array), image.affine, "mr"))


def _twins(place: Place) -> None:
    image, _ = make_case(7)
    for folder in "ab":
        (place.root / folder).mkdir()
        write_nifti(place.root / folder / "ref.nii.gz", image)


def _flat(place: Place) -> None:
    place.file("flat.nii.gz", spoiled.zipped(spoiled.nifti(np.zeros((14, 14), np.float32))))


def _tensors(offset: int) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, offset]}}


ATTACKS = {
    "no data": Attack(lambda p: [*p.usual(), "--data", "gone"], "^error: data: .*gone is not a"),
    "case with a path": usual(r"cases \['\.\./\.\./etc'\] are not", "--cases", "../../etc"),
    "no weights": usual("weights: .*none is not a folder", "--weights", "none"),
    "out in the data": usual("which the job reads; choose", "--out", "data/run"),
    "out in the weights": usual("weights/run lies in", "--out", "weights/run"),
    "python object": settings("python/object/new", "!!python/object/new:os.system ['true']"),
    "bomb": settings("stands for more than", spoiled.yaml_bomb("cases")),
    "key with an escape": settings(r"`\\x1b\[31mout`: Extra|control character", '"\\e[31mout": 1'),
    "unknown key": settings("`sampling.solvr`: Extra inputs", "sampling: {solvr: ddim}"),
    "wrong type": settings(r"`replicas`: .*valid integer", "replicas: several"),
    "negative seed": settings("`seed`: .*greater than or equal to 0", "seed: -1"),
    "too many replicas": settings("`replicas`: .*less than or equal", "replicas: 1000000000"),
    "pattern without a group": settings("needs a group", "patient_pattern: '^case'"),
    "pattern that is none": settings("no regular expression", "patient_pattern: '((('"),
    "pickle as safetensors": weights(
        "pickles are never read", "denoiser.safetensors", spoiled.pickled()
    ),
    "huge header": weights(
        "not a safetensors file .*HeaderTooLarge|header too large",
        "denoiser.safetensors",
        spoiled.safetensors({}, length=2**62),
    ),
    "offsets beyond the file": weights(
        "autoencoder.safetensors: not a safetensors file",
        "autoencoder.safetensors",
        spoiled.safetensors(_tensors(2**40)),
    ),
    "foreign tensors": weights(
        "made for another architecture",
        "denoiser.safetensors",
        spoiled.safetensors(_tensors(16), bytes(16)),
    ),
    "truncated config": weights("config.json: not a model .*Unterminated", "config.json", '{"pre'),
    "deep config": weights("recursion", "config.json", "[" * 100_000),
    "other classes": manifest("do not fit the weights", class_names=["liver", "spleen", "brain"]),
    "other modality": manifest("prepared as ct, but .* trained on mr", modality="mr"),
    "other spacing": manifest("pixels of 3 mm, but .* trained on 1.5 mm", spacing_mm_yx=1.5),
    "slice outside": fixed("'case0:99': the case has slices 0 to 11", "case0:99"),
    "negative slice": fixed("'case0:-1': neither a case", "case0:-1"),
    "superscript slice": fixed("'case0:²': neither a case", "case0:²"),
    "slice of no case": fixed("'../case0:3': neither a case", "../case0:3"),
    "slice of another modality": fixed("no CT in HU", "mr.nii.gz", make=_mr),
    "slice of 2D": fixed("2D .14 x 14.; stack the slices", "flat.nii.gz", make=_flat),
    "slice file missing": fixed("gone.nii.gz: no such file", "gone.nii.gz:3"),
    "slices of one name": fixed("have one name", "a/ref.nii.gz", "b/ref.nii.gz", make=_twins),
    "torn chunk": case("case1.zarr: .*damaged", _tear),
    "missing attribute": case("KeyError: 'native'", _attributes(lambda a: a.pop("native"))),
    "foreign zarr": case("not a prepared case", _attributes(lambda a: a.update(format="x"))),
    "another case's zarr": case("case1.zarr: holds the case 'case2'", _replace),
    "case gone": case("case1.zarr: not there", shutil.rmtree),
    "case id with a path": _listed(r"case id '\.\./case1' is refused", _rename("../case1")),
    "dataset.json cut": _listed("dataset.json: damaged or of another", lambda r: r.pop("config")),
    "names too long": Attack(_long_names, "a name of 23[0-9] characters is too long"),
}
BRAIN = {
    "abdomens": Attack(lambda p: p.usual(), "prepared without the brain contour"),
    "no data": Attack(lambda p: p.usual(data=False), "no data; give --data FOLDER, prepared with"),
    "slices without fixed": Attack(
        lambda p: p.usual("--slices", "case0:3"), "informed fixed and slices belong together"
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_resample_abdomen(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    attack(job.main, ATTACKS[name], place, capsys)
    assert not (place.root / "executed").exists()


@pytest.mark.parametrize("name", BRAIN)
def test_resample_brain(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    attack(brain_job.main, BRAIN[name], place, capsys)


def test_a_slice_of_a_refused_start_is_not_kept(place: Place) -> None:
    """A file that was corrected after a refusal counts, not what was read of it before."""
    image, _ = make_case(7)
    path = place.root / "ref.nii.gz"
    args = place.usual("--informed", "fixed", "--slices", "ref.nii.gz", "--gate.policy", "off")
    write_nifti(path, image)
    good = (place.weights / "config.json").read_bytes()
    (place.weights / "config.json").write_text("{}")
    assert job.main(args) == 2
    (place.weights / "config.json").write_bytes(good)
    write_nifti(path, Volume(image.array + 60, image.affine, "brighter"))
    assert job.main(args) == 0
    kept = read_prepared(place.out / "informed" / "ref.zarr").image
    assert kept is not None
    body = kept[len(kept) // 2][kept[len(kept) // 2] > -0.9]
    assert np.median(body) == pytest.approx((60 + 200) / 250 - 1, abs=0.1), "60 HU, not 0"
