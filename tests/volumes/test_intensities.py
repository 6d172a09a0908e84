"""CT that is not in HU is refused with what it looks like; odd but sound CT passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.appearance.intensities import check_intensities, odd_ct, odd_mr, rescaled
from engine.volumes.phantoms.phantom import make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, PRESETS, PrepareConfig, prepare_case
from engine.volumes.volume import Volume

Change = Callable[[np.ndarray], np.ndarray]
NOISE = np.random.default_rng(0)


@cache
def phantom() -> tuple[Volume, Volume]:
    """Sixteen slices in HU: air of -1000 with noise, nothing below -1024."""
    made = make_phantom(3, 1)
    image, labels = made.image, made.labels
    cut = slice(28, 44)
    return (
        Volume(image.array[cut], image.affine, "image.nii.gz"),
        Volume(labels.array[cut], labels.affine, "mask.nii.gz"),
    )


def corners(array: np.ndarray) -> np.ndarray:
    """Outside the scanner's circle."""
    y, x = np.ogrid[-1 : 1 : array.shape[1] * 1j, -1 : 1 : array.shape[2] * 1j]
    return np.broadcast_to(y * y + x * x > 1, array.shape)


def middle(array: np.ndarray) -> np.ndarray:
    """A crop inside the body: no air at all."""
    _, y, x = (n // 2 for n in array.shape)
    return array[:, y - 12 : y + 12, x - 20 : x + 20]


def with_metal(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[5:8, 40:44, 50:54] = 30000
    return array


def windowed(low: float, high: float, scale: float) -> Change:
    return lambda a: (a - low).clip(0, high - low) / (high - low) * scale


SOUND: dict[str, Change] = {
    "as it is": lambda a: a,
    "float": lambda a: a + NOISE.normal(0, 0.3, a.shape),
    "low dose": lambda a: a + NOISE.normal(0, 60, a.shape),
    "padding -3024": lambda a: np.where(corners(a), -3024, a),
    "padding -2048": lambda a: np.where(corners(a), -2048, a),
    "padding -2000": lambda a: np.where(corners(a), -2000, a),
    "padding -1024": lambda a: np.where(corners(a), -1024, a),
    "padding 0": lambda a: np.where(corners(a), 0, a),
    "metal": with_metal,
    "metal, clipped": lambda a: with_metal(a).clip(-200, None),
    "-200 to 300": lambda a: a.clip(-200, 300),
    "-160 to 240": lambda a: a.clip(-160, 240),
    "-125 to 275": lambda a: a.clip(-125, 275),
    "-57 to 164": lambda a: a.clip(-57, 164),
    "-1000 to 400": lambda a: a.clip(-1000, 400),
    "-500 to 500": lambda a: a.clip(-500, 500),
    "0 to 80": lambda a: a.clip(0, 80),
    "0 to 400": lambda a: a.clip(0, 400),
    "no air": middle,
    "no air, contrast": lambda a: middle(a) + 60,
    "half": lambda a: a[:, :, : a.shape[2] // 2],
    "lungs": lambda a: np.where((a > -150) & (NOISE.random(a.shape) < 0.5), -850, a),
    "air removed": lambda a: np.where(a < -300, -1024, a),
    "masked with 0": lambda a: np.where(a < -300, 0, a),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_ct_passes(name: str) -> None:
    image, _ = phantom()
    array = SOUND[name](image.array).astype(np.float32)
    assert odd_ct(array) is None
    check_intensities(Volume(array, image.affine, "image.nii.gz"), ABDOMEN_CT)


ODD: dict[str, tuple[Change, str, int | None]] = {
    "stored values": (lambda a: (a + 1024).clip(0), r"stored values \(HU \+ 1024\)", 1024),
    "stored, signed": (lambda a: a + 1024, r"stored values \(HU \+ 1024\)", 1024),
    "stored, padded": (
        lambda a: np.where(corners(a), -2000, a + 1024),
        r"stored values \(HU \+ 1024\)",
        1024,
    ),
    "stored, 0 in the corners": (
        lambda a: np.where(corners(a), 0, a + 1024),
        r"stored values \(HU \+ 1024\)",
        1024,
    ),
    "plus 1000": (lambda a: a + 1000, r"stored values \(HU \+ 1000\)", 1000),
    "plus 8192": (lambda a: a + 8192, r"HU \+ 8192", 8192),
    "plus 32768": (lambda a: a + 32768, r"HU \+ 32768", 32768),
    "intercept twice": (lambda a: a - 1024, "intercept applied twice", -1024),
    # 1000 or 1024? where air is clipped to 0, only the DICOM header knows
    "plus 1000, clipped": (lambda a: (a + 1000).clip(0), r"HU \+\d+ or so", None),
    "stored, air removed": (
        lambda a: np.where(a < -300, 0, a + 1024),
        r"HU \+\d+ or so|as dark as",
        None,
    ),
    "stored, no air": (lambda a: middle(a) + 1024, r"HU \+ 1000 or so", None),
    "stored, half slope": (lambda a: (a + 1024).clip(0) / 2, "nothing is as dark as", None),
    "0 to 255": (windowed(-160, 240, 255), "8-bit", None),
    "0 to 255, whole": (lambda a: windowed(-200, 300, 255)(a).astype(np.uint8), "8-bit", None),
    "0 to 255, wide": (lambda a: windowed(-1000, 1000, 255)(a).round(), "8-bit", None),
    "0 to 1": (windowed(-160, 240, 1), "scaled to 0 to 1", None),
    "0 to 1, wide": (windowed(-1000, 1000, 1), "scaled to 0 to 1", None),
    "-1 to 1": (lambda a: windowed(-160, 240, 2)(a) - 1, "normalized", None),
    "z-scores": (lambda a: (a - a.mean()) / a.std(), "normalized", None),
    "z-scores, metal": (lambda a: (with_metal(a) - a.mean()) / a.std(), "normalized", None),
    "z-scores, 0 outside": (
        lambda a: np.where(a < -300, 0, (a - 20) / 80),
        "normalized",
        None,
    ),
    "thousandths": (lambda a: a / 1000, "normalized", None),
    "0 to 1000": (windowed(-200, 300, 1000), "scaled|as dark as", None),
    "0 to 4095": (windowed(-200, 300, 4095), "scaled|HU", None),
    "0 to 65535": (windowed(-200, 300, 65535), "scaled", None),
    "wrapped": (lambda a: a.astype(np.int16).astype(np.uint16), "unsigned 16 bit", None),
    "absolute": (np.abs, "brighter than the patient", None),
    "inverted": (lambda a: -a, "brighter than the patient", None),
    "MR": (lambda a: (a + 1000).clip(0) ** 2 / 4000 + 15, "as dark as fat or air|HU", None),
}


@pytest.mark.parametrize("name", ODD)
def test_ct_that_is_not_in_hu_is_refused(name: str) -> None:
    image, labels = phantom()
    change, told, offset = ODD[name]
    odd = Volume(change(image.array).astype(np.float32), image.affine, "image.nii.gz")
    finding = odd_ct(odd.array)
    assert finding is not None
    assert finding.offset == offset
    message = rf"image.nii.gz: no CT in HU: .*{told}.*values .*--prepare\.intensities allow"
    with pytest.raises(VolumeError, match=f"(?s){message}".replace(told, f"({told})")) as caught:
        check_intensities(odd, ABDOMEN_CT)
    assert (f"--prepare.rescale 1 {-(offset or 0)} " in str(caught.value)) == (offset is not None)
    if odd.size_zyx == labels.size_zyx:
        with pytest.raises(VolumeError, match="no CT in HU"):
            prepare_case(odd, labels, ABDOMEN_CT, "case")


def test_the_offered_rescale_gives_the_same_case() -> None:
    image, labels = phantom()
    stored = Volume(image.array + 1024, image.affine, "image.nii.gz")
    config = ABDOMEN_CT.model_copy(update={"rescale": (1.0, -1024.0)})
    expected = prepare_case(image, labels, ABDOMEN_CT, "case")
    made = prepare_case(stored, labels, config, "case")
    assert expected.image is not None
    assert made.image is not None
    assert np.array_equal(made.image, expected.image)
    assert np.array_equal(made.mask, expected.mask)
    with pytest.raises(VolumeError, match=r"in HU as stored: prepare it without --prepare.rescale"):
        prepare_case(image, labels, config, "case")


def test_allow_takes_what_is_given() -> None:
    image, labels = phantom()
    stored = Volume(image.array + 1024, image.affine, "image.nii.gz")
    config = ABDOMEN_CT.model_copy(update={"intensities": "allow"})
    assert prepare_case(stored, labels, config, "case").image is not None
    assert check_intensities(stored, config) == ()


def test_what_is_doubtful_is_told() -> None:
    image, _ = phantom()
    percent = Volume(windowed(-160, 240, 100)(image.array), image.affine, "image.nii.gz")
    (note,) = check_intensities(percent, ABDOMEN_CT)
    assert "no voxel is darker than 0 (values to 100)" in note
    assert check_intensities(image, ABDOMEN_CT) == ()


def test_ct_given_as_mr_is_refused_and_mr_is_not() -> None:
    image, labels = phantom()
    config = PRESETS["abdomen_mr"]
    for found in (image.array, image.array.clip(-200, 300), image.array.clip(-1000, 1000)):
        odd = Volume(found, image.affine, "image.nii.gz")
        with pytest.raises(VolumeError, match=r"no MR: looks like CT .*use a CT configuration"):
            prepare_case(odd, labels, config, "case")
    tissue = np.where(image.array > -300, 200 + image.array, 4.0)
    mr = (tissue + NOISE.normal(0, 3, tissue.shape)).astype(np.float32)
    for sound in (
        mr,
        mr - 30,  # ringing
        (mr - mr.mean()) / mr.std(),
        np.where(corners(mr), -1000, mr),
    ):
        assert odd_mr(sound) is None


def test_settings() -> None:
    assert rescaled(phantom()[0], ABDOMEN_CT) is phantom()[0]
    for wrong in ({"rescale": (0.0, 1.0)}, {"rescale": (1.0, -1024.0), "modality": "mr"}):
        with pytest.raises(ValueError, match="rescale makes HU of CT"):
            PrepareConfig(**wrong)


@pytest.mark.real
def test_real_volumes_pass(real_data: Path) -> None:
    from engine.volumes.layouts import find_cases
    from engine.volumes.nifti import read_image

    for folder, preset in (
        ("Dataset002_AbdomenCT", "abdomen_ct"),
        ("Dataset003_AbdomenMR", "abdomen_mr"),
    ):
        for case in find_cases(real_data / folder):
            assert case.image is not None
            assert check_intensities(read_image(case.image), PRESETS[preset]) == ()
