"""What a GPU computes of all voxels is what NumPy computes; torch's CPU stands for the GPU."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.evaluation.measures import measure_volume
from engine.evaluation.subject import Subject
from engine.evaluation.values import Value, VolumeMeasures
from engine.runs.making.voxels import work as voxel_work
from engine.runs.making.voxels.on_gpu import beside_sampling, regridder
from engine.runs.making.voxels.subjects import subject_of
from engine.runs.making.voxels.work import VoxelWork
from engine.volumes.geometry.grids import AxisMap
from engine.volumes.prepared.grid_loss import model_mask
from engine.volumes.prepared.prepare import regrid_source, to_native
from engine.volumes.prepared.store import array_digest
from engine.volumes.volume import IntensityWindow, NativeGrid, PreparedCase

SIZE = (35, 112, 120)
JOINS = (4, 16, 19, 33)


@pytest.fixture(scope="module")
def case() -> PreparedCase:
    """Three classes, one of a single voxel and one absent; its scan has finer pixels."""
    rng = np.random.default_rng(3)
    z, y, x = np.mgrid[: SIZE[0], : SIZE[1], : SIZE[2]]
    mask = (((y - 60) / 40) ** 2 + ((x - 58) / 50) ** 2 < 1).astype(np.uint8)
    mask[(y - 50) ** 2 + (x - 40) ** 2 + 4 * (z - 17) ** 2 < 200] = 2
    mask[5, 60, 60] = 3
    image = np.tanh(mask - 1 + 0.4 * rng.normal(size=SIZE)).astype(np.float32)
    image[:, :3] = -1.0
    native = (*SIZE[:1], 130, 150)
    affine = np.diag([-0.7, -0.8, 3.0, 1.0])
    affine[:3, 3] = (50.0, 60.0, -10.0)
    prepared = np.diag([0.9, 0.9, 3.0, 1.0])
    prepared[:3, 3] = (-55.0, -45.0, -10.0)
    return PreparedCase(
        case_id="c",
        image=image,
        mask=mask,
        affine=prepared,
        native=NativeGrid(affine, native, b""),
        native_mask=rng.integers(0, 3, native, dtype=np.uint8),
        intensity=IntensityWindow(-200.0, 300.0, "HU", -1024.0),
        num_classes=4,
        class_names=("body", "liver", "node", "absent"),
        contour="body",
    )


@pytest.fixture(scope="module")
def made(case: PreparedCase) -> np.ndarray:
    assert case.image is not None
    noise = np.random.default_rng(4).normal(size=SIZE)
    return np.clip(0.8 * case.image + 0.1 + 0.1 * noise, -1, 1).astype(np.float32)


def both(case: PreparedCase, image: np.ndarray, original: PreparedCase) -> list[VolumeMeasures]:
    subjects = [subject_of(case, image, JOINS, original, device) for device in ("", "cpu")]
    assert type(subjects[0]) is Subject is not type(subjects[1])
    with beside_sampling("cpu"):
        return [measure_volume(subject) for subject in subjects]


def numbers(value: Value) -> np.ndarray:
    """All numbers of a measure; what is missing is NaN."""
    if isinstance(value, dict):
        return np.concatenate([np.atleast_1d(one) for one in value.values()] or [np.empty(0)])
    return np.array([np.nan if value is None else value])


def assert_same(one: VolumeMeasures, other: VolumeMeasures) -> None:
    assert one.values.keys() == other.values.keys()
    for name, value in one.values.items():
        if isinstance(value, dict):
            assert value.keys() == other.by_class(name).keys()
        np.testing.assert_allclose(
            numbers(other.values[name]), numbers(value), rtol=1e-4, atol=1e-2, err_msg=name
        )


def test_measures_of_a_device_are_numpys(case: PreparedCase, made: np.ndarray) -> None:
    here, there = both(case, made, case)
    assert_same(here, there)
    for name in ("ms_ssim", "seam_ratio", "seam_ratio_real", "roughness", "roughness_real"):
        assert there.number(name) == pytest.approx(here.number(name), abs=1e-5)
    assert here.values["redrawn"]
    assert set(here.by_class("class_means")) == {"body", "liver", "node"}


def test_measures_of_odd_cases_are_numpys(case: PreparedCase, made: np.ndarray) -> None:
    no_image = replace(case, image=None)
    assert_same(*both(no_image, made, no_image))
    moved = replace(case, mask=np.roll(case.mask, 5, axis=2))
    assert_same(*both(moved, made, case))
    empty = replace(case, mask=np.zeros_like(case.mask))
    assert_same(*both(empty, made, empty))
    flat = np.full_like(made, 0.25)  # all quantiles are equal
    assert_same(*both(case, flat, case))
    masked = replace(case, intensity=IntensityWindow(0.0, 3.0, "a.u.", 0.0, masked=True))
    assert_same(*both(masked, made, masked))


def test_the_way_back_of_a_device_is_numpys(case: PreparedCase, made: np.ndarray) -> None:
    here = to_native(case, made)
    there = to_native(case, made, regridder("cpu"))
    assert there.array.dtype == here.array.dtype == np.float32
    assert there.size_zyx == case.native.size_zyx
    assert (here.array == -1024.0).any(), "the scan is larger than the model's grid"
    np.testing.assert_allclose(there.array, here.array, atol=1e-4 * 500)


def test_whole_steps_are_bit_for_bit_on_a_device(made: np.ndarray) -> None:
    axes = [AxisMap(float(o), 1.0, n, n + 4) for o, n in zip((-2, 0, 3), SIZE, strict=True)]
    weights = [axis.to_canonical() for axis in axes]
    window = IntensityWindow(-200.0, 300.0, "HU", -1024.0)
    here, there = regrid_source(made, window, weights), regridder("cpu")(made, window, weights)
    np.testing.assert_array_equal(there, here)


def test_the_mask_as_seen_is_computed_once(
    case: PreparedCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, count = VoxelWork(), list[PreparedCase]()

    def counted(case: PreparedCase) -> np.ndarray:
        count.append(case)
        return model_mask(case)

    monkeypatch.setattr(voxel_work, "model_mask", counted)
    first = work.seen(case)
    assert work.seen(replace(case, case_id="replica")) is first
    assert first.digest == array_digest(case.mask)
    other = work.seen(replace(case, mask=np.roll(case.mask, 3, axis=1)))
    assert other.digest != first.digest
    drawn = replace(case, native_mask=np.zeros_like(case.native_mask))
    assert set(work.seen(drawn).loss) == set()
    for shift in range(1, 5):
        work.seen(replace(case, mask=np.roll(case.mask, shift, axis=2)))
    assert len(count) == 7
    assert work.seen(case) is not first, "a few masks are kept"


def test_a_full_gpu_gives_the_work_to_the_cpu(
    case: PreparedCase,
    made: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("engine").propagate = True

    def full(_: str) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("engine.runs.making.voxels.on_gpu.beside_sampling", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    work = VoxelWork("cuda")
    for _ in range(2):
        _, measures = work.measure(case, made, JOINS, case)
    assert_same(measures, both(case, made, case)[0])
    np.testing.assert_array_equal(work.to_native(case, made).array, to_native(case, made).array)
    assert caplog.text.count("memory is full") == 1
