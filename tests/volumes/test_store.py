"""What is stored comes back bit for bit, or not at all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import StoreError
from engine.volumes.prepared.manifest import (
    PreparedEntry,
    PreparedManifest,
    read_manifest,
    write_manifest,
)
from engine.volumes.prepared.prepare import ABDOMEN_CT, PrepareConfig, prepare_case
from engine.volumes.prepared.store import (
    list_prepared,
    read_prepared,
    read_prepared_mask,
    write_prepared,
)
from engine.volumes.store import hash_tree, read_ome_zarr, write_ome_zarr
from engine.volumes.volume import PreparedCase, Volume

LPS = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 3.0, -5], [0, 0, 0, 1]])


def noise(dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 5, (21, 10, 12)).astype(dtype)


@pytest.fixture
def case() -> PreparedCase:
    config = PrepareConfig(size_yx=(16, 16), spacing_mm_yx=1.5)
    labels = Volume((noise() > 2).astype(np.int32), LPS, "mask")
    return prepare_case(Volume(noise() * 50, LPS, "image"), labels, config, "case")


def pair() -> tuple[Volume, Volume]:
    return Volume(noise(), LPS, "case"), Volume(noise(np.uint8), LPS, "case")


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return a == b


def test_prepared_case_comes_back(tmp_path: Path, case: PreparedCase) -> None:
    write_prepared(tmp_path / "case.zarr", case)
    assert same(read_prepared(tmp_path / "case.zarr"), case)
    assert list_prepared(tmp_path) == ["case"]
    assert not list(tmp_path.glob(".*"))


def test_mask_alone_comes_back(tmp_path: Path, case: PreparedCase) -> None:
    alone = dataclasses.replace(case, image=None)
    write_prepared(tmp_path / "case.zarr", case)
    write_prepared(tmp_path / "case.zarr", alone)  # replaces
    assert read_prepared(tmp_path / "case.zarr").image is None


def test_a_mask_is_read_without_its_image(tmp_path: Path, case: PreparedCase) -> None:
    path = tmp_path / "case.zarr"
    write_prepared(path, case)
    (path / "image" / "c" / "0" / "0" / "0").unlink()
    header, mask = read_prepared_mask(path)
    assert same(mask, case.mask)
    assert (header.size_zyx, header.spacing_mm_zyx) == (case.size_zyx, case.spacing_mm_zyx)
    with pytest.raises(StoreError, match="shard of image is missing"):
        read_prepared(path)
    shard = path / "mask" / "c" / "0" / "0" / "0"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match="damaged"):
        read_prepared_mask(path)


def test_list_of_nothing_is_empty(tmp_path: Path) -> None:
    assert list_prepared(tmp_path / "none") == []


def test_same_case_same_bytes(tmp_path: Path, case: PreparedCase) -> None:
    for name in ("a.zarr", "b.zarr"):
        write_prepared(tmp_path / name, case)
    assert hash_tree(tmp_path / "a.zarr") == hash_tree(tmp_path / "b.zarr")


def shards(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and "c" in p.parts[len(path.parts) :])


@pytest.mark.parametrize("harm", ["delete", "empty", "cut", "flip"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_damaged_prepared_case_is_refused(
    tmp_path: Path, case: PreparedCase, harm: str, index: int
) -> None:
    path = tmp_path / "case.zarr"
    write_prepared(path, case)
    hurt(shards(path)[index], harm)
    with pytest.raises(StoreError, match=r"case.zarr: .*(prepare the case again|make it anew)"):
        read_prepared(path)


@pytest.mark.parametrize("harm", ["delete", "empty", "cut", "flip"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_damaged_volume_is_refused(tmp_path: Path, harm: str, index: int) -> None:
    path = tmp_path / "a.ome.zarr"
    write_ome_zarr(path, *pair(), {})
    assert len(shards(path)) == 3
    hurt(shards(path)[index], harm)
    with pytest.raises(StoreError, match=r"a.ome.zarr: "):
        read_ome_zarr(path)


def hurt(shard: Path, harm: str) -> None:
    data = bytearray(shard.read_bytes())
    if harm == "delete":
        shard.unlink()
    elif harm == "empty":
        shard.write_bytes(b"")
    elif harm == "cut":
        shard.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 3] ^= 0x01
        shard.write_bytes(data)


def test_missing_and_foreign_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not there"):
        read_prepared(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="not there"):
        read_ome_zarr(tmp_path / "none.ome.zarr")
    write_ome_zarr(tmp_path / "a.ome.zarr", *pair(), {})
    with pytest.raises(StoreError, match="not a prepared case"):
        read_prepared(tmp_path / "a.ome.zarr")
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        read_prepared(tmp_path / "b.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no files"):
        hash_tree(tmp_path / "empty")


def test_finished_volume_comes_back(tmp_path: Path) -> None:
    image, mask = pair()
    provenance = {"seed": 7, "weights": "abc", "joins": [3, 9]}
    write_ome_zarr(tmp_path / "a.ome.zarr", image, mask, {"provenance": provenance})
    image_2, mask_2, attrs = read_ome_zarr(tmp_path / "a.ome.zarr")
    assert same(dataclasses.replace(image_2, header=b""), image)
    assert same(dataclasses.replace(mask_2, header=b""), mask)
    assert attrs["provenance"] == provenance
    assert attrs["synthetic"] is True
    assert len(image_2.header) == 348


def test_volume_is_ome_zarr_0_5(tmp_path: Path) -> None:
    """The metadata that the specification demands, read as plain JSON."""
    path = tmp_path / "a.ome.zarr"
    write_ome_zarr(path, *pair(), {})
    root = json.loads((path / "zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    check_multiscale(path, root["attributes"]["ome"], [3.0, 1.5, 1.5])
    labels = json.loads((path / "labels" / "zarr.json").read_text())
    assert labels["attributes"]["ome"] == {"version": "0.5", "labels": ["mask"]}
    label = json.loads((path / "labels" / "mask" / "zarr.json").read_text())["attributes"]["ome"]
    check_multiscale(path / "labels" / "mask", label, [3.0, 1.5, 1.5])
    assert label["image-label"]["source"] == {"image": "../../"}
    header = json.loads((path / "nifti" / "zarr.json").read_text())
    assert (header["shape"], header["data_type"]) == ([348], "uint8")


def check_multiscale(path: Path, ome: dict[str, Any], spacing: list[float]) -> None:
    assert ome["version"] == "0.5"
    (scale,) = ome["multiscales"]
    assert [axis["name"] for axis in scale["axes"]] == ["z", "y", "x"]
    assert {axis["type"] for axis in scale["axes"]} == {"space"}
    assert {axis["unit"] for axis in scale["axes"]} == {"millimeter"}
    (level,) = scale["datasets"]
    (transform,) = level["coordinateTransformations"]
    assert transform["type"] == "scale"
    assert np.allclose(transform["scale"], spacing)
    array = json.loads((path / level["path"] / "zarr.json").read_text())
    assert array["node_type"] == "array"
    assert array["dimension_names"] == ["z", "y", "x"]
    (codec,) = array["codecs"]  # one shard an image, chunks along z, checksums inside
    assert codec["name"] == "sharding_indexed"
    assert codec["configuration"]["chunk_shape"] == [16, 10, 12]
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == [32, 10, 12]
    inner = {c["name"]: c.get("configuration") for c in codec["configuration"]["codecs"]}
    assert inner["zstd"]["checksum"] is True
    assert len(list((path / level["path"] / "c").rglob("*/0"))) >= 1


def test_volume_is_never_overwritten_and_never_half_said(tmp_path: Path) -> None:
    image, mask = pair()
    path = tmp_path / "a.ome.zarr"
    with pytest.raises(StoreError, match=r"attributes \['affine'\] are the store's own"):
        write_ome_zarr(path, image, mask, {"affine": 1})
    with pytest.raises(StoreError, match="differ in size"):
        write_ome_zarr(path, image, Volume(mask.array[1:], LPS, "case"), {})
    assert not path.exists()
    write_ome_zarr(path, image, mask, {})
    with pytest.raises(StoreError, match="exists already"):
        write_ome_zarr(path, image, mask, {})


def test_hashes_name_every_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_ome_zarr(path, *pair(), {})
    before = hash_tree(path)
    assert list(before) == sorted(before)
    assert "labels/mask/0/c/0/0/0" in before
    hurt(path / "0" / "c" / "0" / "0" / "0", "flip")
    changed = {name for name, digest in hash_tree(path).items() if before[name] != digest}
    assert changed == {"0/c/0/0/0"}


def test_unwritable_place_is_refused(tmp_path: Path, case: PreparedCase) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_prepared(tmp_path / "file" / "case.zarr", case)


def test_manifest_comes_back(tmp_path: Path) -> None:
    entry = PreparedEntry(
        dataset="D", split="test", sha256="0", size_zyx=(1, 2, 3), has_image=True, sources={}
    )
    train = entry.model_copy(update={"split": "train"})
    manifest = PreparedManifest(
        config=ABDOMEN_CT,
        class_names=ABDOMEN_CT.all_class_names,
        cases={"b": entry, "a": train},
        failed={"c": "why"},
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.case_ids() == ("a", "b")
    assert manifest.case_ids("test") == ("b",)
    (tmp_path / "dataset.json").write_text('{"format": "x"}')
    with pytest.raises(StoreError, match="damaged or of another version"):
        read_manifest(tmp_path)
    with pytest.raises(StoreError, match="missing; prepare the data set"):
        read_manifest(tmp_path / "none")
